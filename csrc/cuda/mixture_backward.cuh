// Gradients. Outputs are computed again, and the forward kernel's statistics turn them into their own gradients, which
// exist in registers and shared memory alone: one kernel multiplies them by the weights (gradients of hidden units and
// targets), one by the hidden units (gradients of weights and biases). They are split into three bfloat16 parts always:
// with bfloat16 factors too, gradients stay float32.
#pragma once

#include "cuda/mixture_tiles.cuh"

namespace pyasd {
namespace cuda {

struct BackwardArgs {
  MixtureHead head;
  MixtureInput input;
  const float* grad;        // [windows, per_dim ? dims : groups]
  const float* statistics;  // [3][windows, dims], see ForwardArgs
  int32_t per_dim;
  int32_t window_tiles, hidden_tiles;
  float* d_target;  // [windows, dims]
  float* d_hidden;  // partial: [slices][windows, hidden], in each slice the units that its group sees
  float* d_weight;  // [3 * dims * components, hidden]
  float* d_bias;
};

constexpr int kGradientParts = 3;
constexpr int kHiddenTile = 128;  // hidden units whose gradients a block accumulates
constexpr int kHiddenSteps = kHiddenTile / 16;
constexpr int kSliceUnits = 2;  // units whose gradients of hidden units are summed by one block, whatever the batch

PYASD_BOTH int slices_per_group(const MixtureHead& head) {
  return (units_per_group(head) + kSliceUnits - 1) / kSliceUnits;
}

// What turns a lane's outputs of a unit into their gradients: as Outputs has them, for 2 rows x 4 dims.
struct Local {
  float target[2][4], grad[2][4], peak[2][4], log_total[2][4], logits[2][4];

  PYASD_MEMBER void load(const BackwardArgs& args, const Unit& unit, const int64_t row[2]) {
    const int lane = int(threadIdx.x) % 32;
    const int64_t windows = args.input.windows, dims = args.head.dims;
    PYASD_UNROLL
    for (int half = 0; half < 2; ++half) {
      PYASD_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int dim = half * 8 + lane % 4 * 2 + i % 2;
        const int64_t r = row[i / 2], at = r * dims + unit.first_dim + dim;
        const bool there = dim < unit.dims && r < windows;
        target[half][i] = there ? args.input.target[r * args.input.target_stride + unit.first_dim + dim] : 0.0f;
        const float* g = args.grad + (args.per_dim ? at : r * args.head.groups + unit.group);
        grad[half][i] = there ? *g : 0.0f;
        peak[half][i] = there ? args.statistics[at] : kInfinity;  // then the gradients are exact zeros
        log_total[half][i] = there ? args.statistics[windows * dims + at] : 0.0f;
        logits[half][i] = there ? args.statistics[2 * windows * dims + at] : kInfinity;
      }
    }
  }

