// The mixture head and the trunk on AMX tiles: 16 windows x 32 inputs times 32 inputs x 16 outputs (one output
// dimension of the head per lane, as in mixture.inl), two by two. Everything else is the AVX-512 code that was included
// before.
//
// A factor is one bfloat16 part, its rounding, for products of bfloat16 factors; or three, whose sum it is, for
// float32: x = high + middle + low, of eight significant bits each. Of the nine products of parts the six that reach
// into float32's precision are done; the largest left out, middle x low, is 2^-25 of the whole at most. The parts of an
// infinity are infinite and NaN, so that it makes its sums NaN where float32 factors would leave them infinite.
//
// In memory, windows x inputs in parts are `Left`; a weight tile is [pair of inputs][output][even, odd input], 1 KB.
// AMX and AVX-512 arithmetic don't overlap, and switching costs about half a microsecond: each gets large blocks.

#include "cpu/tile.inl"

constexpr int64_t kTileRows = 16;
constexpr int64_t kTileHalves = 512;              // bfloat16 numbers in a tile
constexpr int64_t kTileFloats = kTileHalves / 2;  // floats in as much memory, and in a tile of sums
constexpr int64_t kTrunkBlock = 128;              // windows that run through the layers together, in L2

static int64_t round_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// Tiles live in a thread's registers for one task only: pool threads come and go, and so do callers.
struct TileSession {
  TileSession() {
    TileConfig config;
    for (int t = 0; t < 8; ++t) {
      config.rows[t] = kTileRows;
      config.row_bytes[t] = 64;
    }
    tiles_configure(config);
  }
  ~TileSession() { tiles_release(); }
};

// ---- factors in parts ----

// The parts of 16 factors, in the upper halves of their lanes.
template <int Parts>
PYASD_INLINE void split(vf x, __m512i part[Parts]) {
  const __m512i upper = _mm512_set1_epi32(int(0xffff0000u));
  if constexpr (Parts == 1) {  // to nearest, ties to even; a NaN becomes a quiet one
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x00400000));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    part[0] = _mm512_and_si512(_mm512_mask_mov_epi32(rounded, is_nan, quiet), upper);
  } else {  // to nearest; what remains of the last has eight bits, and is NaN where x was
    for (int p = 0; p < Parts; ++p) {
      const __m512i bits = _mm512_castps_si512(x);
      const __m512i half = _mm512_set1_epi32(p + 1 < Parts ? 0x8000 : 0);
      part[p] = _mm512_and_si512(_mm512_add_epi32(bits, half), upper);
      x = x - _mm512_castsi512_ps(part[p]);
    }
  }
}

PYASD_INLINE vf load_first(const float* from, int64_t count) {  // the lanes from `count` on are zero
  if (count >= kLanes) return load(from);
  return _mm512_maskz_loadu_ps(__mmask16(count > 0 ? (1u << count) - 1 : 0), from);
}

PYASD_INLINE void store_halves(uint16_t* to, __m512i part) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_cvtepi32_epi16(_mm512_srli_epi32(part, 16)));
}

// Up to 16 factors in parts that are `part_stride` numbers apart, filled up with zeros to 16.
template <int Parts>
PYASD_INLINE void store_parts(uint16_t* to, int64_t part_stride, vf x) {
  __m512i part[Parts];
  split<Parts>(x, part);
  for (int p = 0; p < Parts; ++p) store_halves(to + p * part_stride, part[p]);
}

// Windows x inputs in parts; strides in bfloat16 numbers. Where the last tile of inputs is not full, or not to be read
// to its end, it is taken from `tail` instead, filled up with zeros: what lies beyond might be NaN, and NaN times zero
// is.
struct Left {
  const uint16_t* data;
  int64_t row, tile, part;  // from window to window, from 32 inputs to the next 32, from part to part
  const uint16_t* tail;
  int64_t tail_tile, tail_part;  // which tile that is, -1: none; its rows are 32 numbers apart
};

struct LeftTile {
  const uint16_t* data;
  int64_t row, part;
};

