// FFT butterflies on vf (one transform per lane). Included inside a namespace that has vf, set1, fma and fnma.
//
// All transforms decimate in frequency: output k = radix * k' + j of a block comes from its part j. Forward sign
// (e^-i). Arrays hold real and imaginary parts apart.

struct Complex {
  vf re, im;
};

PYASD_INLINE Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
PYASD_INLINE Complex operator-(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
PYASD_INLINE Complex minus_i(Complex a) { return {a.im, set1(0.0f) - a.re}; }

PYASD_INLINE Complex times(Complex a, float re, float im) {
  const vf wr = set1(re), wi = set1(im);
  return {fnma(a.im, wi, a.re * wr), fma(a.im, wr, a.re * wi)};
}

PYASD_INLINE void butterfly2(Complex x[2]) {
  const Complex a = x[0], b = x[1];
  x[0] = a + b;
  x[1] = a - b;
}

PYASD_INLINE void butterfly4(Complex x[4]) {
  const Complex a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = x[1] - x[3];
  x[0] = a + c;
  x[1] = {b.re + d.im, b.im - d.re};
  x[2] = a - c;
  x[3] = {b.re - d.im, b.im + d.re};
}

PYASD_INLINE void butterfly8(Complex x[8]) {
  Complex even[4] = {x[0] + x[4], x[1] + x[5], x[2] + x[6], x[3] + x[7]};
  Complex odd[4] = {x[0] - x[4], x[1] - x[5], x[2] - x[6], x[3] - x[7]};
  const vf h = set1(0.707106781186547524f);  // odd[j] times e^(-i pi j / 4)
  odd[1] = {(odd[1].re + odd[1].im) * h, (odd[1].im - odd[1].re) * h};
  odd[2] = minus_i(odd[2]);
  odd[3] = {(odd[3].im - odd[3].re) * h, (set1(0.0f) - (odd[3].re + odd[3].im)) * h};
  butterfly4(even);
  butterfly4(odd);
  for (int j = 0; j < 4; ++j) {
    x[2 * j] = even[j];
    x[2 * j + 1] = odd[j];
  }
}

template <int R>
PYASD_INLINE void butterfly(Complex x[R]) {
  if constexpr (R == 1) (void)x;
  if constexpr (R == 2) butterfly2(x);
  if constexpr (R == 4) butterfly4(x);
  if constexpr (R == 8) butterfly8(x);
}

// One step of the real FFT: from x[n + j M/4], j = 0 ... 3, of a real signal of length M, the two samples of the signal
// of length M/2 whose spectrum is the even bins, and one sample of the complex signal of length M/4 whose spectrum is
// the bins 4k + 1 (the bins 4k + 3 are their conjugates, mirrored): (d0 - i d1) e^(-2 pi i n / M).
PYASD_INLINE Complex real_split(vf x[4], float re, float im) {
  const vf d0 = x[0] - x[2], d1 = x[1] - x[3];
  x[0] = x[0] + x[2];
  x[1] = x[1] + x[3];
  return times({d0, set1(0.0f) - d1}, re, im);
}
