// csrc/cpu/tile.inl alone. With PYASD_EMULATE_TILES: one product for tests/csrc/test_tile.py to call. Without: the
// instructions beside the compiler's intrinsics for the same, for the test to compare in assembly.
#include <cstdint>
#if !defined(PYASD_EMULATE_TILES)
#include <immintrin.h>
#endif

#define PYASD_INLINE static inline __attribute__((always_inline))
#include "cpu/tile.inl"

#if defined(PYASD_EMULATE_TILES)

// c += a b, rows [m][k pairs], [k pairs][n] and [m][n] of 4 bytes; `claimed` is what A's tile says its k is.
extern "C" void product(const void* a, const void* b, void* c, int m, int k, int n, int claimed) {
  TileConfig config;
  const int rows[3] = {m, m, k}, columns[3] = {n, claimed, n};
  for (int t = 0; t < 3; ++t) {
    config.rows[2 * t + 1] = uint8_t(rows[t]);
    config.row_bytes[2 * t + 1] = uint16_t(4 * columns[t]);
  }
  tiles_configure(config);
  tile_load<1>(c, 4 * n);
  tile_load<3>(a, 4 * claimed);
  tile_load<5>(b, 4 * n);
  tile_multiply_add<1, 3, 5>();
  tile_store<1>(c, 4 * n);
  tiles_release();
}
extern "C" void store_unconfigured(void* c) { tile_store<1>(c, 64); }

#else

extern "C" void ours(const TileConfig* config, const void* from, void* to, long stride) {
  tiles_configure(*config);
  tile_load<4>(from, stride);
  tile_multiply_add<2, 4, 7>();
  tile_store<2>(to, stride);
  tiles_release();
}
extern "C" void theirs(const TileConfig* config, const void* from, void* to, long stride) {
  _tile_loadconfig(config);
  _tile_loadd(4, from, stride);
  _tile_dpbf16ps(2, 4, 7);
  _tile_stored(2, to, stride);
  _tile_release();
}

#endif
