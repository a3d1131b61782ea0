// The mixture head on a tile: up to kLanes output dimensions of one group, one dimension per SIMD lane.
//
// A tile's packed weights are [component][1 + prefix][logit, mean, log scale][lane]: the bias first, then one row for
// each hidden unit that the group sees (for bfloat16 with kPairs: for each two units, a pair); what the mask hides
// isn't there. Gradients need no packing: their lanes are hidden units, which a row of the plain weights has side by
// side. All three matrix products (outputs, weight gradients, hidden gradients) are the one register tile `accumulate`.

constexpr int kWindows = kLanes == 16 ? 8 : 4;     // windows of a register tile: 3 x 8 of 32 registers, or 3 x 4 of 16
constexpr int kRowVectors = 4;                     // hidden vectors of a register tile of gradients,
constexpr int kRowWindows = kLanes == 16 ? 6 : 3;  // by windows (of hidden gradients)
constexpr int kRowDims = kLanes == 16 ? 4 : 1;     // or by outputs (of weight gradients): of so many dimensions
constexpr int kRowParts = kLanes == 16 ? 1 : 3;    // logit, mean and log scale each by itself, or together
constexpr int64_t kBlock = 32;                     // windows whose outputs wait for their log-sum-exp, in L1 and L2

PYASD_INLINE vf load_part(const float* p, int64_t count) {
  if (count >= kLanes) return load(p);
  float part[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) part[i] = p[i];
  return load(part);
}

PYASD_INLINE void store_part(float* p, vf x, int64_t count) {
  if (count >= kLanes) return store(p, x);
  float part[kLanes];
  store(part, x);
  for (int64_t i = 0; i < count; ++i) p[i] = part[i];
}

PYASD_INLINE float sum_lanes(vf x) {  // pairwise, in a fixed order
  float part[kLanes];
  store(part, x);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  }
  return part[0];
}

