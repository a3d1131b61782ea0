// bfloat16 on the host, where weights are packed.
#pragma once

#include <cstdint>
#include <cstring>

namespace pyasd {

inline float float_from_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// x rounded to bfloat16, in the upper half: to nearest, ties to even; NaN stays NaN.
inline uint32_t bfloat16_bits(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return (bits | 0x00400000u) & 0xffff0000u;
  return (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
}

}  // namespace pyasd
