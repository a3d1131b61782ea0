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

enum WgmmaFault { kRight, kNoFence, kNotShown, kNotWaited, kFactorChanged, kMatrixChanged, kMisaligned, kHalfATeam };

struct WgmmaArgs {
  int fault;
  const uint16_t* right;  // bfloat16, blocks [6 of columns][2 of rows][8 columns][8 rows]
  float* out;             // [64, 48]: left * right + left * right, left[i, k] = i % 5 + k
};

PYASD_KERNEL(128, 1) wgmma_kernel(WgmmaArgs args) {
  const int i = int(threadIdx.x), lane = i % 32;
  char* const shared = shared_memory();
  if (i < 96) copy_async(shared + 16 * i, args.right + 8 * i);
  commit_copies();
  wait_copies<0>();
  if (args.fault != kNotShown) show_copies_to_wgmma();
  sync_block();
  if (args.fault == kHalfATeam && i >= 64) return;
  uint32_t a[4];
  for (int j = 0; j < 4; ++j) {
    const int row = i / 32 * 16 + lane / 4 + j % 2 * 8, k = lane % 4 * 2 + j / 2 * 8;
    a[j] = pack_bf16(float(row % 5 + k), float(row % 5 + k + 1));
  }
  float c[24] = {};
  const uint64_t b = wgmma_matrix(shared + (args.fault == kMisaligned ? 8 : 0), 128, 256);
  if (args.fault != kNoFence) begin_wgmma();
  wgmma_bf16(c, a, b);
  wgmma_bf16(c, a, b);
  if (args.fault == kFactorChanged) a[1] = 0;
  if (args.fault == kMatrixChanged && i == 3) shared[77] = 99;
  if (args.fault != kNotWaited) end_wgmma();
  take_wgmma(c);
  for (int j = 0; j < 24; ++j) {
    const int row = i / 32 * 16 + lane / 4 + j / 2 % 2 * 8, column = j / 4 * 8 + lane % 4 * 2 + j % 2;
    put(args.out + row * 48 + column, c[j]);
  }
}

}  // namespace cuda
}  // namespace pyasd

extern "C" __attribute__((visibility("default"))) const char* check_wgmma(int fault, const uint16_t* right,
                                                                          float* out) {
  using namespace pyasd::cuda;
  launch(wgmma_kernel, 1, 128, 1536, nullptr, WgmmaArgs{fault, right, out});
  return last_error();
}

extern "C" __attribute__((visibility("default"))) const char* check(int fault, const float* in, float* out) {
  using namespace pyasd::cuda;
  launch(check_kernel, 1, 64, 256, nullptr, Args{fault, in, out});
  return last_error();
}
