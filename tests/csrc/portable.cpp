// Runs the portable kernels on made-up numbers and writes all that they give to the standard output, as float32: for
// processors that Python doesn't run on here, whose results are compared with this one's.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <vector>

#include "pyasd.h"

namespace {

constexpr int kThreads = 2;

class Numbers {  // multiples of 2^-16 in [-1, 1), the same on every machine
 public:
  std::vector<float> take(int64_t count, float scale = 1.0f) {
    std::vector<float> values;
    for (int64_t i = 0; i < count; ++i) {
      state_ = state_ * 1664525u + 1013904223u;
      values.push_back(scale * (float(state_ >> 15) / 65536.0f - 1.0f));
    }
    return values;
  }

 private:
  uint32_t state_ = 1;
};

bool put(int status, const std::vector<float>& values) {
  return status == pyasd::kOk && std::fwrite(values.data(), sizeof(float), values.size(), stdout) == values.size();
}

bool log_mel(Numbers& numbers) {
  constexpr int kFft = 256, kHop = 128, kMels = 20;
  const double tau = 2 * std::acos(-1.0);
  std::vector<double> window, weights;
  for (int n = 0; n < kFft; ++n) window.push_back(0.5 - 0.5 * std::cos(tau * n / kFft));
  std::vector<int32_t> starts, counts;
  for (int m = 0; m < kMels; ++m) {  // triangles side by side
    starts.push_back(6 * m);
    counts.push_back(9);
    for (int i = 0; i < 9; ++i) weights.push_back(i < 4 ? 0.2 * (i + 1) : 0.2 * (9 - i));
  }
  const pyasd::LogMelShape shape{kFft, kHop, kMels, 1, 0, 2.22e-16f};
  const std::unique_ptr<pyasd::LogMelPlan, void (*)(pyasd::LogMelPlan*)> plan(
      pyasd::log_mel_plan_create(shape, {window.data(), starts.data(), counts.data(), weights.data()}),
      pyasd::log_mel_plan_destroy);
  const std::vector<int64_t> lengths{3000, 1777};
  const int64_t frames = 1 + lengths[0] / kHop + 1 + lengths[1] / kHop;
  const std::vector<float> samples = numbers.take(2 * 3000, 0.5f);
  std::vector<int16_t> whole;
  for (const float x : samples) whole.push_back(int16_t(x * 32768.0f));
  std::vector<float> out(frames * kMels, NAN), of_whole = out;
  return plan != nullptr &&
         put(pyasd::log_mel(plan.get(), {samples.data(), 0, 2, 3000, lengths.data(), out.data()}, pyasd::kBase,
                            kThreads),
             out) &&
         put(pyasd::log_mel(plan.get(), {whole.data(), 1, 2, 3000, lengths.data(), of_whole.data()}, pyasd::kBase,
                            kThreads),
             of_whole);
}

// Group MADE of 3 frames of 6 bands: likelihoods, gradients, and both hidden layers with the head in one call.
bool group_made(Numbers& numbers, int32_t bfloat16) {
  constexpr int64_t kMels = 6, kDims = 18, kWindows = 37;
  constexpr int32_t kHidden = 16, kComponents = 5;
  const std::vector<int32_t> prefix{0, 7, 16};
  const int64_t outputs = 3 * kDims * kComponents;
  const pyasd::MixtureShape shape{kDims, 3, kComponents, kHidden, prefix.data(), -4.6f, bfloat16};
  const std::vector<float> weight = numbers.take(outputs * kHidden), bias = numbers.take(outputs);
  std::vector<float> rows = weight, packed(pyasd::mixture_packed_size(shape, pyasd::kBase));
  for (float& x : rows) x = bfloat16 ? std::nearbyint(x * 64) / 64 : x;  // 7 bits: bfloat16 has them
  bool done = put(pyasd::mixture_pack(shape, {rows.data(), bias.data(), packed.data()}, pyasd::kBase, kThreads), {});
  const std::vector<float> hidden = numbers.take(kWindows * kHidden, 2), target = numbers.take(kWindows * kDims, 3);
  for (const int32_t per_dim : {0, 1}) {
    std::vector<float> out(kWindows * (per_dim ? kDims : 3), NAN);
    const pyasd::MixtureForwardArgs args{packed.data(), hidden.data(), target.data(), kWindows,
                                         kHidden,       kDims,         out.data(),    per_dim};
    done = done && put(pyasd::mixture_forward(shape, args, pyasd::kBase, kThreads), out);
  }
  std::vector<float> d_hidden(hidden.size(), NAN), d_target(target.size(), NAN), d_weight(weight.size(), NAN),
      d_bias(bias.size(), NAN), log_prob(kWindows * 3, NAN);
  const pyasd::MixtureBackwardArgs backward{
      packed.data(),   rows.data(),     kHidden,       nullptr,        -0.25f, hidden.data(),
      target.data(),   kWindows,        kHidden,       kDims,          0,      d_hidden.data(),
      d_target.data(), d_weight.data(), d_bias.data(), log_prob.data()};
  const int status = pyasd::mixture_backward(shape, backward, pyasd::kBase, kThreads);
  for (const auto* x : {&d_hidden, &d_target, &d_weight, &d_bias, &log_prob}) done = done && put(status, *x);

  const std::vector<float> first = numbers.take(24 * kDims, 0.3f), second = numbers.take(kHidden * 24, 0.3f),
                           biases = numbers.take(24), scale(kMels, 0.125f), mean = numbers.take(kMels, 10),
                           frames = numbers.take((kWindows + 2) * kMels, 20);
  const pyasd::DenseLayer layers[2] = {{int32_t(kDims), 24, first.data(), biases.data()},
                                       {24, kHidden, second.data(), biases.data()}};
  const std::unique_ptr<pyasd::Trunk, void (*)(pyasd::Trunk*)> trunk(
      pyasd::trunk_create(layers, 2, int32_t(kMels), bfloat16, pyasd::kBase), pyasd::trunk_destroy);
  const std::vector<uint8_t> wanted{1, 1, 1};
  std::vector<float> out(kWindows * 3, NAN);
  const pyasd::GroupMadeArgs args{trunk.get(), packed.data(), frames.data(), kWindows,   kMels,
                                  mean.data(), scale.data(),  wanted.data(), out.data(), 0};
  return done && trunk != nullptr && put(pyasd::group_made_forward(shape, args, pyasd::kBase, kThreads), out);
}

}  // namespace

int main() {
  Numbers numbers;
  return log_mel(numbers) && group_made(numbers, 0) && group_made(numbers, 1) ? 0 : 1;
}
