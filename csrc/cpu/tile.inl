// The tile registers of AMX: eight of them, each of up to 16 rows of up to 64 bytes. Included once by isa_amx.cpp, and
// by isa_amx_emulated.cpp with PYASD_EMULATE_TILES, inside their own namespaces.
//
// Gives, for the calling thread: tiles_configure, tiles_release, tile_load<T>(from, bytes from row to row),
// tile_store<T>, and tile_multiply_add<C, A, B>, TDPBF16PS: C[m][n] += sum over k of A[m][2k] B[k][2n] + A[m][2k+1]
// B[k][2n+1].
//
// The instructions are written out because gcc's own intrinsics tell it neither that a load reads memory nor that a
// configuration has 64 bytes, so that it may leave stores before them undone.

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64, "as LDTILECFG reads it");

#if !defined(PYASD_EMULATE_TILES)

PYASD_INLINE void tiles_configure(const TileConfig& config) { asm volatile("ldtilecfg %0" ::"m"(config) : "memory"); }
PYASD_INLINE void tiles_release() { asm volatile("tilerelease" ::: "memory"); }

template <int T>
PYASD_INLINE void tile_load(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(stride), "i"(T) : "memory");
}
template <int T>
PYASD_INLINE void tile_store(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(stride), "i"(T) : "memory");
}
template <int C, int A, int B>
PYASD_INLINE void tile_multiply_add() {
  static_assert(C != A && C != B && A != B, "the instruction takes three different tiles");
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
}

#else  // what the instructions do, step by step, in portable code; a misuse that the processor would refuse is a trap

struct EmulatedTiles {
  TileConfig config;
  unsigned char data[8][16][64];
};
static thread_local EmulatedTiles emulated = {{0}, {}};

static void tile_require(bool fits) {
  if (!fits) __builtin_trap();
}

static void tiles_configure(const TileConfig& config) {
  tile_require(config.palette == 1 && config.start_row == 0);
  for (const uint8_t byte : config.reserved) tile_require(byte == 0);
  for (int t = 0; t < 16; ++t) {
    tile_require(config.rows[t] <= (t < 8 ? 16 : 0) && config.row_bytes[t] <= (t < 8 ? 64 : 0));
    tile_require((config.rows[t] == 0) == (config.row_bytes[t] == 0));
  }
  emulated.config = config;
  __builtin_memset(emulated.data, 0, sizeof emulated.data);
}
static void tiles_release() {
  emulated.config.palette = 0;
  __builtin_memset(emulated.data, 0, sizeof emulated.data);
}

static void tile_load(int t, const void* from, int64_t stride) {
  tile_require(emulated.config.palette == 1 && emulated.config.rows[t] > 0);
  __builtin_memset(emulated.data[t], 0, sizeof emulated.data[t]);
  for (int r = 0; r < emulated.config.rows[t]; ++r) {
    __builtin_memcpy(emulated.data[t][r], static_cast<const char*>(from) + r * stride, emulated.config.row_bytes[t]);
  }
}
static void tile_store(int t, void* to, int64_t stride) {
  tile_require(emulated.config.palette == 1 && emulated.config.rows[t] > 0);
  for (int r = 0; r < emulated.config.rows[t]; ++r) {
    __builtin_memcpy(static_cast<char*>(to) + r * stride, emulated.data[t][r], emulated.config.row_bytes[t]);
  }
}

// Sixteen columns at once, in vectors that the compiler lowers to whatever there is.
typedef float vf16 __attribute__((vector_size(64)));
typedef uint32_t vu16 __attribute__((vector_size(64)));

PYASD_INLINE vf16 flushed(vf16 x) {  // denormals become zeros of their sign
  const vu16 bits = (vu16)x;
  return (vf16)((bits & 0x7f800000u) == 0 ? bits & 0x80000000u : bits);
}
PYASD_INLINE vf16 multiply_add(float a, vf16 b, vf16 c) {
  for (int i = 0; i < 16; ++i) c[i] = __builtin_fmaf(a, b[i], c[i]);
  return flushed(c);
}

// Intel's manual, TDPBF16PS: the sums of even and of odd products begin at zero and run over k as fused multiply-adds,
// rounded to nearest even, denormals as zeros going in and coming out; then both are added, and their sum is added to
// C.
static void tile_multiply_add(int c, int a, int b) {
  const TileConfig& config = emulated.config;
  tile_require(config.palette == 1 && c != a && c != b && a != b);
  tile_require(config.rows[c] == config.rows[a] && config.row_bytes[c] == config.row_bytes[b]);
  tile_require(config.row_bytes[a] == 4 * config.rows[b] && config.row_bytes[c] % 4 == 0 && config.rows[c] > 0);
  const auto pairs = [](const unsigned char* row, vf16* even, vf16* odd) {
    vu16 both;
    __builtin_memcpy(&both, row, sizeof both);
    *even = flushed((vf16)(both << 16));
    *odd = flushed((vf16)(both & 0xffff0000u));
  };
  vf16 right[16][2];  // [k][even, odd], each [n]
  for (int k = 0; k < config.rows[b]; ++k) pairs(emulated.data[b][k], &right[k][0], &right[k][1]);
  constexpr int kTogether = 4;  // rows whose chains of sums run beside each other
  for (int first = 0; first < config.rows[c]; first += kTogether) {
    vf16 even[kTogether] = {}, odd[kTogether] = {}, left[kTogether][2];
    for (int m = 0; m < kTogether; ++m) pairs(emulated.data[a][first + m], &left[m][0], &left[m][1]);
    for (int k = 0; k < config.rows[b]; ++k) {
#pragma GCC unroll 4
      for (int m = 0; m < kTogether; ++m) {
        even[m] = multiply_add(left[m][0][k], right[k][0], even[m]);
        odd[m] = multiply_add(left[m][1][k], right[k][1], odd[m]);
      }
    }
    for (int m = 0; m < kTogether && first + m < config.rows[c]; ++m) {
      unsigned char* row = emulated.data[c][first + m];
      vf16 sum;
      __builtin_memcpy(&sum, row, sizeof sum);
      sum = flushed(flushed(sum) + flushed(even[m] + odd[m]));
      __builtin_memcpy(row, &sum, config.row_bytes[c]);  // what lies behind is zero already
    }
  }
}

template <int T>
static void tile_load(const void* from, int64_t stride) {
  tile_load(T, from, stride);
}
template <int T>
static void tile_store(void* to, int64_t stride) {
  tile_store(T, to, stride);
}
template <int C, int A, int B>
static void tile_multiply_add() {
  tile_multiply_add(C, A, B);
}

#endif
