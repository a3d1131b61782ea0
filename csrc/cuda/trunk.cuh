// Hidden layers: a block has 16 windows for each of its warps, whose activations stay in shared memory, and whose sums
// stay in registers, from the first layer to the last. All layers' weights run through three stages of shared memory.
//
// Rows of shared memory are cut into blocks of 8 x 8 bfloat16 numbers, as in mixture_tiles.cuh. At first they are the
// standardised frames, of which window w reads the rows w, w + 1, ...; then each warp's own windows' activations.
//
// A tile is 32 outputs of a layer, a step 16 of its inputs. Packed weights are chunks of one size, in the order in
// which they are needed: steps with, for each tile that sees any of the step's inputs,
//   [plane][4 x 8 outputs][2 halves of the step] blocks, row = output
#pragma once

#include "cuda/mixture_tiles.cuh"
#include "cuda/trunk.h"

namespace pyasd {
namespace cuda {

constexpr int kTrunkStages = 3;
constexpr int kTileOutputs = 32;
constexpr int kTiles = kTrunkWidth / kTileOutputs;
constexpr int kTileBytes = 8 * kBlockBytes;  // of one step and plane
constexpr int kChunkSteps = 8;

struct alignas(16) TrunkStep {
  int32_t row;     // which of the window's frames; 0 in later layers
  int32_t column;  // which 16 of the row's columns
  int32_t tiles;   // bit by bit, those whose weights follow
};

struct alignas(16) TrunkChunk {
  int32_t steps;
  int32_t ends;  // tiles of the layer that ends with this chunk; 0 where it goes on
  TrunkStep step[kChunkSteps];
  float bias[kTrunkWidth];  // of the layer that ends
  // then the weights
};

PYASD_BOTH int chunk_tiles(int planes) { return planes == 1 ? 8 : 4; }  // those of all its steps
PYASD_BOTH int chunk_bytes(int planes) { return int(sizeof(TrunkChunk)) + chunk_tiles(planes) * planes * kTileBytes; }

// Rows of shared memory for so many windows: whole blocks of them.
PYASD_BOTH int trunk_rows(int windows, int frames) { return windows + (frames - 1 + 7) / 8 * 8; }

// A warp's sums for all outputs of a layer: 16 windows x [tile][8 outputs], each lane's share as mma_bf16 has it. As in
// Outputs, the largest products are summed apart.
template <int Planes>
struct LayerSums {
  float main[kTiles][4][4];
  float rest[Planes > 1 ? kTiles : 1][4][4];

  PYASD_MEMBER void clear() {
    PYASD_UNROLL
    for (int i = 0; i < kTiles * 16; ++i) {
      (&main[0][0][0])[i] = 0.0f;
      if (Planes > 1) (&rest[0][0][0])[i] = 0.0f;
    }
  }

  // `rows`: all rows; `first`: the warp's own. Returns where the next step's weights begin.
  PYASD_MEMBER const char* step(const TrunkStep& step, const char* rows, int first, int row_bytes, int plane_bytes,
                                const char* weights) {
    const int lane = int(threadIdx.x) % 32, row = first + step.row + lane % 16;
    const char* from = rows + row / 8 * row_bytes + (step.column * 2 + lane / 16) * kBlockBytes + row % 8 * 16;
    uint32_t a[Planes][4];
    PYASD_UNROLL
    for (int p = 0; p < Planes; ++p) load_matrices(a[p], from + p * plane_bytes);
    PYASD_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      if ((step.tiles >> t & 1) == 0) continue;
      PYASD_UNROLL
      for (int pair = 0; pair < 2; ++pair) {
        uint32_t b[Planes][4];
        PYASD_UNROLL
        for (int p = 0; p < Planes; ++p) {
          load_matrices(b[p], weights + p * kTileBytes + pair * 4 * kBlockBytes + lane * 16);
        }
        PYASD_UNROLL
        for (int half = 0; half < 2; ++half) {
          const int n = 2 * pair + half;
          multiply<Planes, Planes>(main[t][n], rest[Planes > 1 ? t : 0][n], a, b, 2 * half, 2 * half + 1);
        }
      }
      weights += Planes * kTileBytes;
    }
    return weights;
  }

