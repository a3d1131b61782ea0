#include "cpu/trunk.h"

#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "cpu/kernels.h"
#include "math/bfloat16.h"

namespace pyasd {

struct Trunk {
  TrunkTables tables;
  std::vector<TrunkLayer> layers;
  std::vector<TrunkTile> tiles;
  std::vector<TrunkSegment> segments;
  std::vector<float> weights, biases;
};

namespace {

// A factor's bfloat16 parts, in the upper halves: as split() in cpu/amx.inl.
void split(float x, int32_t parts, uint32_t part[3]) {
  if (parts == 1) {
    part[0] = bfloat16_bits(x);
    return;
  }
  for (int32_t p = 0; p < 3; ++p) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    part[p] = (bits + (p < 2 ? 0x8000u : 0)) & 0xffff0000u;
    x -= float_from_bits(part[p]);
  }
}

// The AMX tiles of one step, [part][vector of outputs][pair of inputs][output][even, odd input].
template <class Weight>
void add_amx_tiles(std::vector<float>& to, int32_t parts, int32_t outputs, const Weight& weight) {
  const std::size_t begin = to.size(), part_size = std::size_t(outputs) * kTileInputs / 2;
  to.resize(begin + parts * part_size);
  for (int32_t o = 0; o < outputs; ++o) {
    for (int32_t i = 0; i < kTileInputs; i += 2) {
      uint32_t even[3], odd[3];
      split(weight(o, i), parts, even);
      split(weight(o, i + 1), parts, odd);
      for (int32_t p = 0; p < parts; ++p) {
        to[begin + p * part_size + (o / 16 * 16 + i / 2) * 16 + o % 16] = float_from_bits(even[p] >> 16 | odd[p]);
      }
    }
  }
}

// One tile: its segments are the runs of steps in which any of its outputs has a weight.
void add_tile(Trunk& trunk, const DenseLayer& layer, int32_t first_output, int32_t outputs) {
  const TrunkTables& t = trunk.tables;
  const int32_t per_step = t.parts ? kTileInputs : t.pairs ? 2 : 1;
  const int32_t steps = (layer.inputs + per_step - 1) / per_step;
  TrunkTile tile{int32_t(trunk.segments.size()), 0, int64_t(trunk.weights.size())};
  const auto weight = [&](int32_t output, int32_t input) {
    const bool is_there = first_output + output < layer.outputs && input < layer.inputs;
    return is_there ? layer.weight[int64_t(first_output + output) * layer.inputs + input] : 0.0f;
  };
  const auto is_seen = [&](int32_t step) {
    for (int32_t o = 0; o < outputs; ++o) {
      for (int32_t i = step * per_step; i < (step + 1) * per_step; ++i) {
        if (weight(o, i) != 0) return true;
      }
    }
    return false;
  };
  bool in_run = false;
  for (int32_t step = 0; step < steps; ++step) {
    if (!is_seen(step)) {
      in_run = false;
      continue;
    }
    if (!in_run) {
      trunk.segments.push_back({step, 0});
      ++tile.segment_count;
      in_run = true;
    }
    ++trunk.segments.back().count;
    if (t.parts) {
      add_amx_tiles(trunk.weights, t.parts, outputs,
                    [&](int32_t output, int32_t input) { return weight(output, step * kTileInputs + input); });
      continue;
    }
    for (int32_t o = 0; o < outputs; ++o) {
      const float low = weight(o, step * per_step);
      if (t.pairs) {
        const float high = weight(o, step * 2 + 1);
        trunk.weights.push_back(float_from_bits(bfloat16_bits(low) >> 16 | bfloat16_bits(high)));
      } else {
        trunk.weights.push_back(t.bfloat16 ? float_from_bits(bfloat16_bits(low)) : low);
      }
    }
  }
  trunk.tiles.push_back(tile);
}

}  // namespace

Trunk* trunk_create(const DenseLayer* layers, int32_t count, int32_t frame, int32_t bfloat16, int isa) try {
  const Kernels* k = kernels(isa);
  if (k == nullptr) return nullptr;
  auto trunk = std::make_unique<Trunk>();
  TrunkTables& t = trunk->tables;
  t.layer_count = count;
  t.bfloat16 = bfloat16;
  t.widest = 0;
  bool all_even = frame % 2 == 0;  // else the windows begin in the middle of a pair
  for (int32_t i = 0; i < count; ++i) all_even = all_even && layers[i].inputs % 2 == 0;
  t.pairs = bfloat16 && k->bfloat16_pairs && all_even && !k->tile_products;
  t.parts = !k->tile_products ? 0 : bfloat16 ? 1 : 3;
  const int32_t width = kTrunkVectors * k->lanes;
  for (int32_t i = 0; i < count; ++i) {
    const DenseLayer& layer = layers[i];
    const int32_t padded = (layer.outputs + width - 1) / width * width;
    trunk->layers.push_back(
        {layer.inputs, layer.outputs, padded, int32_t(trunk->tiles.size()), int64_t(trunk->biases.size())});
    for (int32_t o = 0; o < padded; ++o) trunk->biases.push_back(o < layer.outputs ? layer.bias[o] : 0.0f);
    for (int32_t o = 0; o < padded; o += width) add_tile(*trunk, layer, o, width);
    if (padded > t.widest) t.widest = padded;
  }
  t.layers = trunk->layers.data();
  t.tiles = trunk->tiles.data();
  t.segments = trunk->segments.data();
  t.weights = trunk->weights.data();
  t.biases = trunk->biases.data();
  return trunk.release();
} catch (const std::bad_alloc&) {
  return nullptr;
}

const TrunkTables& tables(const Trunk& trunk) { return trunk.tables; }

void trunk_destroy(Trunk* trunk) { delete trunk; }

}  // namespace pyasd
