// What the mixture's kernels share: how factors are split and laid out, and the outputs of a warp's 16 windows.
//
// A unit is 16 output dimensions of one group. All matrices are cut into blocks of 8 x 8 bfloat16 numbers that follow
// each other (128 bytes, row after row: any eight rows of 16 bytes lie in different banks). A unit's packed weights are
//   [component]{ bias [param][16] float32, 64 bytes of padding;
//                [step of 16 hidden units][plane][param][2 halves of the dims][2 halves of the step] blocks, row = dim
//                }
// with the params logit, mean and log scale, up to the last step in which the group sees a hidden unit.
#pragma once

#include "cuda/math.cuh"
#include "cuda/mixture.h"

namespace pyasd {
namespace cuda {

constexpr int kBlockBytes = 128;
constexpr int kStepBytes = 3 * 4 * kBlockBytes;  // of one plane
constexpr int kBiasBytes = 256;

PYASD_BOTH int steps_of(int prefix) { return (prefix + 15) / 16; }
PYASD_BOTH int group_dims(const MixtureHead& head) { return int(head.dims / head.groups); }
PYASD_BOTH int units_per_group(const MixtureHead& head) { return (group_dims(head) + kUnitDims - 1) / kUnitDims; }
PYASD_BOTH int component_bytes(int prefix, int planes) { return kBiasBytes + steps_of(prefix) * planes * kStepBytes; }

struct Unit {
  int group, first_dim, dims, prefix;  // dims: of the 16, those that there are
  const char* packed;
};
PYASD_DEVICE Unit unit_at(const MixtureHead& head, const char* packed, int index) {
  const int per_group = units_per_group(head), group = index / per_group, within = index % per_group;
  const MixtureGroup& g = head.group[group];
  const int left = group_dims(head) - within * kUnitDims;
  return {group, group * group_dims(head) + within * kUnitDims, left < kUnitDims ? left : kUnitDims, g.prefix,
          packed + g.packed + int64_t(within) * head.components * component_bytes(g.prefix, head.planes)};
}

// x = part[0] + part[1] + ... in bfloat16, for two numbers at once; three parts keep all 24 bits of a float32.
template <int Planes>
PYASD_DEVICE void split(float low, float high, uint32_t part[Planes]) {
  PYASD_UNROLL
  for (int p = 0; p < Planes; ++p) {
    part[p] = pack_bf16(low, high);
    low -= float_of_bits(part[p] << 16);
    high -= float_of_bits(part[p] & 0xffff0000u);
  }
}

// value(row, column), split, to shared memory: `down` x `across` blocks [plane][8 rows][8 columns], `row_bytes` from
// one row of blocks to the next, `plane_bytes` from one plane to the next.
template <int Planes, class Value>
PYASD_DEVICE void load_blocks(int down, int across, int row_bytes, int plane_bytes, char* shared, const Value& value) {
  const int warp = int(threadIdx.x) / 32, warps = int(blockDim.x) / 32, lane = int(threadIdx.x) % 32;
  for (int b = warp; b < down * across; b += warps) {
    const int row = b / across * 8 + lane / 4, column = b % across * 8 + lane % 4 * 2;
    uint32_t part[Planes];
    split<Planes>(value(row, column), value(row, column + 1), part);
    char* const to = shared + b / across * row_bytes + b % across * kBlockBytes + lane * 4;
    PYASD_UNROLL
    for (int p = 0; p < Planes; ++p) *reinterpret_cast<uint32_t*>(to + p * plane_bytes) = part[p];
  }
}

// Rows of hidden units; zeros where there is no row or unit.
template <int Planes>
PYASD_DEVICE void load_hidden(const MixtureInput& input, int hidden, int64_t first, int rows, int steps, char* shared) {
  const int row_bytes = 2 * steps * kBlockBytes;
  load_blocks<Planes>(rows / 8, 2 * steps, row_bytes, rows / 8 * row_bytes, shared, [&](int row, int unit) {
    return first + row < input.windows && unit < hidden ? input.hidden[(first + row) * input.hidden_stride + unit]
                                                        : 0.0f;
  });
}

// Two bfloat16 numbers of the columns `column` and the next, those from `end` on replaced by zero: a NaN in a hidden
// unit must not reach a group that doesn't see it.
PYASD_DEVICE uint32_t keep_below(uint32_t pair, int column, int end) {
  return column >= end ? 0u : column + 1 >= end ? pair & 0xffffu : pair;
}

// product(i, j) of the factors' parts i and j, smallest first, but for 0 and 0, the largest, and those below 2^-24 of
// the whole, which are left out.
template <int PartsA, int PartsB, class Product>
PYASD_DEVICE void for_lesser_parts(const Product& product) {
  PYASD_UNROLL
  for (int order = 2; order > 0; --order) {
    PYASD_UNROLL
    for (int i = 0; i <= order; ++i) {
      if (i < PartsA && order - i < PartsB) product(i % PartsA, (order - i) % PartsB);
    }
  }
}

// main += the product of the largest parts, rest += those of the others. b: two halves of the columns' factors.
template <int PartsA, int PartsB>
PYASD_DEVICE void multiply(float main[4], float rest[4], const uint32_t a[PartsA][4], const uint32_t b[PartsB][4],
                           int b0, int b1) {
  for_lesser_parts<PartsA, PartsB>([&](int i, int j) { mma_bf16(rest, a[i], b[j][b0], b[j][b1]); });
  mma_bf16(main, a[0], b[0][b0], b[0][b1]);
}

// The biases of a lane's columns, [param][half][2], from [param][16].
PYASD_DEVICE void load_bias(const float* from, float bias[12]) {
  PYASD_UNROLL
  for (int i = 0; i < 12; ++i) bias[i] = from[i / 4 * 16 + i / 2 % 2 * 8 + int(threadIdx.x) % 4 * 2 + i % 2];
}

// A warp's 16 rows of hidden units at a step, as Outputs::step() has them; those from `end` on are zero.
template <int Planes>
PYASD_DEVICE void load_step(const char* rows, int row_bytes, int plane_bytes, int end, uint32_t a[Planes][4]) {
  const int lane = int(threadIdx.x) % 32;
  PYASD_UNROLL
  for (int p = 0; p < Planes; ++p) {
    load_matrices(a[p], rows + p * plane_bytes + lane / 8 % 2 * row_bytes + lane / 16 * kBlockBytes + lane % 8 * 16);
    if (end < 16) {
      PYASD_UNROLL
      for (int i = 0; i < 4; ++i) a[p][i] = keep_below(a[p][i], i / 2 * 8 + lane % 4 * 2, end);
    }
  }
}

// A warp's outputs of one component: 16 windows x 16 dims x 3 params. Each lane holds, for the dims' halves and as
// mma_bf16 has it, rows lane / 4 and 8 more, columns 2 (lane % 4) and the next.
//
// Float32-accurate products are six of the nine products of the parts. The largest is summed apart from the rest, since
// tensor cores cut their sums off: the fewer sums with a large term, the better.
template <int Planes>
struct Outputs {
  float main[3][2][4];
  float rest[Planes > 1 ? 3 : 1][2][4];

