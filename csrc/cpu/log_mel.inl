// log-Mel of one group of frames, one frame per SIMD lane: load and window, real FFT, power, Mel bands, logarithm.
// Between the samples and the log-Mel nothing leaves the scratch memory, and no step mixes lanes, so that a frame's
// result depends on its own samples alone.

// Samples of the frames that reach over a clip's edge, extended; other frames are read in place.
template <class T>
static const T* frame_samples(const LogMelShape& shape, const T* samples, int64_t length, int64_t frame, T* edge) {
  const int64_t start = frame * shape.hop_length - shape.n_fft / 2;
  if (start >= 0 && start + shape.n_fft <= length) return samples + start;
  for (int64_t i = 0; i < shape.n_fft; ++i) {
    int64_t at = start + i;
    if (shape.reflect) at = at < 0 ? -at : at >= length ? 2 * (length - 1) - at : at;
    edge[i] = at >= 0 && at < length ? samples[at] : T(0);
  }
  return edge;
}

// Samples of each frame that a block takes: it is kLanes vectors, of a sample or (int16) of two samples a lane.
template <class T>
constexpr int kBlockSamples = kLanes * int(sizeof(float) / sizeof(T));

PYASD_INLINE void transpose_block(const float* const rows[kLanes], int64_t at, float* block) {
  vf x[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) x[lane] = load(rows[lane] + at);
  transpose(x);
  for (int i = 0; i < kLanes; ++i) store(block + i * kLanes, x[i]);
}
PYASD_INLINE void transpose_block(const int16_t* const rows[kLanes], int64_t at, float* block) {
  for (int half = 0; half < 2; ++half) {
    vf pairs[kLanes / 2];
    transpose_pairs(rows, at + half * kLanes, pairs);
    for (int i = 0; i < kLanes / 2; ++i) store(block + (half * kLanes / 2 + i) * kLanes, pairs[i]);
  }
}

// Memory that will be needed soon, fetched into the L2 cache little by little.
struct Fetch {
  const char* next;
  int64_t bytes;  // at a time
};
template <int Write>
PYASD_INLINE void fetch_some(Fetch& f) {
  for (int64_t i = 0; i < f.bytes; i += 64) __builtin_prefetch(f.next + i, Write, 2);
  f.next += f.bytes;
}

// The first steps of the real FFT of a signal in R parts of `part` floats, at one place n of each (x): log2(R) - 1 real
// splits and, for those that give several points of one complex signal, its first butterfly. Of the outputs, the two
// parts of the real signal that is left come first in `out`; the complex signals follow, each its real and its
// imaginary part, `pair` apart.
template <int R>
PYASD_INLINE void real_opening(vf x[R], const float* twiddle, float* out, int64_t part, int64_t pair) {
  if constexpr (R == 2) {
    store(out, x[0]);
    store(out + part, x[1]);
  } else {
    constexpr int Q = R / 4;
    Complex odd[Q];
    for (int i = 0; i < Q; ++i) {
      vf v[4] = {x[i], x[i + Q], x[i + 2 * Q], x[i + 3 * Q]};
      odd[i] = real_split(v, twiddle[2 * i], twiddle[2 * i + 1]);
      x[i] = v[0];
      x[i + Q] = v[1];
    }
    twiddle += 2 * Q;
    butterfly<Q>(odd);
    for (int j = 0; j < Q; ++j) {
      if (j > 0) odd[j] = times(odd[j], twiddle[2 * j - 2], twiddle[2 * j - 1]);
      store(out + (Q + j) * pair, odd[j].re);
      store(out + (Q + j) * pair + part, odd[j].im);
    }
    real_opening<R / 2>(x, twiddle + 2 * (Q - 1), out, part, pair);
  }
}

// The opening of the real FFT, straight from the samples: transpose, window, split.
template <int R, class T>
static void open_samples(const LogMelLevel& level, const T* const rows[kLanes], const float* window, Fetch samples,
                         Fetch out, float* blocks, float* work) {
  constexpr int kBlock = kLanes * kLanes;
  const int64_t part = level.part * kLanes, pair = level.pair * kLanes;
  const float* twiddle = level.open;
  const auto open = [&](const auto& sample) {
    vf x[R];
    for (int j = 0; j < R; ++j) x[j] = sample(j * kBlock) * set1(window[j]);
    real_opening<R>(x, twiddle, work, part, pair);
    window += R;
    twiddle += opening_floats(R);
    work += kLanes;
  };
  for (int n = 0; n < level.part; n += kBlockSamples<T>) {
    for (int j = 0; j < R; ++j) transpose_block(rows, n + j * level.part, blocks + j * kBlock);
    for (int i = 0; i < kLanes; ++i) {
      fetch_some<0>(samples);
      fetch_some<1>(out);
      const float* block = blocks + i * kLanes;
      if constexpr (sizeof(T) == sizeof(float)) {
        open([&](int at) { return load(block + at); });
      } else {
        open([&](int at) { return first_of_pair(load(block + at)); });
        open([&](int at) { return second_of_pair(load(block + at)); });
      }
    }
  }
}

