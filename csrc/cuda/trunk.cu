#include <algorithm>
#include <cstring>
#include <utility>

#include "cuda/trunk.cuh"
#include "math/bfloat16.h"

namespace pyasd {
namespace cuda {

namespace {

struct Packer {
  int planes, used = 0;  // tiles of the chunk under way
  std::size_t begin = 0;
  std::vector<char> bytes{};

  TrunkChunk& chunk() { return *reinterpret_cast<TrunkChunk*>(bytes.data() + begin); }

  void next_chunk() {
    begin = bytes.size();
    bytes.resize(begin + chunk_bytes(planes));
    used = 0;
  }

  // weight(output, input of the step)
  template <class Weight>
  void add_step(int32_t row, int32_t column, int outputs, const Weight& weight) {
    TrunkStep step{row, column, 0};
    int tiles = 0;
    for (int o = 0; o < outputs; ++o) {
      for (int k = 0; k < 16; ++k) {
        if (weight(o, k) != 0) step.tiles |= 1 << (o / kTileOutputs);
      }
    }
    for (int t = 0; t < kTiles; ++t) tiles += step.tiles >> t & 1;
    if (tiles == 0) return;
    if (used + tiles > chunk_tiles(planes)) next_chunk();
    char* to = reinterpret_cast<char*>(&chunk() + 1) + used * planes * kTileBytes;
    chunk().step[chunk().steps++] = step;
    used += tiles;
    for (int t = 0; t < kTiles; ++t) {
      if ((step.tiles >> t & 1) == 0) continue;
      for (int i = 0; i < kTileOutputs * 16; ++i) {
        const int output = i / 16, k = i % 16, block = output / 8 * 2 + k / 8;
        const int o = t * kTileOutputs + output;
        float rest = o < outputs ? weight(o, k) : 0.0f;
        for (int p = 0; p < planes; ++p) {
          const uint32_t part = bfloat16_bits(rest);
          const uint16_t half = uint16_t(part >> 16);
          std::memcpy(to + p * kTileBytes + block * kBlockBytes + output % 8 * 16 + k % 8 * 2, &half, sizeof half);
          rest -= float_from_bits(part);
        }
      }
      to += planes * kTileBytes;
    }
  }

  void finish(const TrunkLayer& layer) {
    chunk().ends = (layer.outputs + kTileOutputs - 1) / kTileOutputs;
    for (int o = 0; o < layer.outputs; ++o) chunk().bias[o] = layer.bias[o];
  }
};

template <int Planes, int Warps>
struct TrunkConfig {
  static int shared_bytes(const TrunkShape& shape) {
    const int rows = trunk_rows(Warps * 16, shape.frames);
    return Planes * (rows / 8) * shape.across * kBlockBytes + kTrunkStages * chunk_bytes(Planes);
  }
  static bool fits(const TrunkShape& shape) {
    return shape.planes == Planes && shared_bytes(shape) <= shared_memory_limit();
  }
  static int64_t blocks(const TrunkArgs& args) { return ceil_div(args.windows, Warps * 16); }
  static int run(const TrunkArgs& args, void* stream) {
    return launch(trunk_kernel<Planes, Warps>, unsigned(blocks(args)), Warps * 32, shared_bytes(args.shape), stream,
                  args);
  }
};

using TrunkBfloat16 = TrunkConfig<1, 8>;
using TrunkFloat32 = TrunkConfig<3, 8>;
using TrunkFloat32Small = TrunkConfig<3, 4>;  // for few windows, and GPUs with 99 KB of shared memory to a block

}  // namespace

Trunk trunk_pack(const std::vector<TrunkLayer>& layers, int mels, bool bfloat16) {
  Packer packer{bfloat16 ? 1 : 3};
  int across = (mels + 15) / 16 * 2;
  for (const TrunkLayer& layer : layers) {
    packer.next_chunk();
    const int columns = &layer == layers.data() ? mels : layer.inputs;  // of a row of shared memory
    for (int row = 0; row * columns < layer.inputs; ++row) {
      for (int column = 0; column * 16 < columns; ++column) {
        packer.add_step(row, column, layer.outputs, [&](int o, int k) {
          const int at = column * 16 + k;
          return at < columns ? layer.weight[int64_t(o) * layer.inputs + row * columns + at] : 0.0f;
        });
      }
    }
    packer.finish(layer);
    across = std::max(across, packer.chunk().ends * kTileOutputs / 8);
  }
  const int chunks = int(packer.bytes.size() / std::size_t(chunk_bytes(packer.planes)));
  const TrunkShape shape{mels, layers.front().inputs / mels, layers.back().outputs, packer.planes, across, chunks};
  return {shape, std::move(packer.bytes)};
}

bool trunk_fits(const TrunkShape& shape) {
  return TrunkBfloat16::fits(shape) || TrunkFloat32::fits(shape) || TrunkFloat32Small::fits(shape);
}

int trunk_forward(const TrunkArgs& args, void* stream) {
  if (TrunkBfloat16::fits(args.shape)) return TrunkBfloat16::run(args, stream);
  const bool fills = TrunkFloat32::blocks(args) >= multiprocessors();  // else smaller blocks, for more of them
  if (fills && TrunkFloat32::fits(args.shape)) return TrunkFloat32::run(args, stream);
  return TrunkFloat32Small::run(args, stream);
}

}  // namespace cuda
}  // namespace pyasd
