// Kernels that are wrong on purpose, each in one way, and one that is right: what the emulation says of them.
#include <cstdio>

#include "cuda/device.cuh"

namespace pyasd {
namespace cuda {

enum Fault { kNone, kNoBarrier, kNoWait, kOutOfBounds, kSharedOutOfBounds, kTwice, kDeadlock, kMixedUp, kDiverged };

struct Args {
  int fault;
  const float* in;  // [64]
  float* out;       // [64], the mirror image of `in` times a sum over the warp of ones
};

PYASD_KERNEL(64, 1) check_kernel(Args args) {
  const int i = int(threadIdx.x);
  float* const shared = reinterpret_cast<float*>(shared_memory());
  if (i % 4 == 0) copy_async(shared + i, args.in + i + (args.fault == kOutOfBounds && i == 60 ? 4 : 0));
  commit_copies();
  if (args.fault != kNoWait) wait_copies<0>();
  if (args.fault == kDeadlock && i == 5) return;
  if (args.fault != kNoBarrier) sync_block();
  if (args.fault == kSharedOutOfBounds) shared[64 + i] = 0;
  const float mirrored = shared[63 - i];
  float ones = 1;
  for (int mask = 1; mask < 32; mask *= 2) {
    if (args.fault == kMixedUp && i == 3) {
      sync_warp();
    } else if (!(args.fault == kDiverged && i >= 60)) {
      ones += shuffle_xor(ones, mask);
    }
  }
  put(args.out + (args.fault == kTwice && i == 7 ? 8 : i), mirrored * ones);
}

}  // namespace cuda
}  // namespace pyasd

extern "C" __attribute__((visibility("default"))) const char* check(int fault, const float* in, float* out) {
  using namespace pyasd::cuda;
  launch(check_kernel, 1, 64, 256, nullptr, Args{fault, in, out});
  return last_error();
}
