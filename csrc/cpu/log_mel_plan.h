// The tables of a log-Mel plan, made once in double precision and read by every instruction set's kernel.
#pragma once

#include <cstdint>

#include "pyasd.h"

namespace pyasd {

constexpr int kMaxLevels = 6;  // n_fft up to 2^14
constexpr int kMaxRadices = 8;
constexpr int kMelBands = 4;  // whose sums go on beside each other; divides the lanes of every instruction set

// One step of the real FFT (real_opening in log_mel.inl): a real signal of `length`, in `opening` parts, becomes a
// real signal of two parts and opening / 2 - 1 complex ones of one part each, whose FFT is done by these radices, first
// to last.
struct LogMelLevel {
  int32_t length;
  int32_t opening;  // a power of two
  int32_t part;     // length / opening
  int32_t pair;     // vectors from one signal's two parts (or real and imaginary part) to the next's
  int32_t radix_count;
  int32_t radix[kMaxRadices];
  const float* open;                  // [part][opening_floats] what real_opening takes
  const float* twiddle[kMaxRadices];  // for each radix R but the last: [block / R][R - 1] pairs e^(-2 pi i j n / block)
  const int32_t* bin;                 // [opening / 2 - 1][part] the spectrum's bin that each output of a complex FFT is
};

// Floats that one opening takes: its twiddles.
constexpr int opening_floats(int parts) { return parts < 4 ? 0 : parts - 2 + opening_floats(parts / 2); }

// A term of a band's sum. What sums lack that are shorter than those beside them is the zero behind the spectrum.
struct MelTerm {
  int32_t bin;
  float weight;
};

struct LogMelTables {
  LogMelShape shape;
  int32_t level_count;
  int32_t work_size;  // vectors that the levels work in
  LogMelLevel level[kMaxLevels];
  const float* window_float;  // [part][opening] of the first level
  const float* window_int16;  // the same over 32768
  const int32_t* term_count;  // for each kMelBands bands, the terms of the longest sum
  const MelTerm* terms;       // of all those bands: [terms of the longest][kMelBands]
};

const LogMelTables& tables(const LogMelPlan& plan);

}  // namespace pyasd