static float round_bfloat16(float x) {  // to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  bits = x != x ? bits | 0x00400000u : bits + 0x7fff + ((bits >> 16) & 1);
  bits &= 0xffff0000u;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

// sum[v][j] += a[i * a_step + v] * b[at(j) + i * b_next] over i < count, in that order. The fewer factors wait in
// registers for the others, which come one by one: sums and factors then fit 16 registers if V * B is 12.
template <int V, int B, bool Pairs = false, class At>
PYASD_INLINE void accumulate(vf sum[V][B], const float* a, int64_t a_step, int64_t count, const float* b, const At& at,
                             int64_t b_next) {
  for (int64_t i = 0; i < count; ++i, a += a_step, b += b_next) {
    if constexpr (V <= B) {
      vf x[V];
      for (int v = 0; v < V; ++v) x[v] = load(a + v * kLanes);
      for (int j = 0; j < B; ++j) {
        const vf y = set1(b[at(j)]);
        for (int v = 0; v < V; ++v) sum[v][j] = multiply_add<Pairs>(x[v], y, sum[v][j]);
      }
    } else {
      vf y[B];
      for (int j = 0; j < B; ++j) y[j] = set1(b[at(j)]);
      for (int v = 0; v < V; ++v) {
        const vf x = load(a + v * kLanes);
        for (int j = 0; j < B; ++j) sum[v][j] = multiply_add<Pairs>(x, y[j], sum[v][j]);
      }
    }
  }
}

// Calls step(std::integral_constant-like<B>, j) for j = 0 ... count - 1 in steps of B = Most, then of its halves.
template <int B>
struct Width {
  static constexpr int value = B;
};
template <int Most, class Step>
PYASD_INLINE void in_steps(int64_t count, const Step& step) {
  int64_t j = 0;
  for (; j + Most <= count; j += Most) step(Width<Most>{}, j);
  if constexpr (Most > 1) {
    if (j < count) in_steps<Most / 2>(count - j, [&](auto width, int64_t at) { step(width, j + at); });
  }
}

// The same for steps that may be done twice: what is left over makes one more whole step, together with what was done.
template <int Most, class Step>
PYASD_INLINE void in_whole_steps(int64_t count, const Step& step) {
  if (count < Most) return in_steps<(Most + 1) / 2>(count, step);
  int64_t j = 0;
  for (; j + Most <= count; j += Most) step(Width<Most>{}, j);
  if (j < count) step(Width<Most>{}, count - Most);
}

static int64_t whole_vectors(int64_t count) { return (count + kLanes - 1) / kLanes; }

static int64_t component_size(int64_t steps) { return (1 + steps) * 3 * kLanes; }

PYASD_INLINE bool in_pairs(const MixtureShape& shape) { return kPairs && shape.bfloat16; }

// Steps of the matrix product for a group that sees `prefix` hidden units.
PYASD_INLINE int64_t product_steps(const MixtureShape& shape, int64_t prefix) {
  return in_pairs(shape) ? (prefix + 1) / 2 : prefix;
}

static int64_t tile_packed_size(const MixtureShape& shape, int64_t prefix) {
  return shape.components * component_size(product_steps(shape, prefix));
}

static void mixture_pack(const MixtureShape& shape, const MixtureTile& tile, const float* weight, const float* bias,
                         float* packed) {
  for (int64_t k = 0; k < shape.components; ++k) {
    float* out = packed + tile.packed + k * component_size(product_steps(shape, tile.prefix));
    for (int64_t p = 0; p < 3; ++p) {
      const auto row = [&](int64_t lane) { return (p * shape.dims + tile.first_dim + lane) * shape.components + k; };
      float biases[kLanes] = {};
      for (int64_t lane = 0; lane < tile.dims; ++lane) biases[lane] = bias[row(lane)];
      store(out + p * kLanes, load(biases));
      for (int64_t h = 0; h < tile.prefix; h += kLanes) {
        vf r[kLanes];
        for (int64_t lane = 0; lane < kLanes; ++lane) {
          r[lane] = lane < tile.dims ? load_part(weight + row(lane) * shape.hidden + h, tile.prefix - h) : set1(0.0f);
          if (shape.bfloat16) {
            float part[kLanes];
            store(part, r[lane]);
            for (float& x : part) x = round_bfloat16(x);
            r[lane] = load(part);
          }
        }
        transpose(r);
        const int64_t taken = in_pairs(shape) ? 2 : 1;
        for (int64_t i = 0; i < kLanes && h + i < tile.prefix; i += taken) {
          store(out + ((1 + (h + i) / taken) * 3 + p) * kLanes, in_pairs(shape) ? pair(r[i], r[i + 1]) : r[i]);
        }
      }
    }
  }
}

// Hands out a task's scratch memory, in floats.
struct Scratch {
  float* next;
  float* take(int64_t count) {
    float* here = next;
    next += (count + 15) / 16 * 16;
    return here;
  }
};

// The hidden units of a task's windows: rows of whole vectors, rounded where the shape asks for bfloat16 (a copy in
// scratch memory where they aren't that already); and as the product takes them, which may be in pairs.
struct Hidden {
  const float* data;
  int64_t stride;
  const float* factor;
  int64_t factor_stride;
};
static bool hidden_as_they_are(const MixtureShape& shape) { return !shape.bfloat16 && shape.hidden % kLanes == 0; }
static int64_t hidden_scratch(const MixtureShape& shape, int64_t windows) {
  return hidden_as_they_are(shape) ? 0 : windows * (whole_vectors(shape.hidden) * kLanes + (shape.hidden + 1) / 2);
}
static Hidden hidden_rows(const MixtureShape& shape, const float* hidden, int64_t stride, int64_t first, int64_t last,
                          float* copy) {
  if (hidden_as_they_are(shape)) return {hidden + first * stride, stride, hidden + first * stride, stride};
  const int64_t padded = whole_vectors(shape.hidden) * kLanes, pairs = (shape.hidden + 1) / 2;
  float* in_twos = copy + (last - first) * padded;
  for (int64_t w = 0; w < last - first; ++w) {
    float* row = copy + w * padded;
    for (int64_t h = 0; h < padded; ++h) {
      const float x = h < shape.hidden ? hidden[(first + w) * stride + h] : 0.0f;
      row[h] = shape.bfloat16 ? round_bfloat16(x) : x;
    }
    for (int64_t h = 0; in_pairs(shape) && h < shape.hidden; h += 2) {
      uint32_t low, high = 0;
      __builtin_memcpy(&low, row + h, sizeof low);
      if (h + 1 < shape.hidden) __builtin_memcpy(&high, row + h + 1, sizeof high);
      const uint32_t both = low >> 16 | (high & 0xffff0000u);
      __builtin_memcpy(in_twos + w * pairs + h / 2, &both, sizeof both);
    }
  }
  if (in_pairs(shape)) return {copy, padded, in_twos, pairs};
  return {copy, padded, copy, padded};
}

// A tile's outputs for one component of `count` windows: emit(w, logit, mean, log_scale) for each.
template <bool Pairs, class Emit>
PYASD_INLINE void outputs(const float* packed, int64_t prefix, const float* hidden, int64_t stride, int64_t count,
                          const Emit& emit) {
  in_whole_steps<kWindows>(count, [&](auto width, int64_t w) {
    constexpr int B = decltype(width)::value;
    vf sum[3][B];
    for (int p = 0; p < 3; ++p) {
      for (int j = 0; j < B; ++j) sum[p][j] = load(packed + p * kLanes);
    }
    const int64_t steps = Pairs ? prefix / 2 : prefix;
    accumulate<3, B, Pairs>(
        sum, packed + 3 * kLanes, 3 * kLanes, steps, hidden + w * stride, [&](int j) { return j * stride; }, 1);
    if (Pairs && prefix % 2) {  // half a pair: the other unit, which may be NaN, must not be multiplied even by zero
      float half[B];
      for (int j = 0; j < B; ++j) {
        uint32_t bits;
        __builtin_memcpy(&bits, hidden + (w + j) * stride + steps, sizeof bits);
        bits &= 0xffffu;
        __builtin_memcpy(half + j, &bits, sizeof bits);
      }
      accumulate<3, B, Pairs>(sum, packed + (1 + steps) * 3 * kLanes, 3 * kLanes, 1, half, [](int j) { return j; }, 1);
    }
    for (int j = 0; j < B; ++j) emit(w + j, sum[0][j], sum[1][j], sum[2][j]);
  });
}

// One window's log-likelihoods from its components' logits and weighted log densities, each `step` floats apart.
PYASD_INLINE vf mixture_value(const float* logits, const float* components, int64_t count, int64_t step) {
  vf max_logit = load(logits), max_component = load(components);
  for (int64_t k = 1; k < count; ++k) {
    max_logit = larger(max_logit, load(logits + k * step));
    max_component = larger(max_component, load(components + k * step));
  }
  const vf shift_logit = finite_shift(max_logit), shift_component = finite_shift(max_component);
  vf sum_logit = set1(0.0f), sum_component = set1(0.0f);
  for (int64_t k = 0; k < count; ++k) {
    sum_logit = sum_logit + exp_term(load(logits + k * step) - shift_logit);
    sum_component = sum_component + exp_term(load(components + k * step) - shift_component);
  }
  return log_mixture(max_logit, sum_logit, max_component, sum_component);
}

// Where a window's log-likelihoods go: each to its dimension in `out`, or all of the group's tiles, added up in `sum`,
// to the group's element.
PYASD_INLINE void put_value(const MixtureTile& tile, bool opens_group, bool closes_group, vf value, float* sum,
                            bool per_dim, float* out) {
  if (per_dim) return store_part(out + tile.first_dim, value, tile.dims);
  float own[kLanes];
  store(own, value);
  for (int lane = tile.dims; lane < kLanes; ++lane) own[lane] = 0;
  const vf total = opens_group ? load(own) : load(sum) + load(own);
  store(sum, total);
  if (closes_group) out[tile.group] = sum_lanes(total);
}

static std::size_t mixture_forward_scratch(const MixtureShape& shape, int64_t windows) {
  const int64_t floats =
      windows * kLanes + 2 * shape.components * kBlock * kLanes + hidden_scratch(shape, windows) + 64;
  return std::size_t(floats) * sizeof(float);
}

template <bool Pairs>
static void forward(const MixtureShape& shape, const MixtureTile* tiles, int64_t tile_count,
                    const MixtureForwardArgs& args, int64_t first, int64_t last, void* memory) {
  Scratch scratch{static_cast<float*>(memory)};
  float* sums = scratch.take((last - first) * kLanes);
  float* logits = scratch.take(shape.components * kBlock * kLanes);
  float* components = scratch.take(shape.components * kBlock * kLanes);
  const Hidden hidden = hidden_rows(shape, args.hidden, args.hidden_stride, first, last, scratch.next);
  const vf log_scale_min = set1(shape.log_scale_min);
  for (int64_t t = 0; t < tile_count; ++t) {
    const MixtureTile& tile = tiles[t];
    const int64_t steps = product_steps(shape, tile.prefix);
    const bool opens_group = t == 0 || tiles[t - 1].group != tile.group;
    const bool closes_group = t + 1 == tile_count || tiles[t + 1].group != tile.group;
    for (int64_t begin = first; begin < last; begin += kBlock) {
      const int64_t count = last - begin < kBlock ? last - begin : kBlock;
      const float* target = args.target + begin * args.target_stride + tile.first_dim;
      for (int64_t k = 0; k < shape.components; ++k) {
        outputs<Pairs>(args.packed + tile.packed + k * component_size(steps), tile.prefix,
                       hidden.factor + (begin - first) * hidden.factor_stride, hidden.factor_stride, count,
                       [&](int64_t w, vf logit, vf mean, vf log_scale) {
                         const vf x = load_part(target + w * args.target_stride, tile.dims);
                         const int64_t at = (k * kBlock + w) * kLanes;
                         store(logits + at, logit);
                         store(components + at, log_component(x, logit, mean, log_scale, log_scale_min));
                       });
      }
      for (int64_t w = 0; w < count; ++w) {
        const vf value = mixture_value(logits + w * kLanes, components + w * kLanes, shape.components, kBlock * kLanes);
        const int64_t row = begin + w;
        put_value(tile, opens_group, closes_group, value, sums + (row - first) * kLanes, args.per_dim != 0,
                  args.out + row * (args.per_dim ? shape.dims : shape.groups));
      }
    }
  }
}

static void mixture_forward(const MixtureShape& shape, const MixtureTile* tiles, int64_t tile_count,
                            const MixtureForwardArgs& args, int64_t first, int64_t last, void* memory) {
  if (in_pairs(shape)) return forward<kPairs>(shape, tiles, tile_count, args, first, last, memory);
  forward<false>(shape, tiles, tile_count, args, first, last, memory);
}