PYASD_INLINE LeftTile left_tile(const Left& left, int64_t window, int64_t tile) {
  if (tile == left.tail_tile) return {left.tail + window * kTileInputs, kTileInputs, left.tail_part};
  return {left.data + window * left.row + tile * left.tile, left.row, left.part};
}

// Fills a tail with the first `inputs` of its tile's for `windows` windows, and with zeros.
template <int Parts>
static Left with_tail(Left left, int64_t tile, int64_t inputs, int64_t windows, uint16_t* tail) {
  const __mmask32 mask = (__mmask32(1) << inputs) - 1;
  const int64_t rows = round_up(windows, kTileRows);
  for (int p = 0; p < Parts; ++p) {
    for (int64_t w = 0; w < rows; ++w) {
      const uint16_t* from = left.data + p * left.part + w * left.row + tile * left.tile;
      const __m512i row = w < windows ? _mm512_maskz_loadu_epi16(mask, from) : _mm512_setzero_si512();
      _mm512_storeu_si512(tail + (p * rows + w) * kTileInputs, row);
    }
  }
  left.tail = tail;
  left.tail_tile = tile;
  left.tail_part = rows * kTileInputs;
  return left;
}

// ---- products: sums in tiles 0 to 3, windows in 4 and 5, weights in 6 and 7 ----

template <int Rows, int Columns>
PYASD_INLINE void multiply() {
  tile_multiply_add<0, 4, 6>();
  if constexpr (Columns > 1) tile_multiply_add<1, 4, 7>();
  if constexpr (Rows > 1) tile_multiply_add<2, 5, 6>();
  if constexpr (Rows > 1 && Columns > 1) tile_multiply_add<3, 5, 7>();
}

// The products of one step of 32 inputs; its weights are [part][column] tiles.
template <int Rows, int Columns, int Parts>
PYASD_INLINE void add_step(const LeftTile& left, const uint16_t* weights) {
  const auto windows = [&](int part) {
    tile_load<4>(left.data + part * left.part, left.row * 2);
    if constexpr (Rows > 1) tile_load<5>(left.data + part * left.part + kTileRows * left.row, left.row * 2);
  };
  const auto columns = [&](int part) {
    tile_load<6>(weights + part * Columns * kTileHalves, 64);
    if constexpr (Columns > 1) tile_load<7>(weights + (part * Columns + 1) * kTileHalves, 64);
  };
  const auto product = [&] { multiply<Rows, Columns>(); };
  if constexpr (Parts == 1) {
    windows(0), columns(0), product();
  } else {  // each load serves two products where it can
    windows(2), columns(0), product();
    windows(1), product();
    columns(1), product();
    windows(0), product();
    columns(2), product();
    columns(0), product();
  }
}

// Sums begin as the biases, one to a column, in every window.
template <int Rows, int Columns>
PYASD_INLINE void begin_sums(const float* bias) {
  tile_load<0>(bias, 0);
  if constexpr (Columns > 1) tile_load<1>(bias + kLanes, 0);
  if constexpr (Rows > 1) tile_load<2>(bias, 0);
  if constexpr (Rows > 1 && Columns > 1) tile_load<3>(bias + kLanes, 0);
}

// To [column][window][lane], columns `column` floats apart.
template <int Rows, int Columns>
PYASD_INLINE void end_sums(float* out, int64_t column) {
  tile_store<0>(out, 64);
  if constexpr (Columns > 1) tile_store<1>(out + column, 64);
  if constexpr (Rows > 1) tile_store<2>(out + kTileFloats, 64);
  if constexpr (Rows > 1 && Columns > 1) tile_store<3>(out + column + kTileFloats, 64);
}

static void amx_tile_check(const uint16_t* a, const uint16_t* b, const float* bias, float* c) {
  const TileSession session;
  begin_sums<2, 2>(bias);
  add_step<2, 2, 1>({a, kTileInputs, 0}, b);
  end_sums<2, 2>(c, 2 * kTileFloats);
}

