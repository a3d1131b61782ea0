// Vectors of float for one instruction set. Included once by each isa_*.cpp, inside that set's own namespace: nothing
// here or in what follows may be shared with code compiled for another set.
//
// Gives: vf (kLanes floats, with + - *), set1, load, store (any alignment), fma(a,b,c) = a*b+c, fnma(a,b,c) = c-a*b,
// at_least(x, low) and larger(a, b) (a NaN in x or a stays), round_nearest, times_pow2(x, n) = x 2^n for
// integral n in [-126, 127], one_where_at_least, split_exponent, keep_nan, transpose; transpose_pairs, which transposes
// kLanes int16 of each row as pairs that share a lane, and first_of_pair (in memory's order) and second_of_pair, which
// convert them; and kPairs, whether bfloat16 pairs can be multiplied at once: multiply_add<true>(a, b, c) adds to each
// lane of c the two products of its pairs in a and b, and pair(low, high) makes pairs of bfloat16 numbers that stand in
// float32 lanes.

#if defined(__AVX512F__)

constexpr int kLanes = 16;
using vf = __m512;

PYASD_INLINE vf set1(float x) { return _mm512_set1_ps(x); }
PYASD_INLINE vf load(const float* p) { return _mm512_loadu_ps(p); }
PYASD_INLINE void store(float* p, vf x) { _mm512_storeu_ps(p, x); }
PYASD_INLINE void transpose_pairs(const int16_t* const rows[16], int64_t at, vf pairs[8]) {
  const auto both = [&](int i) {
    const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[i] + at)));
    return _mm512_inserti64x4(low, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[i + 4] + at)), 1);
  };
  __m512i columns[2][4];  // of rows 0 to 7 and 8 to 15: columns c and 4 + c, of four rows at a time
  for (int h = 0; h < 2; ++h) {
    const __m512i a = both(8 * h), b = both(8 * h + 1), c = both(8 * h + 2), d = both(8 * h + 3);
    const __m512i ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
    const __m512i ab2 = _mm512_unpackhi_epi32(a, b), cd2 = _mm512_unpackhi_epi32(c, d);
    columns[h][0] = _mm512_unpacklo_epi64(ab, cd);
    columns[h][1] = _mm512_unpackhi_epi64(ab, cd);
    columns[h][2] = _mm512_unpacklo_epi64(ab2, cd2);
    columns[h][3] = _mm512_unpackhi_epi64(ab2, cd2);
  }
  for (int c = 0; c < 4; ++c) {
    pairs[c] = _mm512_castsi512_ps(_mm512_shuffle_i32x4(columns[0][c], columns[1][c], 0x88));
    pairs[4 + c] = _mm512_castsi512_ps(_mm512_shuffle_i32x4(columns[0][c], columns[1][c], 0xdd));
  }
}
PYASD_INLINE vf first_of_pair(vf x) {
  return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(_mm512_castps_si512(x), 16), 16));
}
PYASD_INLINE vf second_of_pair(vf x) { return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_castps_si512(x), 16)); }
PYASD_INLINE vf fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
PYASD_INLINE vf fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); }
PYASD_INLINE vf at_least(vf x, vf low) { return _mm512_max_ps(low, x); }  // maxps gives its second when one is NaN
PYASD_INLINE vf larger(vf a, vf b) { return _mm512_max_ps(b, a); }
PYASD_INLINE vf round_nearest(vf x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
PYASD_INLINE vf times_pow2(vf x, vf n) { return _mm512_scalef_ps(x, n); }
PYASD_INLINE vf one_where_at_least(vf x, vf low) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, low, _CMP_GE_OQ), _mm512_set1_ps(1));
}
PYASD_INLINE vf keep_nan(vf x, vf result) {  // x where it is NaN or infinite, else the result
  return _mm512_mask_mov_ps(result, _mm512_fpclass_ps_mask(x, 0x01 | 0x80 | 0x08 | 0x10), x);
}
PYASD_INLINE vf split_exponent(vf x, vf* exponent) {  // x = m * 2^e, m in [sqrt(1/2), sqrt(2)); x > 0 and normal
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i e = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f3504f3)), 23);
  *exponent = _mm512_cvtepi32_ps(e);
  return _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(e, 23)));
}
#define PYASD_TABLES_OF_16                      // a register holds sixteen numbers to look up
PYASD_INLINE vf mantissa(vf x, vf* exponent) {  // x = m * 2^e, m in [1, 2); x > 0 and normal, or NaN or infinite
  *exponent = _mm512_getexp_ps(x);
  return _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src);
}
PYASD_INLINE vf of_16(const float* table, vf x) {  // the element that the first four bits of x's mantissa give
  return _mm512_permutexvar_ps(_mm512_srli_epi32(_mm512_castps_si512(x), 19), _mm512_loadu_ps(table));
}
#if defined(__AVX512BF16__)
constexpr bool kPairs = true;
template <bool Pairs>
PYASD_INLINE vf multiply_add(vf a, vf b, vf c) {
  if constexpr (Pairs) return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b);
  return _mm512_fmadd_ps(a, b, c);
}
#else
constexpr bool kPairs = false;
template <bool Pairs>
PYASD_INLINE vf multiply_add(vf a, vf b, vf c) {
  static_assert(!Pairs, "needs AVX512-BF16");
  return _mm512_fmadd_ps(a, b, c);
}
#endif
PYASD_INLINE vf pair(vf low, vf high) {
  return _mm512_castsi512_ps(
      _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(low), 16), _mm512_castps_si512(high)));
}
PYASD_INLINE void transpose(vf r[16]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    for (int j = 0; j < 2; ++j) {
      const __m512d a = _mm512_castps_pd(t[i + j]), b = _mm512_castps_pd(t[i + j + 2]);
      r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
      r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
    }
  }
  for (int i = 0; i < 4; ++i) {  // r[4q + i]: column i of each 128-bit part, rows 4q ... 4q + 3
    const __m512 a = _mm512_shuffle_f32x4(r[i], r[4 + i], 0x88), b = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0x88);
    const __m512 c = _mm512_shuffle_f32x4(r[i], r[4 + i], 0xdd), d = _mm512_shuffle_f32x4(r[8 + i], r[12 + i], 0xdd);
    t[i] = _mm512_shuffle_f32x4(a, b, 0x88);
    t[8 + i] = _mm512_shuffle_f32x4(a, b, 0xdd);
    t[4 + i] = _mm512_shuffle_f32x4(c, d, 0x88);
    t[12 + i] = _mm512_shuffle_f32x4(c, d, 0xdd);
  }
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

