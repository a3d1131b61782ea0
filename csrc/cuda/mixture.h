// The mixture head on a CUDA device: see ops.mixture_log_prob for what it computes. Pointers are to memory of the
// current device; sizes and strides count elements. Functions enqueue kernels on a stream (a cudaStream_t) and return a
// cudaError_t; none synchronises or allocates.
#pragma once

#include <cstdint>

namespace pyasd {
namespace cuda {

constexpr int kMaxGroups = 64;
constexpr int kUnitDims = 16;  // output dimensions of one group that are computed together

struct MixtureGroup {
  int64_t packed;  // where the packed weights of its first unit begin, in bytes
  int32_t prefix;  // hidden units that it sees
  int32_t wanted;  // 0: outputs are left as they are
};

struct MixtureHead {
  int64_t dims;
  int32_t groups, components, hidden;
  int32_t planes;      // bfloat16 numbers that a factor is split into: 3 (float32-accurate) or 1 (bfloat16)
  int32_t warpgroups;  // whether the forward kernel multiplies by wgmma, which sm_90a alone has, instead of mma.sync
  float log_scale_min;
  MixtureGroup group[kMaxGroups];
};

// Fills in `packed` and `wanted` (all) from the rest; returns the bytes of packed weights.
int64_t mixture_layout(MixtureHead& head);
int64_t mixture_units(const MixtureHead& head);

// cudaSuccess where the current device can run the kernels.
int mixture_loaded();

// Whether a block's shared memory holds what the forward kernel (and those of the backward pass) need.
bool mixture_fits(const MixtureHead& head, bool backward);

struct MixturePackArgs {
  const float* weight;  // [3 * dims * components, hidden], contiguous
  const float* bias;    // [3 * dims * components], contiguous
  char* packed;         // aligned to 16 bytes
};
int mixture_pack(const MixtureHead& head, const MixturePackArgs& args, void* stream);

struct MixtureInput {
  const char* packed;
  const float* hidden;  // [windows, hidden], rows hidden_stride apart
  const float* target;  // [windows, dims], rows target_stride apart
  int64_t windows, hidden_stride, target_stride;
};

struct MixtureForwardArgs {
  MixtureInput input;
  float* out;  // [windows, per_dim ? dims : groups], contiguous
  bool per_dim;
  float* partial;  // workspace: units * windows floats, not used with per_dim
};
int mixture_forward(const MixtureHead& head, const MixtureForwardArgs& args, void* stream);

// Floats of workspace that the backward pass needs for so many windows.
int64_t mixture_backward_workspace(const MixtureHead& head, int64_t windows);

struct MixtureBackwardArgs {  // all but the input contiguous
  MixtureInput input;
  const float* grad;  // [windows, per_dim ? dims : groups]
  bool per_dim;
  float* workspace;
  float* d_hidden;  // [windows, hidden]
  float* d_target;  // [windows, dims]
  float* d_weight;  // as weight; masked weights get exact zeros
  float* d_bias;
};
int mixture_backward(const MixtureHead& head, const MixtureBackwardArgs& args, void* stream);

}  // namespace cuda
}  // namespace pyasd
