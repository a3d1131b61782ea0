// Prints the largest errors of csrc/math/elementary.inl over a sweep of float32 numbers, against the C library's
// double.
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <initializer_list>

#define PYASD_INLINE static inline __attribute__((always_inline))
#include "cpu/simd.inl"
#include "math/elementary.inl"

static double ulps(float got, double exact) {
  const float size = std::fabs(static_cast<float>(exact));
  return std::fabs(got - exact) / (std::nextafterf(size, INFINITY) - size);
}

template <class Function>
static float first_lane(Function function, float x) {
  float lanes[kLanes];
  for (float& lane : lanes) lane = x;
  store(lanes, function(load(lanes)));
  return lanes[0];
}

int main() {
  double exp_ulps = 0, exp_term_error = 0, log_ulps = 0, decibels = 0;
  for (uint32_t bits = 0; bits < 0x7f800000u; bits += 997) {
    float x;
    std::memcpy(&x, &bits, sizeof x);
    for (const float y : {x, -x}) {
      if (y < -86.9f || y > 87.0f) continue;
      exp_ulps = std::fmax(exp_ulps, ulps(first_lane([](vf v) { return exp_(v); }, y), std::exp(double(y))));
    }
    const double term = first_lane([](vf v) { return exp_term(v); }, -x);
    exp_term_error = std::fmax(exp_term_error, std::fabs(term - std::exp(-double(x))));
    if (x < 1.2e-38f) continue;  // the kernels take logarithms of normal numbers alone
    log_ulps = std::fmax(log_ulps, ulps(first_lane([](vf v) { return log_(v); }, x), std::log(double(x))));
    const double error = first_lane([](vf v) { return decibel(v); }, x) - 10 * std::log10(double(x));
    decibels = std::fmax(decibels, std::fabs(error));
  }
  const bool keeps_nan = std::isnan(first_lane([](vf v) { return exp_(v); }, NAN)) &&
                         std::isnan(first_lane([](vf v) { return exp_term(v); }, NAN)) &&
                         std::isnan(first_lane([](vf v) { return log_(v); }, NAN)) &&
                         std::isnan(first_lane([](vf v) { return decibel(v); }, NAN));
  const float far_below = first_lane([](vf v) { return exp_(v); }, -INFINITY);
  std::printf(
      "{\"lanes\": %d, \"exp_ulps\": %.4f, \"exp_term_error\": %.3g, \"log_ulps\": %.4f, \"decibels\": %.3g, "
      "\"keeps_nan\": %s, \"exp_of_minus_infinity\": %.3g}\n",
      kLanes, exp_ulps, exp_term_error, log_ulps, decibels, keeps_nan ? "true" : "false", double(far_below));
}