static double amx_probe_pairs(int64_t rounds, float* sink) {
  const TileSession session;
  const uint16_t factors[kTileHalves] = {};
  float sums[4 * kTileFloats];
  const float biases[2 * kLanes] = {};
  begin_sums<2, 2>(biases);
  tile_load<4>(factors, 64);
  tile_load<5>(factors, 64);
  tile_load<6>(factors, 64);
  tile_load<7>(factors, 64);
  for (int64_t r = 0; r < rounds; ++r) multiply<2, 2>();
  end_sums<2, 2>(sums, 2 * kTileFloats);
  *sink = sums[0];
  return double(rounds) * 4 * kTileFloats * kTileInputs * 2;
}

// ---- mixture head ----
//
// A tile's packed weights: the biases of its columns [component][logit, mean, log scale][lane]; then for each two
// columns (the last may be single) the weight tiles [32 inputs][part][column], the last filled up with zeros.

static int64_t head_steps(int64_t prefix) { return (prefix + kTileInputs - 1) / kTileInputs; }

static int64_t amx_tile_packed_size(const MixtureShape& shape, int64_t prefix) {
  return 3 * shape.components * (kLanes + head_steps(prefix) * (shape.bfloat16 ? 1 : 3) * kTileFloats);
}

template <int Parts>
static void pack(const MixtureShape& shape, const MixtureTile& tile, const float* weight, const float* bias,
                 float* packed) {
  const int64_t columns = 3 * shape.components, steps = head_steps(tile.prefix);
  float* biases = packed + tile.packed;
  for (int64_t c = 0; c < columns; ++c) {
    const auto row = [&](int64_t lane) {
      return (c % 3 * shape.dims + tile.first_dim + lane) * shape.components + c / 3;
    };
    const int64_t together = c / 2 * 2 + 1 < columns ? 2 : 1;
    float* weights = biases + columns * kLanes + c / 2 * 2 * steps * Parts * kTileFloats + c % 2 * kTileFloats;
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      biases[c * kLanes + lane] = lane < tile.dims ? bias[row(lane)] : 0.0f;
    }
    for (int64_t h = 0; h < steps * kTileInputs; h += kLanes) {
      vf r[kLanes];
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        r[lane] = lane < tile.dims ? load_first(weight + row(lane) * shape.hidden + h, tile.prefix - h) : set1(0.0f);
      }
      transpose(r);
      float* to = weights + h / kTileInputs * together * Parts * kTileFloats + h % kTileInputs / 2 * kLanes;
      for (int64_t i = 0; i < kLanes; i += 2, to += kLanes) {
        __m512i even[Parts], odd[Parts];
        split<Parts>(r[i], even);
        split<Parts>(r[i + 1], odd);
        for (int p = 0; p < Parts; ++p) {
          const __m512i both = _mm512_or_si512(_mm512_srli_epi32(even[p], 16), odd[p]);
          store(to + p * together * kTileFloats, _mm512_castsi512_ps(both));
        }
      }
    }
  }
}

static void amx_mixture_pack(const MixtureShape& shape, const MixtureTile& tile, const float* weight, const float* bias,
                             float* packed) {
  if (shape.bfloat16) return pack<1>(shape, tile, weight, bias, packed);
  pack<3>(shape, tile, weight, bias, packed);
}

// Floats of the hidden units of `windows` windows as a Left.
static int64_t left_size(int64_t windows, int64_t inputs, int64_t parts) {
  return round_up(windows, kTileRows) * round_up(inputs, kTileInputs) * parts / 2;
}

static int64_t head_scratch(const MixtureShape& shape, int64_t windows) {
  const int64_t sums = windows * kLanes, outputs = 3 * shape.components * kBlock * kLanes;
  return sums + outputs + left_size(windows, kTileInputs, 3) + 64;
}

