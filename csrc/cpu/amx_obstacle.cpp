// Whether this process may use AMX: the processor's word (cpuid), what the operating system saves (xgetbv), its
// permission (asked for once, for all threads and forked children), and whether the instructions do what their
// emulation does, which is all that machines without AMX have tested.
#include <cstring>

#include "cpu/kernels.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace pyasd {
namespace {

// A product of small whole numbers, whose sums are exact in whatever order they are done; and its last factors are a
// denormal, which counts as zero, times 2^127.
bool agrees_with_emulation() {
  const auto bfloat16 = [](float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    return uint16_t(bits >> 16);
  };
  uint16_t a[32][32], b[2][16][16][2];
  float bias[2][16], real[2][32][16], emulated[2][32][16];
  for (int m = 0; m < 32; ++m) {
    for (int k = 0; k < 32; ++k) a[m][k] = k == 31 ? 1 : bfloat16(float((m * 7 + k * 3) % 17 - 8));
  }
  for (int c = 0; c < 2; ++c) {
    for (int n = 0; n < 16; ++n) {
      for (int k = 0; k < 32; ++k) {
        b[c][k / 2][n][k % 2] = k == 31 ? bfloat16(0x1p127f) : bfloat16(float((c * 11 + n * 5 + k * 13) % 19 - 9));
      }
      bias[c][n] = float(c * 16 + n);
    }
  }
  kernels_amx()->tile_check(a[0], b[0][0][0], bias[0], real[0][0]);
  kernels_amx_emulated()->tile_check(a[0], b[0][0][0], bias[0], emulated[0][0]);
  return std::memcmp(real, emulated, sizeof real) == 0;
}

const char* find_amx_obstacle() {
#if defined(__x86_64__) && defined(__linux__)
  unsigned a, b, c, d;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kAmxBf16) || !(d & kAmxTile)) return "the processor lacks it";
  unsigned low, high;
  asm("xgetbv" : "=a"(low), "=d"(high) : "c"(0));  // where there is AVX-512 there is xgetbv
  constexpr unsigned kTileState = 3u << 17;        // configuration and data
  if ((low & kTileState) != kTileState) return "the operating system does not save its registers";
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return "the operating system does not permit it";
  if (kernels_amx_emulated() == nullptr) return "this build lacks what to check it against";
  return agrees_with_emulation() ? nullptr : "its instructions failed a self-check";
#else
  return "it is supported on Linux alone";
#endif
}

}  // namespace

const char* amx_obstacle() {
  static const char* const obstacle = find_amx_obstacle();
  return obstacle;
}

}  // namespace pyasd
