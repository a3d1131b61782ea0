#include "cuda/mixture.h"
#include "cuda/mixture_forward.cuh"
#include "cuda/mixture_pack.cuh"

namespace pyasd {
namespace cuda {

int64_t mixture_units(const MixtureHead& head) { return int64_t(head.groups) * units_per_group(head); }

int64_t mixture_layout(MixtureHead& head) {
  int64_t bytes = 0;
  for (int g = 0; g < head.groups; ++g) {
    head.group[g].packed = bytes;
    head.group[g].wanted = 1;
    bytes += int64_t(units_per_group(head)) * head.components * component_bytes(head.group[g].prefix, head.planes);
  }
  return bytes;
}

int mixture_pack(const MixtureHead& head, const MixturePackArgs& args, void* stream) {
  const PackArgs pack{head, args.weight, args.bias, args.packed};
  const unsigned grid = unsigned(mixture_units(head) * head.components);
  if (head.planes == 1) return launch(pack_kernel<1>, grid, kPackThreads, 0, stream, pack);
  return launch(pack_kernel<3>, grid, kPackThreads, 0, stream, pack);
}

namespace {

// Calls with(planes, warps, chunk steps) of the largest forward kernel whose shared memory a block may have.
template <int Planes, int Warps, int ChunkSteps>
struct ForwardConfig {
  static int shared_bytes(const MixtureHead& head) {
    return Planes * Warps * 4 * most_steps(head) * kBlockBytes + kStages * stage_bytes<Planes, ChunkSteps>();
  }
  static bool fits(const MixtureHead& head) {
    return head.planes == Planes && shared_bytes(head) <= shared_memory_limit();
  }
  static int run(ForwardArgs args, void* stream) {
    args.window_tiles = int32_t(ceil_div(args.input.windows, Warps * 16));
    const int64_t units = mixture_units(args.head);
    const int64_t slices = ceil_div(8 * int64_t(multiprocessors()), args.window_tiles);  // several blocks for each
    args.slices = int32_t(slices < units ? slices : units);
    const bool warpgroups = Warps % 4 == 0 && args.head.warpgroups;
    return launch(
        warpgroups ? forward_kernel<Planes, Warps, ChunkSteps, true> : forward_kernel<Planes, Warps, ChunkSteps, false>,
        unsigned(args.window_tiles) * unsigned(args.slices), Warps * 32, shared_bytes(args.head), stream, args);
  }
};

using Bfloat16 = ForwardConfig<1, 8, 8>;
using Float32 = ForwardConfig<3, 8, 4>;
using Float32Small = ForwardConfig<3, 4, 2>;  // for GPUs with 99 KB of shared memory to a block

}  // namespace

int run_forward(const ForwardArgs& args, void* stream) {
  if (Bfloat16::fits(args.head)) return Bfloat16::run(args, stream);
  if (Float32::fits(args.head)) return Float32::run(args, stream);
  return Float32Small::run(args, stream);
}

int mixture_loaded() { return loaded(pack_kernel<1>); }

bool mixture_fits(const MixtureHead& head, bool backward) {
  if (backward && !mixture_backward_fits(head)) return false;
  return Bfloat16::fits(head) || Float32::fits(head) || Float32Small::fits(head);
}

int mixture_forward(const MixtureHead& head, const MixtureForwardArgs& args, void* stream) {
  const int64_t windows = args.input.windows;
  if (windows == 0) return 0;
  const ForwardArgs forward{head, args.input, args.per_dim ? kPerDim : kUnitSums,
                            0,    0,          args.per_dim ? args.out : args.partial};
  const int status = run_forward(forward, stream);
  if (status != 0 || args.per_dim) return status;
  const SumArgs sum{head, windows, args.partial, args.out};
  return launch(sum_kernel, unsigned(ceil_div(windows * head.groups, kSumThreads)), kSumThreads, 0, stream, sum);
}

}  // namespace cuda
}  // namespace pyasd
