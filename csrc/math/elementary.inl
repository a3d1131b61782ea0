// exp and log on vf: for vectors on the host and, with vf = float, for one GPU thread. Included inside a namespace
// that has vf, set1, fma, fnma, at_least, round_nearest, times_pow2, split_exponent and keep_nan.

#if defined(PYASD_HARDWARE_EXP2)

// e^x as the hardware's 2^x (exp2_hardware), whose argument is corrected for what rounding x log2(e) loses; so its
// error is the hardware's (2 ulp) for large |x| too. Below -87 it stays at e^-87. NaN stays NaN.
PYASD_INLINE vf exp_(vf x) {
  x = at_least(x, set1(-87.0f));
  const vf t = x * set1(1.44269504088896341f);
  vf rest = fma(x, set1(1.44269504088896341f), set1(0.0f) - t);
  rest = fma(x, set1(1.92596299e-8f), rest);
  const vf y = exp2_hardware(t);
  return fma(y, rest * set1(0.693147180559945309f), y);
}

#else

// e^x for x <= 88; below -87 it stays at e^-87 (1.6e-38). Minimax polynomial; largest error 1 ulp. NaN stays NaN.
PYASD_INLINE vf exp_(vf x) {
  x = at_least(x, set1(-87.0f));
  const vf n = round_nearest(x * set1(1.44269504088896341f));
  vf r = fnma(n, set1(0.693359375f), x);  // ln 2 in two parts: the first has trailing zeros, so n times it is exact
  r = fnma(n, set1(-2.12194440e-4f), r);
  vf p = set1(1.3814467e-3f);
  p = fma(p, r, set1(8.3687808e-3f));
  p = fma(p, r, set1(4.1668393e-2f));
  p = fma(p, r, set1(1.6666520e-1f));
  p = fma(p, r, set1(4.9999994e-1f));
  p = fma(p, r * r, r) + set1(1.0f);
  return times_pow2(p, n);
}

// e^x for x <= 0 as a term of a sum whose largest is e^0: its error is at most 1.3e-7 of that one, though it grows to
// 5e-6 of e^x itself where that is small. NaN stays NaN.
PYASD_INLINE vf exp_term(vf x) {
  const vf t = at_least(x, set1(-87.0f)) * set1(1.44269504088896341f);
  const vf n = round_nearest(t), r = t - n;
  vf p = set1(1.32646994e-3f);
  p = fma(p, r, set1(9.67153348e-3f));
  p = fma(p, r, set1(5.55073395e-2f));
  p = fma(p, r, set1(2.40222424e-1f));
  p = fma(p, r, set1(6.93147004e-1f));
  return times_pow2(fma(p, r, set1(1.0f)), n);
}

#endif

// ln x for normal x > 0, as (log of the mantissa) + exponent * scale apart, so that each logarithm's base costs one
// multiplication. Cephes' polynomial; largest error 0.9 ulp of ln.
PYASD_INLINE vf log_mantissa(vf x, vf* exponent) {
  const vf f = split_exponent(x, exponent) - set1(1.0f);
  const vf z = f * f;
  vf p = set1(7.0376836292e-2f);
  p = fma(p, f, set1(-1.1514610310e-1f));
  p = fma(p, f, set1(1.1676998740e-1f));
  p = fma(p, f, set1(-1.2420140846e-1f));
  p = fma(p, f, set1(1.4249322787e-1f));
  p = fma(p, f, set1(-1.6668057665e-1f));
  p = fma(p, f, set1(2.0000714765e-1f));
  p = fma(p, f, set1(-2.4999993993e-1f));
  p = fma(p, f, set1(3.3333331174e-1f));
  return f + fma(p * f, z, z * set1(-0.5f));
}

// ln x; x that is NaN or infinite comes back as it is.
PYASD_INLINE vf log_(vf x) {
  vf e;
  const vf m = log_mantissa(x, &e);
  return keep_nan(x, fma(e, set1(0.693359375f), fma(e, set1(-2.12194440e-4f), m)));
}

#if defined(PYASD_TABLES_OF_16)

// Of the middle c of each sixteenth of [1, 2): 1 / c, rounded, and -10 log10 of that.
constexpr float kInverse[16] = {0.969696999f, 0.914285719f, 0.864864886f, 0.820512831f, 0.780487776f, 0.744186044f,
                                0.711111128f, 0.680851042f, 0.653061211f, 0.627451003f, 0.603773594f, 0.581818163f,
                                0.561403513f, 0.542372882f, 0.524590135f, 0.507936537f};
constexpr float kDecibel[16] = {0.133639485f, 0.38918063f, 0.630517364f, 0.859146237f, 1.07633889f, 1.28318477f,
                                1.48062527f,  1.66947889f, 1.85046113f,  2.02420187f,  2.19125891f, 2.35212731f,
                                2.50724864f,  2.65702033f, 2.80179882f,  2.9419055f};

// 10 log10(x), in dB; x that is NaN or infinite comes back as it is. With x = 2^e m and c near m, it is 10 log10(2^e c)
// and that of m / c, a minimax polynomial (1.6e-7 dB).
PYASD_INLINE vf decibel(vf x) {
  vf e;
  const vf r = fma(mantissa(x, &e), of_16(kInverse, x), set1(-1.0f));
  const vf p = fma(fma(set1(1.44877708f), r, set1(-2.17229891f)), r, set1(4.34294462f));
  return fma(p, r, fma(e, set1(3.01029995663981f), of_16(kDecibel, x)));
}

#else

// 10 log10(x), in dB.
PYASD_INLINE vf decibel(vf x) {
  vf e;
  const vf m = log_mantissa(x, &e);
  return keep_nan(x, fma(e, set1(3.01029995663981f), m * set1(4.34294481903252f)));
}

#endif