  // The gradients of logit, mean and log scale.
  PYASD_MEMBER void gradients(int half, int i, float logit, float mean, float log_scale, float log_scale_min,
                              float d[3]) const {
    float by_mean, by_log_scale;
    const float component =
        log_component_with_gradient(target[half][i], logit, mean, log_scale, log_scale_min, &by_mean, &by_log_scale);
    // relative to the peak: in the far tails the log-sum-exp itself has lost the digits
    const float share = grad[half][i] * exp_for_sum((component - peak[half][i]) - log_total[half][i]);
    d[0] = share - grad[half][i] * exp_for_sum(logit - logits[half][i]);
    d[1] = share * by_mean;
    d[2] = share * by_log_scale;
  }
};

// All steps of one component: `rows` the warp's row blocks of hidden units.
template <int Planes>
PYASD_DEVICE void all_steps(Outputs<Planes>& outputs, const Unit& unit, const char* rows, int row_bytes,
                            int plane_bytes, const char* weights) {
  outputs.clear();
  for (int s = 0; s < steps_of(unit.prefix); ++s) {
    outputs.step(rows + s * 2 * kBlockBytes, row_bytes, plane_bytes, weights + kBiasBytes + s * Planes * kStepBytes,
                 unit.prefix - s * 16);
  }
}

PYASD_DEVICE void copy_component(const MixtureHead& head, const Unit& unit, int component, char* to) {
  const int bytes = component_bytes(unit.prefix, head.planes);
  const char* from = unit.packed + int64_t(component) * bytes;
  for (int i = int(threadIdx.x) * 16; i < bytes; i += int(blockDim.x) * 16) copy_async(to + i, from + i);
}

// ---- hidden units and targets: a block for some windows, kSliceUnits units and kHiddenTile hidden units
// --------------

template <int Planes, int Warps>
PYASD_KERNEL(Warps * 32, 1)
backward_input_kernel(BackwardArgs args) {
  constexpr int kRows = Warps * 16;
  const MixtureHead& head = args.head;
  const MixtureInput& input = args.input;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int64_t tile = blockIdx.x % unsigned(args.window_tiles);
  const int rest_of_index = int(blockIdx.x / unsigned(args.window_tiles));
  const int hidden_tile = rest_of_index % args.hidden_tiles, slice = rest_of_index / args.hidden_tiles;
  const int per_group = units_per_group(head), group = slice / slices_per_group(head);
  const int first_unit = group * per_group + slice % slices_per_group(head) * kSliceUnits;
  const int units =
      (group + 1) * per_group - first_unit < kSliceUnits ? (group + 1) * per_group - first_unit : kSliceUnits;
  const int prefix = head.group[group].prefix, steps = steps_of(prefix), first_step = hidden_tile * kHiddenSteps;
  if (hidden_tile > 0 && steps <= first_step) return;  // all of the block: nothing to sum, and no targets to do

  char* const rows = shared_memory();
  const int row_bytes = 2 * steps * kBlockBytes, plane_bytes = kRows / 8 * row_bytes;
  char* const stages = rows + Planes * plane_bytes;
  const int stage_size = component_bytes(prefix, Planes);
  load_hidden<Planes>(input, head.hidden, tile * kRows, kRows, steps, rows);
  const char* const own_rows = rows + warp * 2 * row_bytes;
  const int64_t row[2] = {tile * kRows + warp * 16 + lane / 4, tile * kRows + warp * 16 + lane / 4 + 8};
  const bool busy = tile * kRows + warp * 16 < input.windows;

  float sum[kHiddenSteps][2][4];
  PYASD_UNROLL
  for (int i = 0; i < kHiddenSteps * 8; ++i) (&sum[0][0][0])[i] = 0.0f;
  const int turns = units * head.components;
  copy_component(head, unit_at(head, input.packed, first_unit), 0, stages);
  commit_copies();
  int turn = 0;
  for (int u = 0; u < units; ++u) {
    const Unit unit = unit_at(head, input.packed, first_unit + u);
    Local local;
    local.load(args, unit, row);
    float d_target[2][4] = {};
    for (int component = 0; component < head.components; ++component, ++turn) {
      wait_copies<0>();
      sync_block();  // the weights are there for all, and the other stage is free
      if (turn + 1 < turns) {
        const Unit next = unit_at(head, input.packed, first_unit + (turn + 1) / head.components);
        copy_component(head, next, (turn + 1) % head.components, stages + (turn + 1) % 2 * stage_size);
      }
      commit_copies();
      if (!busy) continue;
      const char* weights = stages + turn % 2 * stage_size;
      uint32_t d[3][kGradientParts][4];  // as the left factor: rows are windows, columns the unit's dims
      {
        Outputs<Planes> outputs;
        all_steps(outputs, unit, own_rows, row_bytes, plane_bytes, weights);
        float bias[12];
        load_bias(reinterpret_cast<const float*>(weights), bias);
        PYASD_UNROLL
        for (int half = 0; half < 2; ++half) {
          PYASD_UNROLL
          for (int j = 0; j < 2; ++j) {
            float own[2][3];
            PYASD_UNROLL
            for (int i = 0; i < 2; ++i) {
              local.gradients(half, 2 * j + i, outputs.value(0, half, 2 * j + i, bias),
                              outputs.value(1, half, 2 * j + i, bias), outputs.value(2, half, 2 * j + i, bias),
                              head.log_scale_min, own[i]);
              d_target[half][2 * j + i] -= own[i][1];
            }
            PYASD_UNROLL
            for (int param = 0; param < 3; ++param) {
              uint32_t part[kGradientParts];
              split<kGradientParts>(own[0][param], own[1][param], part);
              PYASD_UNROLL
              for (int p = 0; p < kGradientParts; ++p) d[param][p][half * 2 + j] = part[p];
            }
          }
        }
      }
      PYASD_UNROLL
      for (int s = 0; s < kHiddenSteps; ++s) {
        if (first_step + s >= steps) continue;
        const char* from = weights + kBiasBytes + (first_step + s) * Planes * kStepBytes;
        float main[2][4] = {}, rest[2][4] = {};  // apart for every component: few sums are cut off
        PYASD_UNROLL
        for (int param = 0; param < 3; ++param) {
          uint32_t b[Planes][4];
          PYASD_UNROLL
          for (int p = 0; p < Planes; ++p) {
            load_matrices_transposed(b[p], from + (p * 3 + param) * 4 * kBlockBytes + lane * 16);
          }
          PYASD_UNROLL
          for (int n = 0; n < 2; ++n) multiply<kGradientParts, Planes>(main[n], rest[n], d[param], b, n, n + 2);
        }
        PYASD_UNROLL
        for (int i = 0; i < 8; ++i) sum[s][i / 4][i % 4] += main[i / 4][i % 4] + rest[i / 4][i % 4];
      }
    }
    PYASD_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int dim = i / 4 * 8 + lane % 4 * 2 + i % 2;
      const int64_t r = row[i / 2 % 2];
      if (hidden_tile == 0 && dim < unit.dims && r < input.windows) {
        put(args.d_target + r * head.dims + unit.first_dim + dim, d_target[i / 4][i % 4]);
      }
    }
  }
  PYASD_UNROLL
  for (int s = 0; s < kHiddenSteps; ++s) {
    PYASD_UNROLL
    for (int i = 0; i < 8; ++i) {
      const int unit = (first_step + s) * 16 + i / 4 * 8 + lane % 4 * 2 + i % 2;
      const int64_t r = row[i / 2 % 2];
      if (unit < prefix && r < input.windows) {
        put(args.d_hidden + (slice * input.windows + r) * head.hidden + unit, sum[s][i / 4][i % 4]);
      }
    }
  }
}

