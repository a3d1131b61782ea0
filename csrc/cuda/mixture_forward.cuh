// Log-likelihoods: a block has 16 windows for each of its warps, and runs through units, components and chunks of
// hidden units. Weights stream through three stages of shared memory; the outputs stay in registers, where the two
// log-sum-exps of every window and dimension run along.
#pragma once

#include "cuda/mixture_tiles.cuh"

namespace pyasd {
namespace cuda {

constexpr int kStages = 3;

// Runs through the chunks of all units' components that a block does, ahead of the products by two.
template <int Planes, int ChunkSteps>
struct WeightStream {
  const ForwardArgs& args;
  int unit, last_unit, component = 0, chunk = 0;

  PYASD_MEMBER WeightStream(const ForwardArgs& a, int first, int last) : args(a), unit(first), last_unit(last) {
    skip_unwanted();
  }
  PYASD_MEMBER void skip_unwanted() {
    while (unit < last_unit && !args.head.group[unit / units_per_group(args.head)].wanted) ++unit;
  }
  PYASD_MEMBER bool more() const { return unit < last_unit; }
  PYASD_MEMBER void next_unit() {
    ++unit;
    skip_unwanted();
  }
  PYASD_MEMBER int chunks(const Unit& u) const {
    const int steps = steps_of(u.prefix);
    return steps == 0 ? 1 : (steps + ChunkSteps - 1) / ChunkSteps;
  }
  PYASD_MEMBER void fetch_and_advance(char* stage) {
    if (more()) {
      const Unit u = unit_at(args.head, args.input.packed, unit);
      const char* from = u.packed + int64_t(component) * component_bytes(u.prefix, Planes);
      const int steps = steps_of(u.prefix) - chunk * ChunkSteps;
      const int bytes = (steps < ChunkSteps ? steps : ChunkSteps) * Planes * kStepBytes;
      if (chunk == 0) {
        for (int i = int(threadIdx.x) * 16; i < kBiasBytes; i += int(blockDim.x) * 16) copy_async(stage + i, from + i);
      }
      from += kBiasBytes + int64_t(chunk) * ChunkSteps * Planes * kStepBytes;
      for (int i = int(threadIdx.x) * 16; i < bytes; i += int(blockDim.x) * 16) {
        copy_async(stage + kBiasBytes + i, from + i);
      }
      if (++chunk == chunks(u)) {
        chunk = 0;
        if (++component == args.head.components) {
          component = 0;
          next_unit();
        }
      }
    }
    commit_copies();
  }
};

template <int Planes, int ChunkSteps>
PYASD_BOTH int stage_bytes() {
  return kBiasBytes + ChunkSteps * Planes * kStepBytes;
}

PYASD_DEVICE void store(const ForwardArgs& args, const Unit& unit, int unit_index, const int64_t row[2],
                        const LogSum logits[2][4], const LogSum components[2][4]) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t dims = args.head.dims, windows = args.input.windows;
  float sum[2] = {0.0f, 0.0f};
  PYASD_UNROLL
  for (int half = 0; half < 2; ++half) {
    PYASD_UNROLL
    for (int i = 0; i < 4; ++i) {
      const LogSum l = logits[half][i], c = components[half][i];
      const int dim = half * 8 + lane % 4 * 2 + i % 2;
      const int64_t at = row[i / 2] * dims + unit.first_dim + dim;
      const bool there = dim < unit.dims && row[i / 2] < windows;
      if (args.mode == kStatistics) {
        if (!there) continue;
        put(args.out + at, c.peak);
        put(args.out + windows * dims + at, log_(c.total));
        put(args.out + 2 * windows * dims + at, l.peak + log_(l.total));
        continue;
      }
      const float peak = c.peak > kLowest ? c.peak : -kInfinity;  // -infinity where no density was above it
      const float value = log_mixture(l.peak, l.total, peak, c.total);
      if (args.mode == kPerDim && there) put(args.out + at, value);
      sum[i / 2] += dim < unit.dims ? value : 0.0f;
    }
  }
  if (args.mode != kUnitSums) return;
  PYASD_UNROLL
  for (int i = 0; i < 2; ++i) {  // the dims of a row lie in four lanes
    sum[i] += shuffle_xor(sum[i], 1);
    sum[i] += shuffle_xor(sum[i], 2);
    if (lane % 4 == 0 && row[i] < windows) put(args.out + unit_index * windows + row[i], sum[i]);
  }
}

// Products by warps (mma.sync) or by warpgroups (wgmma), which other architectures than sm_90a leave undone.
template <int Planes, int Warps, int ChunkSteps, bool Warpgroups>
PYASD_KERNEL(Warps * 32, Planes == 1 ? 2 : 1)
forward_kernel(ForwardArgs args) {
  if (Warpgroups && !PYASD_HAS_WGMMA) return;
  constexpr int kRows = Warps * 16, kTeam = Warpgroups ? 4 : 1;
  const MixtureHead& head = args.head;
  const MixtureInput& input = args.input;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int64_t tile = blockIdx.x % unsigned(args.window_tiles);
  const int slice = int(blockIdx.x / unsigned(args.window_tiles)), units = head.groups * units_per_group(head);
  const int first_unit = int(int64_t(units) * slice / args.slices);
  const int last_unit = int(int64_t(units) * (slice + 1) / args.slices);

  char* const rows = shared_memory();
  const int steps = most_steps(head), row_bytes = 2 * steps * kBlockBytes, plane_bytes = kRows / 8 * row_bytes;
  char* const stages = rows + Planes * plane_bytes;
  const auto stage = [&](int i) { return stages + i % kStages * stage_bytes<Planes, ChunkSteps>(); };
  load_hidden<Planes>(input, head.hidden, tile * kRows, kRows, steps, rows);
  const char* const own_rows = rows + warp * 2 * row_bytes;
  const int64_t row[2] = {tile * kRows + warp * 16 + lane / 4, tile * kRows + warp * 16 + lane / 4 + 8};
  // Else the warp, or warpgroup, only helps to copy.
  const bool busy = tile * kRows + warp / kTeam * kTeam * 16 < input.windows;

  WeightStream<Planes, ChunkSteps> ahead(args, first_unit, last_unit), now(args, first_unit, last_unit);
  int turn = 0;
  for (int i = 0; i < kStages - 1; ++i) ahead.fetch_and_advance(stage(i));
  while (now.more()) {
    const Unit unit = unit_at(head, input.packed, now.unit);
    float target[2][4];  // of each half of the dims: rows and columns as in Outputs
    LogSum logits[2][4], components[2][4];
    PYASD_UNROLL
    for (int half = 0; half < 2; ++half) {
      PYASD_UNROLL
      for (int i = 0; i < 4; ++i) {
        const int dim = half * 8 + lane % 4 * 2 + i % 2;
        const bool there = dim < unit.dims && row[i / 2] < input.windows;
        target[half][i] = there ? input.target[row[i / 2] * input.target_stride + unit.first_dim + dim] : 0.0f;
        logits[half][i] = components[half][i] = {kLowest, 0.0f};
      }
    }
    const int unit_steps = steps_of(unit.prefix), chunks = now.chunks(unit);
    for (int component = 0; component < head.components; ++component) {
      Outputs<Planes> outputs;
      outputs.clear();
      float bias[12];
      for (int chunk = 0; chunk < chunks; ++chunk, ++turn) {
        wait_copies<kStages - 2>();
        if (Warpgroups) show_copies_to_wgmma();
        sync_block();  // this chunk is there for all, and all are done with the one before, whose place is free
        ahead.fetch_and_advance(stage(turn + kStages - 1));
        if (!busy) continue;
        const char* weights = stage(turn);
        if (chunk == 0) load_bias(reinterpret_cast<const float*>(weights), bias);
        const int begin = chunk * ChunkSteps, left = unit_steps - begin;
        for (int s = 0; s < (left < ChunkSteps ? left : ChunkSteps); ++s) {
          const char* const at = own_rows + (begin + s) * 2 * kBlockBytes;
          const char* const factors = weights + kBiasBytes + s * Planes * kStepBytes;
          const int end = unit.prefix - (begin + s) * 16;
          if (Warpgroups) {
            outputs.step_of_warpgroup(at, row_bytes, plane_bytes, factors, end);
          } else {
            outputs.step(at, row_bytes, plane_bytes, factors, end);
          }
        }
      }
      if (!busy) continue;
      PYASD_UNROLL
      for (int half = 0; half < 2; ++half) {
        PYASD_UNROLL
        for (int i = 0; i < 4; ++i) {
          const float logit = outputs.value(0, half, i, bias);
          add(logits[half][i], logit);
          add(components[half][i], log_component(target[half][i], logit, outputs.value(1, half, i, bias),
                                                 outputs.value(2, half, i, bias), head.log_scale_min));
        }
      }
    }
    if (busy) store(args, unit, now.unit, row, logits, components);
    now.next_unit();
  }
  wait_copies<0>();
}

struct SumArgs {
  MixtureHead head;
  int64_t windows;
  const float* partial;  // [units, windows]
  float* out;            // [windows, groups]
};

PYASD_KERNEL(kSumThreads, 1) sum_kernel(SumArgs args) {
  const int64_t at = int64_t(blockIdx.x) * kSumThreads + threadIdx.x;
  const int64_t window = at % args.windows;
  const int group = int(at / args.windows), per_group = units_per_group(args.head);
  if (group >= args.head.groups || !args.head.group[group].wanted) return;
  float sum = 0.0f;
  for (int unit = group * per_group; unit < (group + 1) * per_group; ++unit) {
    sum += args.partial[unit * args.windows + window];
  }
  put(args.out + window * args.head.groups + group, sum);
}

}  // namespace cuda
}  // namespace pyasd
