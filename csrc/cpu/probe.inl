// What this core can do at best, for benchmarks: loops of nothing but multiply-adds, or nothing but exponentials, in
// registers. Each returns the operations done, and a value that keeps the compiler from leaving the loop out.

static double probe_fma(int64_t rounds, float* sink) {
  constexpr int kChains = kLanes == 16 ? 16 : 10;  // enough to hide the latency, few enough for the registers
  vf x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = set1(float(i));
  const vf a = set1(0.999f), b = set1(0.001f);
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kChains; ++i) x[i] = fma(x[i], a, b);
  }
  for (int i = 1; i < kChains; ++i) x[0] = x[0] + x[i];
  *sink = sum_lanes(x[0]);
  return double(rounds) * kChains * kLanes * 2;
}

// The same of bfloat16 pairs, where one instruction does both products.
static double probe_pairs(int64_t rounds, float* sink) {
  if constexpr (!kPairs) return probe_fma(rounds, sink);
  constexpr int kChains = 16;
  vf x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = set1(float(i));
  const vf a = pair(set1(0.5f), set1(0.5f)), b = pair(set1(0.25f), set1(-0.25f));
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kChains; ++i) x[i] = multiply_add<kPairs>(a, b, x[i]);
  }
  for (int i = 1; i < kChains; ++i) x[0] = x[0] + x[i];
  *sink = sum_lanes(x[0]);
  return double(rounds) * kChains * kLanes * 2 * 2;
}

static double probe_exp(int64_t rounds, float* sink) {
  constexpr int kChains = 4;
  vf x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = set1(-0.1f * float(i));
  vf sum = set1(0.0f);
  const vf step = set1(-1e-6f);
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kChains; ++i) {
      sum = sum + exp_(x[i]);
      x[i] = x[i] + step;
    }
  }
  *sink = sum_lanes(sum);
  return double(rounds) * kChains * kLanes;
}
