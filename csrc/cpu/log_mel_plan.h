// The tables of a log-Mel plan, made once in double precision and read by every instruction set's kernel.
#pragma once

#include <cstdint>

#include "pyasd.h"

namespace pyasd {

constexpr int kMaxLevels = 16;   // n_fft up to 2^14
constexpr int kMaxRadices = 8;

// One step of the real FFT (math/butterflies.inl, real_split): a real signal of `length` gives its odd bins by a
// complex FFT of length / 4, done by these radices, first to last.
struct LogMelLevel {
  int32_t length;
  int32_t radix_count;
  int32_t radix[kMaxRadices];
  const float* split;                 // [length / 4] pairs e^(-2 pi i n / length)
  const float* twiddle[kMaxRadices];  // for each radix R but the last: [block / R][R - 1] pairs e^(-2 pi i j n / block)
  const int32_t* bin;                 // [length / 4] the spectrum's bin that each output of the complex FFT is
};

struct LogMelTables {
  LogMelShape shape;
  int32_t level_count;
  LogMelLevel level[kMaxLevels];
  const float* window_float;  // [n_fft]
  const float* window_int16;  // [n_fft] the window over 32768
  const int32_t* band_start;  // [n_mels]
  const int32_t* band_count;
  const float* band_weights;  // of all bands, one after the other
};

const LogMelTables& tables(const LogMelPlan& plan);

}  // namespace pyasd