struct HiddenSumArgs {
  MixtureHead head;
  int64_t windows;
  const float* partial;  // [slices][windows, hidden]
  float* out;            // [windows, hidden]
};

PYASD_KERNEL(kSumThreads, 1) hidden_sum_kernel(HiddenSumArgs args) {
  const int64_t at = int64_t(blockIdx.x) * kSumThreads + threadIdx.x, size = args.windows * args.head.hidden;
  if (at >= size) return;
  const int unit = int(at % args.head.hidden), per_group = slices_per_group(args.head);
  float sum = 0.0f;
  for (int group = 0; group < args.head.groups; ++group) {
    if (unit >= args.head.group[group].prefix) continue;
    for (int slice = group * per_group; slice < (group + 1) * per_group; ++slice)
      sum += args.partial[slice * size + at];
  }
  put(args.out + at, sum);
}

// ---- weights and biases: a block for one unit, component and kHiddenTile hidden units, through all windows
// -----------

constexpr int kGradientBlocks = 6;  // of 8 columns: 3 params x 2 halves of the dims

template <int Planes, int Warps>
PYASD_KERNEL(Warps * 32, 1)
backward_weight_kernel(BackwardArgs args) {
  constexpr int kRows = Warps * 16, kOwnSteps = kHiddenSteps / Warps;
  static_assert(kOwnSteps * Warps == kHiddenSteps, "warps share the steps of a hidden tile evenly");
  const MixtureHead& head = args.head;
  const MixtureInput& input = args.input;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int hidden_tile = int(blockIdx.x) % args.hidden_tiles, rest_of_index = int(blockIdx.x) / args.hidden_tiles;
  const int component = rest_of_index % head.components;
  const Unit unit = unit_at(head, input.packed, rest_of_index / head.components);
  const int steps = steps_of(unit.prefix), first_step = hidden_tile * kHiddenSteps;
  const bool busy = hidden_tile == 0 || steps > first_step;  // else all gradients are masked

  char* const rows = shared_memory();
  const int row_bytes = 2 * steps * kBlockBytes, plane_bytes = kRows / 8 * row_bytes;
  char* const weights = rows + Planes * plane_bytes;
  char* const gradients = weights + component_bytes(unit.prefix, Planes);  // [part][8 windows][8 columns] blocks
  constexpr int kGradientRow = kGradientBlocks * kBlockBytes, kGradientPart = kRows / 8 * kGradientRow;
  if (busy) copy_component(head, unit, component, weights);
  commit_copies();
  wait_copies<0>();

  float sum[kOwnSteps][3][2][4], d_bias[12];  // d_bias: as load_bias() has them
  PYASD_UNROLL
  for (int i = 0; i < kOwnSteps * 24; ++i) (&sum[0][0][0][0])[i] = 0.0f;
  PYASD_UNROLL
  for (int i = 0; i < 12; ++i) d_bias[i] = 0.0f;
  for (int64_t first = 0; busy && first < input.windows; first += kRows) {
    load_hidden<Planes>(input, head.hidden, first, kRows, steps, rows);
    sync_block();
    {
      const int64_t row[2] = {first + warp * 16 + lane / 4, first + warp * 16 + lane / 4 + 8};
      Outputs<Planes> outputs;
      all_steps(outputs, unit, rows + warp * 2 * row_bytes, row_bytes, plane_bytes, weights);
      Local local;  // only now: the sums leave few registers
      local.load(args, unit, row);
      float bias[12];
      load_bias(reinterpret_cast<const float*>(weights), bias);
      PYASD_UNROLL
      for (int half = 0; half < 2; ++half) {
        PYASD_UNROLL
        for (int j = 0; j < 2; ++j) {
          float own[2][3];
          PYASD_UNROLL
          for (int i = 0; i < 2; ++i) {
            local.gradients(half, 2 * j + i, outputs.value(0, half, 2 * j + i, bias),
                            outputs.value(1, half, 2 * j + i, bias), outputs.value(2, half, 2 * j + i, bias),
                            head.log_scale_min, own[i]);
          }
          PYASD_UNROLL
          for (int param = 0; param < 3; ++param) {
            d_bias[param * 4 + half * 2] += own[0][param];
            d_bias[param * 4 + half * 2 + 1] += own[1][param];
            uint32_t part[kGradientParts];
            split<kGradientParts>(own[0][param], own[1][param], part);
            PYASD_UNROLL
            for (int p = 0; p < kGradientParts; ++p) {
              char* block = gradients + p * kGradientPart + (warp * 2 + j) * kGradientRow;
              *reinterpret_cast<uint32_t*>(block + (param * 2 + half) * kBlockBytes + lane * 4) = part[p];
            }
          }
        }
      }
    }
    sync_block();
    PYASD_UNROLL
    for (int own = 0; own < kOwnSteps; ++own) {
      const int step = first_step + own * Warps + warp;
      if (step >= steps) continue;
      PYASD_UNROLL
      for (int param = 0; param < 3; ++param) {
        float main[2][4] = {}, rest[2][4] = {};  // apart for these windows: few sums are cut off
        for (int k = 0; k < Warps; ++k) {        // 16 windows at a time
          const int block_row = 2 * k + lane / 16, block_column = lane / 8 % 2;
          uint32_t a[kGradientParts][4], b[Planes][4];
          PYASD_UNROLL
          for (int p = 0; p < kGradientParts; ++p) {
            load_matrices_transposed(a[p], gradients + p * kGradientPart + block_row * kGradientRow +
                                               (param * 2 + block_column) * kBlockBytes + lane % 8 * 16);
          }
          PYASD_UNROLL
          for (int p = 0; p < Planes; ++p) {
            load_matrices_transposed(b[p], rows + p * plane_bytes + (2 * k + block_column) * row_bytes +
                                               (2 * step + lane / 16) * kBlockBytes + lane % 8 * 16);
          }
          PYASD_UNROLL
          for (int n = 0; n < 2; ++n) multiply<kGradientParts, Planes>(main[n], rest[n], a, b, 2 * n, 2 * n + 1);
        }
        PYASD_UNROLL
        for (int i = 0; i < 8; ++i) sum[own][param][i / 4][i % 4] += main[i / 4][i % 4] + rest[i / 4][i % 4];
      }
    }
    sync_block();  // the next windows' hidden units and gradients take these places
  }

  const auto weight_row = [&](int param, int dim) {
    return (param * head.dims + unit.first_dim + dim) * head.components + component;
  };
  PYASD_UNROLL
  for (int own = 0; own < kOwnSteps; ++own) {
    PYASD_UNROLL
    for (int i = 0; i < 24; ++i) {
      const int param = i / 8, dim = i / 2 % 2 * 8 + lane / 4;
      const int column = (first_step + own * Warps + warp) * 16 + i / 4 % 2 * 8 + lane % 4 * 2 + i % 2;
      if (dim < unit.dims && column < head.hidden) {
        put(args.d_weight + weight_row(param, dim) * head.hidden + column,
            column < unit.prefix ? sum[own][param][i / 4 % 2][i % 4] : 0.0f);
      }
    }
  }
  if (hidden_tile > 0) return;
  sync_block();
  float* const shared = reinterpret_cast<float*>(gradients);  // [warp][param][16]
  PYASD_UNROLL
  for (int i = 0; i < 12; ++i) {
    for (int mask = 4; mask < 32; mask *= 2) d_bias[i] += shuffle_xor(d_bias[i], mask);
    if (lane < 4) shared[warp * 48 + i / 4 * 16 + i / 2 % 2 * 8 + lane * 2 + i % 2] = d_bias[i];
  }
  sync_block();
  for (int i = int(threadIdx.x); i < 48; i += Warps * 32) {
    float total = 0.0f;
    for (int w = 0; w < Warps; ++w) total += shared[w * 48 + i];
    if (i % 16 < unit.dims) put(args.d_bias + weight_row(i / 16, i % 16), total);
  }
}

}  // namespace cuda
}  // namespace pyasd