// The same for the real signal that the level before left, in place.
template <int R>
static void open_real(const LogMelLevel& level, float* work) {
  const int64_t part = level.part * kLanes;
  const float* twiddle = level.open;
  for (int n = 0; n < level.part; ++n, twiddle += opening_floats(R), work += kLanes) {
    vf x[R];
    for (int j = 0; j < R; ++j) x[j] = load(work + j * part);
    real_opening<R>(x, twiddle, work, part, 2 * part);
  }
}

template <int R>
static void fft_pass(float* re, float* im, int block, const float* twiddle) {
  const int part = block / R;
  for (int n = 0; n < part; ++n, twiddle += 2 * (R - 1)) {
    Complex x[R];
    for (int j = 0; j < R; ++j) x[j] = {load(re + (n + j * part) * kLanes), load(im + (n + j * part) * kLanes)};
    butterfly<R>(x);
    for (int j = 1; j < R; ++j) x[j] = times(x[j], twiddle[2 * j - 2], twiddle[2 * j - 1]);
    for (int j = 0; j < R; ++j) {
      store(re + (n + j * part) * kLanes, x[j].re);
      store(im + (n + j * part) * kLanes, x[j].im);
    }
  }
}

// The last pass has no twiddles, and gives the power spectrum.
template <int R>
static void fft_power(const float* re, const float* im, const int32_t* bin, float* power) {
  Complex x[R];
  for (int j = 0; j < R; ++j) x[j] = {load(re + j * kLanes), load(im + j * kLanes)};
  if constexpr (R > 1) butterfly<R>(x);
  for (int j = 0; j < R; ++j) store(power + bin[j] * kLanes, fma(x[j].re, x[j].re, x[j].im * x[j].im));
}

// Depth first, so that what one pass wrote is still in the L1 cache when the next reads it.
static void fft(const LogMelLevel& level, int stage, float* re, float* im, int block, const int32_t* bin,
                float* power) {
  if (stage + 1 >= level.radix_count) {
    if (block == 8) fft_power<8>(re, im, bin, power);
    if (block == 4) fft_power<4>(re, im, bin, power);
    if (block == 2) fft_power<2>(re, im, bin, power);
    if (block == 1) fft_power<1>(re, im, bin, power);
    return;
  }
  const int radix = level.radix[stage], part = block / radix;
  if (radix == 8) fft_pass<8>(re, im, block, level.twiddle[stage]);
  if (radix == 4) fft_pass<4>(re, im, block, level.twiddle[stage]);
  for (int j = 0; j < radix; ++j) {
    fft(level, stage + 1, re + j * part * kLanes, im + j * part * kLanes, part, bin + j * part, power);
  }
}

static void power_spectrum(const LogMelTables& t, float* work, float* power) {
  for (int i = 0; i < t.level_count; ++i) {
    const LogMelLevel& level = t.level[i];
    if (i > 0) {
      if (level.opening == 16) open_real<16>(level, work);
      if (level.opening == 8) open_real<8>(level, work);
      if (level.opening == 4) open_real<4>(level, work);
    }
    for (int j = 1; j < level.opening / 2; ++j) {
      float* re = work + j * level.pair * kLanes;
      fft(level, 0, re, re + level.part * kLanes, level.part, level.bin + (j - 1) * level.part, power);
    }
  }
  const vf a = load(work), b = load(work + kLanes);
  store(power + (t.shape.n_fft / 2 + 1) * kLanes, set1(0.0f));
  store(power, (a + b) * (a + b));
  store(power + t.shape.n_fft / 2 * kLanes, (a - b) * (a - b));
}