  PYASD_MEMBER void clear() {
    PYASD_UNROLL
    for (int i = 0; i < 3 * 2 * 4; ++i) (&main[0][0][0])[i] = 0.0f;
    PYASD_UNROLL
    for (int i = 0; Planes > 1 && i < 3 * 2 * 4; ++i) (&rest[0][0][0])[i] = 0.0f;
  }

  // One step of 16 hidden units: `rows` the warp's two row blocks at this step, `row_bytes` from one row block to the
  // next, `plane_bytes` from one plane to the next; `weights` the step's packed weights; `end` where the prefix ends in
  // it.
  PYASD_MEMBER void step(const char* rows, int row_bytes, int plane_bytes, const char* weights, int end) {
    const int lane = int(threadIdx.x) % 32;
    uint32_t a[Planes][4];
    load_step<Planes>(rows, row_bytes, plane_bytes, end, a);
    PYASD_UNROLL
    for (int param = 0; param < 3; ++param) {
      uint32_t b[Planes][4];
      PYASD_UNROLL
      for (int p = 0; p < Planes; ++p) load_matrices(b[p], weights + (p * 3 + param) * 4 * kBlockBytes + lane * 16);
      PYASD_UNROLL
      for (int half = 0; half < 2; ++half) {
        multiply<Planes, Planes>(main[param][half], rest[Planes > 1 ? param : 0][half], a, b, 2 * half, 2 * half + 1);
      }
    }
  }

  // The same of the four warps of a warpgroup together, each with its own rows.
  PYASD_MEMBER void step_of_warpgroup(const char* rows, int row_bytes, int plane_bytes, const char* weights, int end) {
    uint32_t a[Planes][4];
    load_step<Planes>(rows, row_bytes, plane_bytes, end, a);
    const auto factor = [&](int part) {
      return wgmma_matrix(weights + part * 3 * 4 * kBlockBytes, kBlockBytes, 2 * kBlockBytes);
    };
    begin_wgmma();
    for_lesser_parts<Planes, Planes>([&](int i, int j) { wgmma_bf16(&rest[0][0][0], a[i], factor(j)); });
    wgmma_bf16(&main[0][0][0], a[0], factor(0));
    end_wgmma();
    take_wgmma(&main[0][0][0]);
    if (Planes > 1) take_wgmma(&rest[0][0][0]);
  }

  // Output i of a param and half; `bias` as load_bias() gives it.
  PYASD_MEMBER float value(int param, int half, int i, const float bias[12]) const {
    const float sum = main[param][half][i] + bias[param * 4 + half * 2 + i % 2];
    return Planes > 1 ? sum + rest[Planes > 1 ? param : 0][half][i] : sum;
  }
};

constexpr int kSumThreads = 256;

PYASD_BOTH int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Hidden units that the block's units see, in steps of 16.
PYASD_BOTH int most_steps(const MixtureHead& head) {
  int most = 0;
  for (int g = 0; g < head.groups; ++g) most = most < head.group[g].prefix ? head.group[g].prefix : most;
  return steps_of(most);
}

enum ForwardMode : int32_t { kUnitSums, kPerDim, kStatistics };

struct ForwardArgs {
  MixtureHead head;
  MixtureInput input;
  int32_t mode;
  int32_t window_tiles, slices;
  // kUnitSums [units, windows]; kPerDim [windows, dims]; kStatistics [3][windows, dims]: peak and logarithm of the
  // total of the components' log-sum-exp, and the log-sum-exp of the logits
  float* out;
};

int run_forward(const ForwardArgs& args, void* stream);  // mixture.cu
bool mixture_backward_fits(const MixtureHead& head);     // mixture_backward.cu

}  // namespace cuda
}  // namespace pyasd
