#include "cuda/mixture.h"
#include "cuda/mixture_backward.cuh"

namespace pyasd {
namespace cuda {

namespace {

template <int Planes, int Warps>
struct BackwardConfig {
  static int hidden_bytes(const MixtureHead& head) { return Planes * Warps * 4 * most_steps(head) * kBlockBytes; }
  static int input_bytes(const MixtureHead& head) {
    return hidden_bytes(head) + 2 * component_bytes(most_steps(head) * 16, Planes);
  }
  static int weight_bytes(const MixtureHead& head) {
    return hidden_bytes(head) + component_bytes(most_steps(head) * 16, Planes) +
           kGradientParts * Warps * 2 * kGradientBlocks * kBlockBytes;
  }
  static bool fits(const MixtureHead& head) {
    return head.planes == Planes && input_bytes(head) <= shared_memory_limit() &&
           weight_bytes(head) <= shared_memory_limit();
  }
  static int run(BackwardArgs args, void* stream) {
    args.window_tiles = int32_t(ceil_div(args.input.windows, Warps * 16));
    args.hidden_tiles = int32_t(ceil_div(args.head.hidden, kHiddenTile));
    const int64_t slices = int64_t(args.head.groups) * slices_per_group(args.head);
    const int64_t input_blocks = args.window_tiles * args.hidden_tiles * slices;
    const int status = launch(backward_input_kernel<Planes, Warps>, unsigned(input_blocks), Warps * 32,
                              input_bytes(args.head), stream, args);
    if (status != 0) return status;
    const int64_t weight_blocks = mixture_units(args.head) * args.head.components * args.hidden_tiles;
    return launch(backward_weight_kernel<Planes, Warps>, unsigned(weight_blocks), Warps * 32, weight_bytes(args.head),
                  stream, args);
  }
};

// The largest that fits: 227, 163 and 99 KB of shared memory to a block are what sm_90, sm_80 and sm_86 have.
template <class With>
int with_backward_config(const MixtureHead& head, const With& with) {
  if (BackwardConfig<1, 8>::fits(head)) return with(BackwardConfig<1, 8>{});
  if (BackwardConfig<3, 8>::fits(head)) return with(BackwardConfig<3, 8>{});
  if (BackwardConfig<3, 4>::fits(head)) return with(BackwardConfig<3, 4>{});
  if (BackwardConfig<3, 2>::fits(head)) return with(BackwardConfig<3, 2>{});
  return -1;
}

int64_t statistics_size(const MixtureHead& head, int64_t windows) { return 3 * windows * head.dims; }

}  // namespace

bool mixture_backward_fits(const MixtureHead& head) {
  return with_backward_config(head, [](auto) { return 0; }) == 0;
}

int64_t mixture_backward_workspace(const MixtureHead& head, int64_t windows) {
  const int64_t slices = int64_t(head.groups) * slices_per_group(head);
  return statistics_size(head, windows) + slices * windows * head.hidden;
}

int mixture_backward(const MixtureHead& head, const MixtureBackwardArgs& args, void* stream) {
  const int64_t windows = args.input.windows;
  if (windows > 0) {
    const int status = run_forward(ForwardArgs{head, args.input, kStatistics, 0, 0, args.workspace}, stream);
    if (status != 0) return status;
  }
  float* const partial = args.workspace + statistics_size(head, windows);
  const BackwardArgs backward{head, args.input,    args.grad, args.workspace, args.per_dim, 0,
                              0,    args.d_target, partial,   args.d_weight,  args.d_bias};
  const int status = with_backward_config(head, [&](auto config) { return config.run(backward, stream); });
  if (status != 0) return status;
  const HiddenSumArgs sum{head, windows, partial, args.d_hidden};
  return launch(hidden_sum_kernel, unsigned(ceil_div(windows * head.hidden, kSumThreads)), kSumThreads, 0, stream, sum);
}

}  // namespace cuda
}  // namespace pyasd