template <int Rows, int Parts>
PYASD_INLINE void head_rows(const float* packed, int64_t columns, int64_t steps, const Left& left, int64_t window,
                            float* out) {
  in_steps<2>(columns, [&](auto width, int64_t c) {
    constexpr int Columns = decltype(width)::value;
    const float* weights = packed + columns * kLanes + c * steps * Parts * kTileFloats;
    begin_sums<Rows, Columns>(packed + c * kLanes);
    for (int64_t s = 0; s < steps; ++s, weights += Parts * Columns * kTileFloats) {
      add_step<Rows, Columns, Parts>(left_tile(left, window, s), reinterpret_cast<const uint16_t*>(weights));
    }
    end_sums<Rows, Columns>(out + c * kBlock * kLanes, kBlock * kLanes);
  });
}

// One tile's outputs for `count` windows, at most kBlock: [component][logit, mean, log scale][window][lane].
template <int Parts>
static void head_outputs(const float* packed, int64_t columns, int64_t steps, const Left& left, int64_t window,
                         int64_t count, float* out) {
  static_assert(kBlock == 2 * kTileRows, "two tiles of windows");
  if (count > kTileRows) return head_rows<2, Parts>(packed, columns, steps, left, window, out);
  head_rows<1, Parts>(packed, columns, steps, left, window, out);
}

// `target` and `out` are those of the first of the `windows` windows that `hidden` holds.
template <int Parts>
static void head(const MixtureShape& shape, const MixtureTile* tiles, int64_t tile_count, const float* packed,
                 Left hidden, const float* target, int64_t target_stride, int64_t windows, float* out, bool per_dim,
                 Scratch scratch) {
  const int64_t columns = 3 * shape.components, column = kBlock * kLanes;
  float* sums = scratch.take(windows * kLanes);
  float* results = scratch.take(columns * column);
  uint16_t* tail = reinterpret_cast<uint16_t*>(scratch.take(left_size(windows, kTileInputs, Parts)));
  const vf log_scale_min = set1(shape.log_scale_min);
  const TileSession session;
  for (int64_t t = 0; t < tile_count; ++t) {
    const MixtureTile& tile = tiles[t];
    const int64_t steps = head_steps(tile.prefix);
    const bool opens_group = t == 0 || tiles[t - 1].group != tile.group;
    const bool closes_group = t + 1 == tile_count || tiles[t + 1].group != tile.group;
    if (opens_group) {
      hidden.tail_tile = -1;
      if (tile.prefix % kTileInputs) {
        hidden = with_tail<Parts>(hidden, steps - 1, tile.prefix % kTileInputs, windows, tail);
      }
    }
    for (int64_t begin = 0; begin < windows; begin += kBlock) {
      const int64_t count = windows - begin < kBlock ? windows - begin : kBlock;
      head_outputs<Parts>(packed + tile.packed, columns, steps, hidden, begin, count, results);
      for (int64_t w = 0; w < count; ++w) {
        const vf x = load_first(target + (begin + w) * target_stride + tile.first_dim, tile.dims);
        float* own = results + w * kLanes;  // a component's weighted log density takes its mean's place
        for (int64_t c = 0; c < columns; c += 3) {
          const vf logit = load(own + c * column), mean = load(own + (c + 1) * column);
          store(own + (c + 1) * column, log_component(x, logit, mean, load(own + (c + 2) * column), log_scale_min));
        }
        put_value(tile, opens_group, closes_group, mixture_value(own, own + column, shape.components, 3 * column),
                  sums + (begin + w) * kLanes, per_dim, out + (begin + w) * (per_dim ? shape.dims : shape.groups));
      }
    }
  }
}

static std::size_t amx_mixture_forward_scratch(const MixtureShape& shape, int64_t windows) {
  return std::size_t(left_size(windows, shape.hidden, 3) + head_scratch(shape, windows)) * sizeof(float);
}