#elif defined(__AVX2__)

constexpr int kLanes = 8;
using vf = __m256;

PYASD_INLINE vf set1(float x) { return _mm256_set1_ps(x); }
PYASD_INLINE vf load(const float* p) { return _mm256_loadu_ps(p); }
PYASD_INLINE void store(float* p, vf x) { _mm256_storeu_ps(p, x); }
PYASD_INLINE void transpose_pairs(const int16_t* const rows[8], int64_t at, vf pairs[4]) {
  const auto both = [&](int i) {
    const __m256i low = _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + at)));
    return _mm256_inserti128_si256(low, _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i + 4] + at)), 1);
  };
  const __m256i a = both(0), b = both(1), c = both(2), d = both(3);
  const __m256i ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);
  const __m256i ab2 = _mm256_unpackhi_epi32(a, b), cd2 = _mm256_unpackhi_epi32(c, d);
  pairs[0] = _mm256_castsi256_ps(_mm256_unpacklo_epi64(ab, cd));
  pairs[1] = _mm256_castsi256_ps(_mm256_unpackhi_epi64(ab, cd));
  pairs[2] = _mm256_castsi256_ps(_mm256_unpacklo_epi64(ab2, cd2));
  pairs[3] = _mm256_castsi256_ps(_mm256_unpackhi_epi64(ab2, cd2));
}
PYASD_INLINE vf first_of_pair(vf x) {
  return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(_mm256_castps_si256(x), 16), 16));
}
PYASD_INLINE vf second_of_pair(vf x) { return _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_castps_si256(x), 16)); }
PYASD_INLINE vf fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
PYASD_INLINE vf fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); }
PYASD_INLINE vf at_least(vf x, vf low) { return _mm256_max_ps(low, x); }
PYASD_INLINE vf larger(vf a, vf b) { return _mm256_max_ps(b, a); }
PYASD_INLINE vf round_nearest(vf x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
PYASD_INLINE vf times_pow2(vf x, vf n) {
  const __m256i e = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return x * _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
PYASD_INLINE vf one_where_at_least(vf x, vf low) {
  return _mm256_and_ps(_mm256_cmp_ps(x, low, _CMP_GE_OQ), _mm256_set1_ps(1));
}
PYASD_INLINE vf keep_nan(vf x, vf result) {  // x - x is NaN where x is NaN or infinite
  return _mm256_blendv_ps(result, x, _mm256_cmp_ps(x - x, x - x, _CMP_UNORD_Q));
}
PYASD_INLINE vf split_exponent(vf x, vf* exponent) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i e = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3)), 23);
  *exponent = _mm256_cvtepi32_ps(e);
  return _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(e, 23)));
}
constexpr bool kPairs = false;
template <bool Pairs>
PYASD_INLINE vf multiply_add(vf a, vf b, vf c) {
  static_assert(!Pairs, "needs AVX512-BF16");
  return _mm256_fmadd_ps(a, b, c);
}
PYASD_INLINE vf pair(vf, vf high) { return high; }  // never called: kPairs is false
PYASD_INLINE void transpose(vf r[8]) {
  __m256 t[8];
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      r[i + 2 * j] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0x44);
      r[i + 2 * j + 1] = _mm256_shuffle_ps(t[i + j], t[i + j + 2], 0xee);
    }
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x20);
    t[4 + i] = _mm256_permute2f128_ps(r[i], r[4 + i], 0x31);
  }
  for (int i = 0; i < 8; ++i) r[i] = t[i];
}

