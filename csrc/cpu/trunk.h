// The tables of a packed trunk, read by every instruction set's kernel.
#pragma once

#include <cstdint>

#include "pyasd.h"

namespace pyasd {

constexpr int kTrunkVectors = 2;  // vectors of outputs in a tile
constexpr int kTileInputs = 32;   // inputs that an AMX tile takes

struct TrunkSegment {    // inputs in a row that a tile's outputs see
  int32_t first, count;  // in steps: inputs, pairs of them, or as many as an AMX tile takes
};

struct TrunkTile {  // kTrunkVectors vectors of a layer's outputs
  int32_t segment_begin, segment_count;
  int64_t weights;  // where they begin: for each step of each segment, a row of the tile's outputs (or AMX tiles)
};

struct TrunkLayer {
  int32_t inputs, outputs, padded;  // outputs, and these rounded up to whole tiles
  int32_t tile_begin;
  int64_t bias;  // where its `padded` biases begin
};

struct TrunkTables {
  int32_t layer_count;
  int32_t bfloat16;  // round the factors of all products
  int32_t pairs;     // and multiply them in pairs
  int32_t parts;     // multiply so many bfloat16 parts of each factor in AMX tiles (see cpu/amx.inl); 0: don't
  int32_t widest;    // the largest `padded`
  const TrunkLayer* layers;
  const TrunkTile* tiles;
  const TrunkSegment* segments;
  const float* weights;
  const float* biases;
};

const TrunkTables& tables(const Trunk& trunk);

}  // namespace pyasd