  // Writes the outputs of the layer that ends, after ReLU, which keeps NaN, to the warp's `own` rows.
  PYASD_MEMBER void finish(const TrunkChunk& chunk, char* own, int row_bytes, int plane_bytes) const {
    const int lane = int(threadIdx.x) % 32;
    PYASD_UNROLL
    for (int t = 0; t < kTiles; ++t) {
      if (t >= chunk.ends) continue;
      PYASD_UNROLL
      for (int n = 0; n < 4; ++n) {
        PYASD_UNROLL
        for (int i = 0; i < 2; ++i) {  // a block: 8 rows x 8 outputs
          float output[2];
          PYASD_UNROLL
          for (int j = 0; j < 2; ++j) {
            const float sum = main[t][n][2 * i + j] + chunk.bias[t * kTileOutputs + n * 8 + lane % 4 * 2 + j];
            output[j] = at_least(Planes > 1 ? sum + rest[Planes > 1 ? t : 0][n][2 * i + j] : sum, 0.0f);
          }
          uint32_t part[Planes];
          split<Planes>(output[0], output[1], part);
          char* const to = own + i * row_bytes + (t * 4 + n) * kBlockBytes + lane * 4;
          PYASD_UNROLL
          for (int p = 0; p < Planes; ++p) *reinterpret_cast<uint32_t*>(to + p * plane_bytes) = part[p];
        }
      }
    }
  }
};

// The block's frames, standardised, to the rows, and to `z` those that no other block has.
template <int Planes>
PYASD_DEVICE void load_frames(const TrunkArgs& args, int windows, int row_bytes, int plane_bytes, char* rows) {
  const TrunkShape& shape = args.shape;
  const int64_t first = int64_t(blockIdx.x) * windows, frames = args.windows + shape.frames - 1;
  const int own = blockIdx.x + 1 == gridDim.x ? windows + shape.frames - 1 : windows;
  load_blocks<Planes>(trunk_rows(windows, shape.frames) / 8, (shape.mels + 15) / 16 * 2, row_bytes, plane_bytes, rows,
                      [&](int row, int mel) {
                        const bool there = row < windows + shape.frames - 1 && first + row < frames && mel < shape.mels;
                        if (!there) return 0.0f;
                        const int64_t at = (first + row) * shape.mels + mel;
                        const float z = (args.log_mel[at] - args.band_mean[mel]) / args.band_scale[mel];
                        if (row < own) put(args.z + at, z);
                        return z;
                      });
}

template <int Planes, int Warps>
PYASD_KERNEL(Warps * 32, Planes == 1 ? 2 : 1)
trunk_kernel(TrunkArgs args) {
  constexpr int kWindows = Warps * 16;
  const TrunkShape& shape = args.shape;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, bytes = chunk_bytes(Planes);
  const int64_t first = int64_t(blockIdx.x) * kWindows + warp * 16;
  const bool busy = first < args.windows;  // else the warp only helps to copy
  char* const rows = shared_memory();
  const int row_bytes = shape.across * kBlockBytes;
  const int plane_bytes = trunk_rows(kWindows, shape.frames) / 8 * row_bytes;
  char* const stages = rows + Planes * plane_bytes;
  const auto stage = [&](int chunk) { return stages + chunk % kTrunkStages * bytes; };
  const auto fetch = [&](int chunk) {
    const char* from = args.packed + int64_t(chunk) * bytes;
    for (int i = int(threadIdx.x) * 16; chunk < shape.chunks && i < bytes; i += int(blockDim.x) * 16) {
      copy_async(stage(chunk) + i, from + i);
    }
    commit_copies();
  };
  for (int i = 0; i < kTrunkStages - 1; ++i) fetch(i);
  load_frames<Planes>(args, kWindows, row_bytes, plane_bytes, rows);

  char* const own = rows + warp * 2 * row_bytes;  // where the warp's activations go
  for (int c = 0; c < shape.chunks;) {            // a layer
    LayerSums<Planes> sums;
    sums.clear();
    const TrunkChunk* chunk;
    do {
      wait_copies<kTrunkStages - 2>();
      sync_block();  // this chunk is there for all, and all are done with the one before, whose place is free
      fetch(c + kTrunkStages - 1);
      chunk = reinterpret_cast<const TrunkChunk*>(stage(c));
      const char* weights = reinterpret_cast<const char*>(chunk + 1);
      for (int s = 0; busy && s < chunk->steps; ++s) {
        weights = sums.step(chunk->step[s], rows, warp * 16, row_bytes, plane_bytes, weights);
      }
    } while (++c, chunk->ends == 0);
    sync_block();  // all are done with the frames, whose place is free
    if (!busy) continue;
    sums.finish(*chunk, own, row_bytes, plane_bytes);
    sync_warp();
  }
  wait_copies<0>();
  for (int row = 0; row < 16 && first + row < args.windows; ++row) {
    for (int unit = lane; unit < shape.outputs; unit += 32) {
      const char* from = own + row / 8 * row_bytes + unit / 8 * kBlockBytes + row % 8 * 16 + unit % 8 * 2;
      float sum = 0.0f;  // exact: the parts are the output
      PYASD_UNROLL
      for (int p = 0; p < Planes; ++p) {
        sum += float_of_bits(uint32_t(*reinterpret_cast<const uint16_t*>(from + p * plane_bytes)) << 16);
      }
      put(args.hidden + (first + row) * shape.outputs + unit, sum);
    }
  }
}

}  // namespace cuda
}  // namespace pyasd
