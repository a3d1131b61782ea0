// csrc/math for one GPU thread: vf is float, exponentials are the hardware's.
#pragma once

#include "cuda/device.cuh"

namespace pyasd {
namespace cuda {

#pragma push_macro("PYASD_INLINE")
#undef PYASD_INLINE
#define PYASD_INLINE PYASD_DEVICE
#define PYASD_HARDWARE_EXP2

using vf = float;

PYASD_DEVICE vf set1(float x) { return x; }
PYASD_DEVICE vf fma(vf a, vf b, vf c) { return fma_hardware(a, b, c); }
PYASD_DEVICE vf fnma(vf a, vf b, vf c) { return fma_hardware(-a, b, c); }
PYASD_DEVICE vf at_least(vf x, vf low) { return maximum_nan(x, low); }
PYASD_DEVICE vf one_where_at_least(vf x, vf low) { return x >= low ? 1.0f : 0.0f; }
PYASD_DEVICE vf keep_nan(vf x, vf result) { return (bits_of_float(x) & 0x7f800000u) == 0x7f800000u ? x : result; }
PYASD_DEVICE vf split_exponent(vf x, vf* exponent) {  // x = m * 2^e, m in [sqrt(1/2), sqrt(2)); x > 0 and normal
  const uint32_t bits = bits_of_float(x);
  const int32_t e = int32_t(bits - 0x3f3504f3u) >> 23;
  *exponent = float(e);
  return float_of_bits(bits - (uint32_t(e) << 23));
}

#include "math/butterflies.inl"
#include "math/elementary.inl"
#include "math/mixture.inl"

#pragma pop_macro("PYASD_INLINE")

constexpr float kInfinity = __builtin_huge_valf();

// e^x for x <= 0 as a factor of a sum of such: the error that rounding x log2(e) makes, |x| 2^-24 e^x, is below 2^-24.
PYASD_DEVICE float exp_for_sum(float x) { return exp2_hardware(x * 1.44269504088896341f); }

// logsumexp of numbers that come one by one, as log(total) + peak. It has no initial values of its own: nvcc 13.0 gives
// them to the first row alone of a two-dimensional array, and zeros to the others.
struct LogSum {
  float peak, total;
};

constexpr float kLowest = -3.4028235e38f;  // the peak of none: finite, so that an infinite number gives no NaN

PYASD_DEVICE void add(LogSum& sum, float x) {  // a NaN never is larger, but stays in the total
  const bool larger = x > sum.peak;
  const float e = exp2_hardware(fabsf(x - sum.peak) * -1.44269504088896341f);
  sum.total = fma(e, larger ? sum.total : 1.0f, larger ? 1.0f : sum.total);
  sum.peak = larger ? x : sum.peak;
}

}  // namespace cuda
}  // namespace pyasd
