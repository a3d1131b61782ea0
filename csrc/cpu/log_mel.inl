// log-Mel of one group of frames, one frame per SIMD lane: load and window, real FFT, power, Mel bands, logarithm.
// Between the samples and the log-Mel nothing leaves the scratch memory (n_fft vectors and half as many again), and no
// step mixes lanes, so that a frame's result depends on its own samples alone.

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

PYASD_INLINE vf load_samples(const float* p) { return load(p); }
PYASD_INLINE vf load_samples(const int16_t* p) { return load_int16(p); }

// The first step of the real FFT, straight from the samples: transpose, window, split. Meanwhile `upcoming`, the bytes
// that the next group of frames begins with, are fetched: sixteen rows are too many streams for the hardware to follow.
template <class T>
static void load_and_split(const LogMelLevel& level, const T* const rows[kLanes], const float* window,
                           const char* upcoming, int64_t upcoming_bytes, float* work) {
  const int quarter = level.length / 4;
  const int64_t fetch = upcoming_bytes / (quarter / kLanes);
  for (int n = 0; n < quarter; n += kLanes, upcoming += fetch) {
    for (int64_t i = 0; i < fetch; i += 64) __builtin_prefetch(upcoming + i, 0, 2);
    vf x[4][kLanes];
    for (int j = 0; j < 4; ++j) {
      for (int lane = 0; lane < kLanes; ++lane) x[j][lane] = load_samples(rows[lane] + n + j * quarter);
      transpose(x[j]);
    }
    for (int i = 0; i < kLanes; ++i) {
      const int m = n + i;
      vf v[4];
      for (int j = 0; j < 4; ++j) v[j] = x[j][i] * set1(window[m + j * quarter]);
      const Complex odd = real_split(v, level.split[2 * m], level.split[2 * m + 1]);
      store(work + m * kLanes, v[0]);
      store(work + (m + quarter) * kLanes, v[1]);
      store(work + (m + 2 * quarter) * kLanes, odd.re);
      store(work + (m + 3 * quarter) * kLanes, odd.im);
    }
  }
}

static void split(const LogMelLevel& level, float* work) {
  const int quarter = level.length / 4;
  for (int n = 0; n < quarter; ++n) {
    vf v[4];
    for (int j = 0; j < 4; ++j) v[j] = load(work + (n + j * quarter) * kLanes);
    const Complex odd = real_split(v, level.split[2 * n], level.split[2 * n + 1]);
    store(work + n * kLanes, v[0]);
    store(work + (n + quarter) * kLanes, v[1]);
    store(work + (n + 2 * quarter) * kLanes, odd.re);
    store(work + (n + 3 * quarter) * kLanes, odd.im);
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
    if (i > 0) split(level, work);
    const int points = level.length / 4;
    fft(level, 0, work + 2 * points * kLanes, work + 3 * points * kLanes, points, level.bin, power);
  }
  const vf a = load(work), b = load(work + kLanes);
  store(power, (a + b) * (a + b));
  store(power + t.shape.n_fft / 2 * kLanes, (a - b) * (a - b));
}

static void mel_decibel(const LogMelTables& t, const float* power, int64_t skip, int64_t frames, float* out) {
  const int n_mels = t.shape.n_mels;
  const vf eps = set1(t.shape.eps);
  const float* weight = t.band_weights;
  for (int first = 0; first < n_mels; first += kLanes) {
    const int bands = n_mels - first < kLanes ? n_mels - first : kLanes;
    vf r[kLanes];
    for (int m = 0; m < kLanes; ++m) r[m] = set1(0.0f);
    for (int m = 0; m < bands; ++m) {
      const float* p = power + int64_t(t.band_start[first + m]) * kLanes;
      vf sum = set1(0.0f), odd = set1(0.0f);  // two sums, since each waits for its last addition
      int i = t.band_count[first + m];
      for (; i > 1; i -= 2, p += 2 * kLanes, weight += 2) {
        sum = fma(load(p), set1(weight[0]), sum);
        odd = fma(load(p + kLanes), set1(weight[1]), odd);
      }
      if (i > 0) sum = fma(load(p), set1(*weight++), sum);
      sum = sum + odd;
      r[m] = decibel(t.shape.floor_add ? sum + eps : at_least(sum, eps));
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
  const std::size_t n_fft = std::size_t(t.shape.n_fft);
  return (n_fft + n_fft / 2 + 1 + n_fft) * kLanes * sizeof(float);  // work, power, edges
}

template <class T>
static void log_mel_frames(const LogMelTables& t, const T* samples, const float* window, int64_t length, int64_t group,
                           float* out, float* scratch) {
  const LogMelShape& shape = t.shape;
  const int64_t frames = 1 + length / shape.hop_length;
  // The last group begins early where it can, so that no lane idles; what it has in common with the one before it is
  // computed twice, to the same bits, and stored once.
  const int64_t wanted = group * kLanes;
  const int64_t first = frames < kLanes ? 0 : wanted + kLanes > frames ? frames - kLanes : wanted;
  float* work = scratch;
  float* power = work + int64_t(shape.n_fft) * kLanes;
  T* edge = reinterpret_cast<T*>(power + int64_t(shape.n_fft / 2 + 1) * kLanes);
  const T* rows[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) {
    const int64_t frame = first + lane < frames ? first + lane : frames - 1;
    rows[lane] = frame_samples(shape, samples, length, frame, edge + int64_t(lane) * shape.n_fft);
  }
  const int64_t next = (first + kLanes) * shape.hop_length + shape.n_fft / 2 - shape.hop_length;
  const int64_t ahead = length - next < kLanes * shape.hop_length ? length - next : kLanes * shape.hop_length;
  load_and_split(t.level[0], rows, window, reinterpret_cast<const char*>(samples + (ahead > 0 ? next : 0)),
                 ahead > 0 ? ahead * int64_t(sizeof(T)) : 0, work);
  power_spectrum(t, work, power);
  const int64_t last = frames - first < kLanes ? frames - first : kLanes;
  mel_decibel(t, power, wanted - first, last, out + first * shape.n_mels);
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