// Windows [first, last) of rows `stride` apart, as a Left of the first `inputs` of their units.
template <int Parts>
static Left left_rows(const float* hidden, int64_t stride, int64_t first, int64_t last, int64_t inputs,
                      Scratch* scratch) {
  const int64_t windows = last - first, rows = round_up(windows, kTileRows), size = left_size(windows, inputs, 1);
  uint16_t* left = reinterpret_cast<uint16_t*>(scratch->take(Parts * size));
  for (int64_t h = 0; h < round_up(inputs, kTileInputs); h += kLanes) {
    uint16_t* to = left + h / kTileInputs * rows * kTileInputs + h % kTileInputs;
    for (int64_t w = 0; w < rows; ++w, to += kTileInputs) {
      store_parts<Parts>(to, 2 * size,
                         w < windows ? load_first(hidden + (first + w) * stride + h, inputs - h) : set1(0.0f));
    }
  }
  return {left, kTileInputs, rows * kTileInputs, 2 * size, nullptr, -1, 0};
}

template <int Parts>
static void forward_in_parts(const MixtureShape& shape, const MixtureTile* tiles, int64_t tile_count,
                             const MixtureForwardArgs& args, int64_t first, int64_t last, Scratch scratch) {
  const Left left = left_rows<Parts>(args.hidden, args.hidden_stride, first, last, shape.hidden, &scratch);
  head<Parts>(shape, tiles, tile_count, args.packed, left, args.target + first * args.target_stride, args.target_stride,
              last - first, args.out + first * (args.per_dim ? shape.dims : shape.groups), args.per_dim != 0, scratch);
}

static void amx_mixture_forward(const MixtureShape& shape, const MixtureTile* tiles, int64_t tile_count,
                                const MixtureForwardArgs& args, int64_t first, int64_t last, void* memory) {
  const Scratch scratch{static_cast<float*>(memory)};
  if (shape.bfloat16) return forward_in_parts<1>(shape, tiles, tile_count, args, first, last, scratch);
  forward_in_parts<3>(shape, tiles, tile_count, args, first, last, scratch);
}

// The gradients' own products are mixture_backward.inl's.
static std::size_t amx_mixture_backward_scratch(const MixtureShape& shape, int64_t windows) {
  const int64_t more = left_size(windows, shape.hidden, 3) + 3 * shape.components * kBlock * kLanes + 32;
  return mixture_backward_scratch(shape, windows) + std::size_t(more) * sizeof(float);
}

template <int Parts>
static void backward_in_parts(const MixtureShape& shape, const MixtureTile& tile, const MixtureBackwardArgs& args,
                              int64_t first, int64_t last, float* d_hidden, float* values, Scratch scratch) {
  const int64_t columns = 3 * shape.components, column = kBlock * kLanes;
  const Hidden all = hidden_rows(shape, args.hidden, args.hidden_stride, first, last,
                                 scratch.take(hidden_scratch(shape, last - first)));
  const Left left = left_rows<Parts>(args.hidden, args.hidden_stride, first, last, tile.prefix, &scratch);
  float* results = scratch.take(columns * column);
  const TileSession session;
  backward(shape, tile, args, first, last, d_hidden, values, scratch, all,
           [&](int64_t begin, int64_t count, const auto& emit) {
             for (int64_t at = 0; at < count; at += kBlock) {
               const int64_t rest = count - at < kBlock ? count - at : kBlock;
               head_outputs<Parts>(args.packed + tile.packed, columns, head_steps(tile.prefix), left,
                                   begin - first + at, rest, results);
               for (int64_t w = 0; w < rest; ++w) {
                 const float* own = results + w * kLanes;
                 for (int64_t k = 0; k < shape.components; ++k, own += 3 * column) {
                   emit(k, at + w, load(own), load(own + column), load(own + 2 * column));
                 }
               }
             }
           });
}

static void amx_mixture_backward(const MixtureShape& shape, const MixtureTile& tile, const MixtureBackwardArgs& args,
                                 int64_t first, int64_t last, float* d_hidden, float* values, void* memory) {
  const Scratch scratch{static_cast<float*>(memory)};
  if (shape.bfloat16) return backward_in_parts<1>(shape, tile, args, first, last, d_hidden, values, scratch);
  backward_in_parts<3>(shape, tile, args, first, last, d_hidden, values, scratch);
}

// ---- trunk, and the whole of Group MADE ----
//
// A layer's packed weights are, for each two vectors of outputs, the tiles of the steps that any of them sees.

