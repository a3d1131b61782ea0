// The masked dense layers of Group MADE, each followed by ReLU, for a block of windows that stays in the L1 cache. A
// tile of outputs runs through the inputs that it sees alone: what a mask hides is not in the packed weights.

constexpr int kTrunkWindows = kLanes == 16 ? 8 : 6;        // windows of a register tile: 2 x 8 sums, or 2 x 6
constexpr int64_t kLayerWindows = kLanes == 16 ? 32 : 30;  // windows that run through the layers together, in L1

// What goes into the next product: the values, or these rounded to bfloat16, alone or in pairs.
PYASD_INLINE void store_factors(const TrunkTables& t, float* row, int64_t at, const vf x[kTrunkVectors]) {
  float part[kTrunkVectors * kLanes];
  for (int v = 0; v < kTrunkVectors; ++v) store(part + v * kLanes, x[v]);
  if (t.bfloat16) {
    for (float& value : part) value = round_bfloat16(value);
  }
  if (!t.pairs) {
    __builtin_memcpy(row + at, part, sizeof part);
    return;
  }
  uint16_t halves[kTrunkVectors * kLanes];
  for (int i = 0; i < kTrunkVectors * kLanes; ++i) {
    uint32_t bits;
    __builtin_memcpy(&bits, part + i, sizeof bits);
    halves[i] = uint16_t(bits >> 16);
  }
  __builtin_memcpy(row + at / 2, halves, sizeof halves);
}

template <bool Pairs>
static void dense_layer(const TrunkTables& t, const TrunkLayer& layer, const float* in, int64_t in_stride, float* out,
                        int64_t out_stride, int64_t count, bool last) {
  constexpr int64_t kWidth = kTrunkVectors * kLanes;
  for (int64_t tile_index = 0; tile_index * kWidth < layer.padded; ++tile_index) {
    const TrunkTile& tile = t.tiles[layer.tile_begin + tile_index];
    const float* bias = t.biases + layer.bias + tile_index * kWidth;
    in_whole_steps<kTrunkWindows>(count, [&](auto width, int64_t w) {
      constexpr int B = decltype(width)::value;
      vf sum[kTrunkVectors][B];
      for (int v = 0; v < kTrunkVectors; ++v) {
        for (int j = 0; j < B; ++j) sum[v][j] = load(bias + v * kLanes);
      }
      const float* weights = t.weights + tile.weights;
      for (int32_t s = 0; s < tile.segment_count; ++s) {
        const TrunkSegment& segment = t.segments[tile.segment_begin + s];
        accumulate<kTrunkVectors, B, Pairs>(
            sum, weights, kWidth, segment.count, in + w * in_stride + segment.first,
            [&](int j) { return j * in_stride; }, 1);
        weights += segment.count * kWidth;
      }
      for (int j = 0; j < B; ++j) {
        vf x[kTrunkVectors];
        for (int v = 0; v < kTrunkVectors; ++v) x[v] = at_least(sum[v][j], set1(0.0f));
        float* row = out + (w + j) * out_stride;
        if (!last) {
          store_factors(t, row, tile_index * kWidth, x);
          continue;
        }
        for (int v = 0; v < kTrunkVectors; ++v) {
          const int64_t at = tile_index * kWidth + v * kLanes;
          if (at < layer.outputs) store_part(row + at, x[v], layer.outputs - at);
        }
      }
    });
  }
}

static std::size_t trunk_scratch(const TrunkTables& t) {
  return std::size_t(2 * kLayerWindows * t.widest + 32) * sizeof(float);
}

// `in`: the factors of the first layer, row w at w * in_stride; `out`: [windows, outputs of the last layer].
static void trunk_forward(const TrunkTables& t, const float* in, int64_t in_stride, int64_t windows, float* out,
                          void* memory) {
  Scratch scratch{static_cast<float*>(memory)};
  float* buffers[2] = {scratch.take(kLayerWindows * t.widest), scratch.take(kLayerWindows * t.widest)};
  for (int64_t begin = 0; begin < windows; begin += kLayerWindows) {
    const int64_t count = windows - begin < kLayerWindows ? windows - begin : kLayerWindows;
    const float* from = in + begin * in_stride;
    int64_t stride = in_stride;
    for (int32_t i = 0; i < t.layer_count; ++i) {
      const TrunkLayer& layer = t.layers[i];
      const bool last = i + 1 == t.layer_count;
      float* to = last ? out + begin * layer.outputs : buffers[i % 2];
      const int64_t to_stride = last ? layer.outputs : t.pairs ? t.widest / 2 : t.widest;
      if (t.pairs) {
        dense_layer<kPairs>(t, layer, from, stride, to, to_stride, count, last);
      } else {
        dense_layer<false>(t, layer, from, stride, to, to_stride, count, last);
      }
      from = to;
      stride = to_stride;
    }
  }
}

// Frames standardised per band: as the head's targets, and as the first layer's factors (which may be the same).
static void standardise(const TrunkTables& t, const float* log_mel, int64_t frames, int64_t mels, const float* mean,
                        const float* inverse_scale, float* targets, float* factors) {
  for (int64_t f = 0; f < frames; ++f) {
    float* row = targets + f * mels;
    for (int64_t m = 0; m < mels; ++m) row[m] = (log_mel[f * mels + m] - mean[m]) * inverse_scale[m];
    if (!t.bfloat16) continue;
    for (int64_t m = 0; m < mels; ++m) {
      const float rounded = round_bfloat16(row[m]);
      if (!t.pairs) {
        factors[f * mels + m] = rounded;
        continue;
      }
      uint32_t bits;
      __builtin_memcpy(&bits, &rounded, sizeof bits);
      const uint16_t half = uint16_t(bits >> 16);
      __builtin_memcpy(reinterpret_cast<char*>(factors) + (f * mels + m) * sizeof half, &half, sizeof half);
    }
  }
}

// ---- the whole of Group MADE for a task's windows ----

static std::size_t group_made_scratch(const TrunkTables& t, const MixtureShape& head, int64_t windows, int64_t mels) {
  const int64_t frames = windows + head.groups - 1;
  const std::size_t floats = std::size_t((t.bfloat16 ? 2 : 1) * frames * mels + windows * head.hidden + 64);
  const std::size_t trunk = trunk_scratch(t), mixture = mixture_forward_scratch(head, windows);
  return floats * sizeof(float) + (trunk > mixture ? trunk : mixture);
}

static void group_made(const TrunkTables& t, const MixtureShape& head, const MixtureTile* tiles, int64_t tile_count,
                       const GroupMadeArgs& args, int64_t first, int64_t last, void* memory) {
  const int64_t windows = last - first, frames = windows + head.groups - 1;
  Scratch scratch{static_cast<float*>(memory)};
  float* z = scratch.take(frames * args.mels);
  float* factors = t.bfloat16 ? scratch.take(frames * args.mels) : z;
  float* hidden = scratch.take(windows * head.hidden);
  standardise(t, args.log_mel + first * args.mels, frames, args.mels, args.band_mean, args.inverse_scale, z, factors);
  trunk_forward(t, factors, t.pairs ? args.mels / 2 : args.mels, windows, hidden, scratch.next);
  const int64_t outputs = args.per_dim ? head.dims : head.groups;
  const MixtureForwardArgs mixture{args.packed, hidden, z, windows, head.hidden, args.mels, args.out + first * outputs,
                                   args.per_dim};
  mixture_forward(head, tiles, tile_count, mixture, 0, windows, scratch.next);
}