// Sums of several bands go on beside each other: alone, each would wait for its last addition, and then for the
// processor to find out that it has ended.
static void mel_decibel(const LogMelTables& t, const float* power, int64_t skip, int64_t frames, float* out) {
  const int n_mels = t.shape.n_mels;
  const vf eps = set1(t.shape.eps);
  const MelTerm* term = t.terms;
  const int32_t* steps = t.term_count;
  for (int first = 0; first < n_mels; first += kLanes) {
    const int bands = n_mels - first < kLanes ? n_mels - first : kLanes;
    vf r[kLanes];
    for (int m = 0; m < kLanes; m += kMelBands) {
      vf sum[kMelBands];
      for (int j = 0; j < kMelBands; ++j) sum[j] = set1(0.0f);
      for (int i = first + m < n_mels ? *steps++ : 0; i > 0; --i, term += kMelBands) {
        for (int j = 0; j < kMelBands; ++j) {
          sum[j] = fma(load(power + int64_t(term[j].bin) * kLanes), set1(term[j].weight), sum[j]);
        }
      }
      for (int j = 0; j < kMelBands; ++j) r[m + j] = decibel(t.shape.floor_add ? sum[j] + eps : at_least(sum[j], eps));
    }
    transpose(r);
    for (int64_t lane = skip; lane < frames; ++lane) {
      float* row = out + lane * n_mels + first;
      if (bands == kLanes) {
        store(row, r[lane]);
      } else {
        float part[kLanes];
        store(part, r[lane]);
        for (int m = 0; m < bands; ++m) row[m] = part[m];
      }
    }
  }
}

static std::size_t log_mel_scratch(const LogMelTables& t) {
  const int64_t n_fft = t.shape.n_fft, blocks = t.level[0].opening * kLanes;
  return std::size_t(t.work_size + n_fft / 2 + 2 + blocks + n_fft) * kLanes * sizeof(float);
}

template <class T>
static void log_mel_frames(const LogMelTables& t, const T* samples, const float* window, int64_t length, int64_t group,
                           float* out, float* scratch) {
  const LogMelShape& shape = t.shape;
  const LogMelLevel& level = t.level[0];
  const int64_t frames = 1 + length / shape.hop_length;
  // The last group begins early where it can, so that no lane idles; what it has in common with the one before it is
  // computed twice, to the same bits, and stored once.
  const int64_t wanted = group * kLanes;
  const int64_t first = frames < kLanes ? 0 : wanted + kLanes > frames ? frames - kLanes : wanted;
  const int64_t last = frames - first < kLanes ? frames - first : kLanes;
  float* work = scratch;
  float* power = work + int64_t(t.work_size) * kLanes;
  float* blocks = power + int64_t(shape.n_fft / 2 + 2) * kLanes;
  T* edge = reinterpret_cast<T*>(blocks + level.opening * kLanes * kLanes);
  const T* rows[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t frame = first + lane < frames ? first + lane : frames - 1;
    rows[lane] = frame_samples(shape, samples, length, frame, edge + int64_t(lane) * shape.n_fft);
  }
  // The next group's samples, since sixteen rows are too many streams for the hardware to follow, and this group's
  // output.
  const int64_t steps = level.part * kLanes / kBlockSamples<T>;
  const int64_t next = (first + kLanes) * shape.hop_length + shape.n_fft / 2 - shape.hop_length;
  const int64_t ahead = length - next < kLanes * shape.hop_length ? length - next : kLanes * shape.hop_length;
  const Fetch upcoming{reinterpret_cast<const char*>(samples + (ahead > 0 ? next : 0)),
                       ahead > 0 ? ahead * int64_t(sizeof(T)) / steps : 0};
  float* own = out + first * shape.n_mels;
  const Fetch result{reinterpret_cast<const char*>(own), last * shape.n_mels * int64_t(sizeof(float)) / steps};
  if (level.opening == 16) open_samples<16>(level, rows, window, upcoming, result, blocks, work);
  if (level.opening == 8) open_samples<8>(level, rows, window, upcoming, result, blocks, work);
  if (level.opening == 4) open_samples<4>(level, rows, window, upcoming, result, blocks, work);
  if (level.opening == 2) open_samples<2>(level, rows, window, upcoming, result, blocks, work);
  power_spectrum(t, work, power);
  mel_decibel(t, power, wanted - first, last, own);
}

static void log_mel_group(const LogMelTables& t, const void* samples, bool is_int16, int64_t length, int64_t group,
                          float* out, void* scratch) {
  float* memory = static_cast<float*>(scratch);
  if (is_int16) {
    log_mel_frames(t, static_cast<const int16_t*>(samples), t.window_int16, length, group, out, memory);
  } else {
    log_mel_frames(t, static_cast<const float*>(samples), t.window_float, length, group, out, memory);
  }
}