template <int Rows, int Parts>
PYASD_INLINE void dense_tile(const TrunkTables& t, const TrunkTile& tile, const float* bias, const Left& left,
                             int64_t window, float* out) {
  const float* weights = t.weights + tile.weights;
  begin_sums<Rows, kTrunkVectors>(bias);
  for (int32_t i = 0; i < tile.segment_count; ++i) {
    const TrunkSegment& segment = t.segments[tile.segment_begin + i];
    for (int32_t s = 0; s < segment.count; ++s, weights += Parts * kTrunkVectors * kTileFloats) {
      add_step<Rows, kTrunkVectors, Parts>(left_tile(left, window, segment.first + s),
                                           reinterpret_cast<const uint16_t*>(weights));
    }
  }
  end_sums<Rows, kTrunkVectors>(out, kTrunkBlock * kLanes);
}

// One layer of up to kTrunkBlock windows: all products into `sums`, [vector of outputs][window][lane], then ReLU and
// the parts of what comes out, [part][32 outputs][window][output]; `tile` and `part` are the strides of those.
template <int Parts>
static void dense(const TrunkTables& t, const TrunkLayer& layer, const Left& left, int64_t windows, float* sums,
                  uint16_t* out, int64_t tile, int64_t part) {
  constexpr int64_t kWidth = kTrunkVectors * kLanes, kPair = kTrunkVectors * kTrunkBlock * kLanes;
  static_assert(kWidth == kTileInputs, "a tile of outputs is a tile of the next layer's inputs");
  for (int64_t i = 0; i * kWidth < layer.padded; ++i) {
    const float* bias = t.biases + layer.bias + i * kWidth;
    for (int64_t w = 0; w < windows; w += 2 * kTileRows) {
      float* to = sums + i * kPair + w * kLanes;
      if (windows - w > kTileRows)
        dense_tile<2, Parts>(t, t.tiles[layer.tile_begin + i], bias, left, w, to);
      else
        dense_tile<1, Parts>(t, t.tiles[layer.tile_begin + i], bias, left, w, to);
    }
  }
  for (int64_t i = 0; i * kWidth < layer.padded; ++i) {
    for (int64_t w = 0; w < round_up(windows, kTileRows); ++w) {
      for (int64_t v = 0; v < kTrunkVectors; ++v) {
        const vf x = load(sums + i * kPair + (v * kTrunkBlock + w) * kLanes);
        store_parts<Parts>(out + i * tile + w * kTileInputs + v * kLanes, part, at_least(x, set1(0.0f)));
      }
    }
  }
}

static int64_t trunk_floats(const TrunkTables& t) {
  return kTrunkBlock * t.widest + 2 * left_size(kTrunkBlock, t.widest, 3) + left_size(kTrunkBlock, kTileInputs, 3) + 64;
}

// `in` holds the windows where they overlap, with kTileRows - 1 rows to spare; the last layer's outputs go to `out`.
template <int Parts>
static void trunk(const TrunkTables& t, const Left& in, int64_t windows, uint16_t* out, int64_t out_tile,
                  int64_t out_part, Scratch scratch) {
  const int64_t tile = kTrunkBlock * kTileInputs, part = 2 * left_size(kTrunkBlock, t.widest, 1);
  float* sums = scratch.take(kTrunkBlock * t.widest);
  uint16_t* buffers[2];
  for (uint16_t*& buffer : buffers) buffer = reinterpret_cast<uint16_t*>(scratch.take(Parts * part / 2));
  uint16_t* tail = reinterpret_cast<uint16_t*>(scratch.take(left_size(kTrunkBlock, kTileInputs, Parts)));
  const int32_t inputs = t.layers[0].inputs;
  const TileSession session;
  for (int64_t begin = 0; begin < windows; begin += kTrunkBlock) {
    const int64_t count = windows - begin < kTrunkBlock ? windows - begin : kTrunkBlock;
    Left left = in;
    left.data += begin * in.row;
    if (inputs % kTileInputs) left = with_tail<Parts>(left, inputs / kTileInputs, inputs % kTileInputs, count, tail);
    for (int32_t i = 0; i < t.layer_count; ++i) {
      uint16_t* to = buffers[i % 2];
      if (i + 1 == t.layer_count) {
        dense<Parts>(t, t.layers[i], left, count, sums, out + begin * kTileInputs, out_tile, out_part);
      } else {
        dense<Parts>(t, t.layers[i], left, count, sums, to, tile, part);
      }
      left = {to, kTileInputs, tile, part, nullptr, -1, 0};
    }
  }
}