#else  // the compiler's own vectors: SSE2 on x86-64, NEON on 64-bit ARM

constexpr int kLanes = 4;
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));

PYASD_INLINE vf set1(float x) { return vf{x, x, x, x}; }
PYASD_INLINE vf load(const float* p) {
  vf x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
PYASD_INLINE void store(float* p, vf x) { __builtin_memcpy(p, &x, sizeof x); }
PYASD_INLINE void transpose_pairs(const int16_t* const rows[4], int64_t at, vf pairs[2]) {
  for (int i = 0; i < 2; ++i) {
    vi both;
    for (int lane = 0; lane < 4; ++lane) {
      int32_t two;
      __builtin_memcpy(&two, rows[lane] + at + 2 * i, sizeof two);
      both[lane] = two;
    }
    pairs[i] = (vf)both;
  }
}
PYASD_INLINE vf first_of_pair(vf x) { return __builtin_convertvector(((vi)x << 16) >> 16, vf); }
PYASD_INLINE vf second_of_pair(vf x) { return __builtin_convertvector((vi)x >> 16, vf); }
PYASD_INLINE vf fma(vf a, vf b, vf c) { return a * b + c; }
PYASD_INLINE vf fnma(vf a, vf b, vf c) { return c - a * b; }
PYASD_INLINE vf at_least(vf x, vf low) { return x < low ? low : x; }
PYASD_INLINE vf larger(vf a, vf b) { return a < b ? b : a; }
PYASD_INLINE vf round_nearest(vf x) {  // for |x| < 2^22, which is all that exp2 asks for
  const vf magic = set1(12582912.0f);
  return (x + magic) - magic;
}
PYASD_INLINE vf times_pow2(vf x, vf n) { return x * (vf)((__builtin_convertvector(n, vi) + 127) << 23); }
PYASD_INLINE vf one_where_at_least(vf x, vf low) { return x >= low ? set1(1) : set1(0); }
PYASD_INLINE vf keep_nan(vf x, vf result) { return x - x == x - x ? result : x; }
PYASD_INLINE vf split_exponent(vf x, vf* exponent) {
  const vi e = ((vi)x - 0x3f3504f3) >> 23;
  *exponent = __builtin_convertvector(e, vf);
  return (vf)((vi)x - (e << 23));
}
constexpr bool kPairs = false;
template <bool Pairs>
PYASD_INLINE vf multiply_add(vf a, vf b, vf c) {
  static_assert(!Pairs, "needs AVX512-BF16");
  return a * b + c;
}
PYASD_INLINE vf pair(vf, vf high) { return high; }  // never called: kPairs is false
PYASD_INLINE void transpose(vf r[4]) {
  const vf a = r[0], b = r[1], c = r[2], d = r[3];
  r[0] = vf{a[0], b[0], c[0], d[0]};
  r[1] = vf{a[1], b[1], c[1], d[1]};
  r[2] = vf{a[2], b[2], c[2], d[2]};
  r[3] = vf{a[3], b[3], c[3], d[3]};
}

#endif