static std::size_t amx_group_made_scratch(const TrunkTables& t, const MixtureShape& shape, int64_t windows,
                                          int64_t mels) {
  const int64_t frames = windows + shape.groups - 1, factors = (frames + kTileRows) * mels + kLanes;
  const int64_t mixture = head_scratch(shape, windows), layers = trunk_floats(t);
  const int64_t floats = frames * mels + 3 * factors / 2 + left_size(windows, shape.hidden, 3) + 128;
  return std::size_t(floats + (layers > mixture ? layers : mixture)) * sizeof(float);
}

template <int Parts>
static void whole(const TrunkTables& t, const MixtureShape& shape, const MixtureTile* tiles, int64_t tile_count,
                  const GroupMadeArgs& args, int64_t first, int64_t last, Scratch scratch) {
  const int64_t windows = last - first, mels = args.mels, numbers = (windows + shape.groups - 1) * mels;
  const int64_t padded = numbers + (kTileRows - 1) * mels, factor_part = round_up(padded, kLanes);
  float* z = scratch.take(numbers);
  uint16_t* factors = reinterpret_cast<uint16_t*>(scratch.take(Parts * factor_part / 2));
  for (int64_t f = 0; f * mels < numbers; ++f) {
    const float* log_mel = args.log_mel + first * mels + f * mels;
    for (int64_t m = 0; m < mels; ++m) z[f * mels + m] = (log_mel[m] - args.band_mean[m]) * args.inverse_scale[m];
  }
  for (int64_t i = 0; i < factor_part; i += kLanes) {
    store_parts<Parts>(factors + i, factor_part, load_first(z + i, numbers - i));
  }
  const int64_t tile = round_up(windows, kTileRows) * kTileInputs, part = 2 * left_size(windows, shape.hidden, 1);
  uint16_t* hidden = reinterpret_cast<uint16_t*>(scratch.take(Parts * part / 2));
  trunk<Parts>(t, {factors, mels, kTileInputs, factor_part, nullptr, -1, 0}, windows, hidden, tile, part, scratch);
  head<Parts>(shape, tiles, tile_count, args.packed, {hidden, kTileInputs, tile, part, nullptr, -1, 0}, z, mels,
              windows, args.out + first * (args.per_dim ? shape.dims : shape.groups), args.per_dim != 0, scratch);
}

static void amx_group_made(const TrunkTables& t, const MixtureShape& shape, const MixtureTile* tiles,
                           int64_t tile_count, const GroupMadeArgs& args, int64_t first, int64_t last, void* memory) {
  const Scratch scratch{static_cast<float*>(memory)};
  if (shape.bfloat16) return whole<1>(t, shape, tiles, tile_count, args, first, last, scratch);
  whole<3>(t, shape, tiles, tile_count, args, first, last, scratch);
}

constexpr Kernels amx_kernels() {
  Kernels k = kKernels;
  k.tile_products = true;
  k.tile_packed_size = amx_tile_packed_size;
  k.mixture_pack = amx_mixture_pack;
  k.mixture_forward_scratch = amx_mixture_forward_scratch;
  k.mixture_forward = amx_mixture_forward;
  k.mixture_backward_scratch = amx_mixture_backward_scratch;
  k.mixture_backward = amx_mixture_backward;
  k.group_made_scratch = amx_group_made_scratch;
  k.group_made = amx_group_made;
  k.tile_check = amx_tile_check;
  k.probe_pairs = amx_probe_pairs;
  return k;
}
constexpr Kernels kAmxKernels = amx_kernels();
