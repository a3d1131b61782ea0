#include "cpu/log_mel_plan.h"

#include <cmath>
#include <deque>
#include <memory>
#include <new>
#include <utility>
#include <vector>

namespace pyasd {

struct LogMelPlan {
  LogMelTables tables;
  std::deque<std::vector<float>> floats;  // what the tables point to
  std::deque<std::vector<int32_t>> ints;
};

namespace {

constexpr double kTau = 6.283185307179586476925286766559;

class Builder {
 public:
  explicit Builder(LogMelPlan& plan) : plan_(plan) {}

  const float* twiddles(int count, int radix, int block) {
    std::vector<float> table;
    for (int n = 0; n < count; ++n) {
      for (int j = 1; j < radix; ++j) {
        const double angle = -kTau * j * n / block;
        table.push_back(static_cast<float>(std::cos(angle)));
        table.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    return keep(std::move(table));
  }

  const float* keep(std::vector<float>&& table) {
    plan_.floats.push_back(std::move(table));
    return plan_.floats.back().data();
  }

  const int32_t* keep(std::vector<int32_t>&& table) {
    plan_.ints.push_back(std::move(table));
    return plan_.ints.back().data();
  }

 private:
  LogMelPlan& plan_;
};

// Radix 8 as often as it goes; 4 once or twice for what is left; 2 only for a transform of two points.
void choose_radices(int points, LogMelLevel& level) {
  int log2 = 0;
  while (1 << log2 < points) ++log2;
  level.radix_count = 0;
  const auto add = [&](int radix) { level.radix[level.radix_count++] = radix; };
  if (log2 == 1) return add(2);
  if (log2 % 3 == 2) add(4), log2 -= 2;
  if (log2 % 3 == 1 && log2 > 1) add(4), add(4), log2 -= 4;
  for (; log2 > 0; log2 -= 3) add(8);
}

// Output k of the transform at each position, after blocks were split radix by radix in place.
void output_order(const LogMelLevel& level, int stage, int offset, int size, int first, int step,
                  std::vector<int32_t>& order) {
  if (stage == level.radix_count) {
    order[static_cast<std::size_t>(offset)] = first;
    return;
  }
  const int radix = level.radix[stage], part = size / radix;
  for (int j = 0; j < radix; ++j) {
    output_order(level, stage + 1, offset + j * part, part, first + j * step, step * radix, order);
  }
}

void build(LogMelPlan& plan, const LogMelShape& shape, const double* window, const int32_t* starts,
           const int32_t* counts, const double* weights) {
  Builder builder(plan);
  LogMelTables& t = plan.tables;
  t.shape = shape;
  t.level_count = 0;
  for (int length = shape.n_fft; length >= 4; length /= 2) {
    LogMelLevel& level = t.level[t.level_count++];
    const int points = length / 4;
    level.length = length;
    level.split = builder.twiddles(points, 2, length);
    choose_radices(points, level);
    int block = points;
    for (int stage = 0; stage + 1 < level.radix_count; ++stage) {
      const int radix = level.radix[stage];
      level.twiddle[stage] = builder.twiddles(block / radix, radix, block);
      block /= radix;
    }
    std::vector<int32_t> order(static_cast<std::size_t>(points));
    output_order(level, 0, 0, points, 0, 1, order);
    for (int32_t& k : order) {
      const int odd_bin = 4 * k + 1;
      k = (2 * odd_bin < length ? odd_bin : length - odd_bin) * (shape.n_fft / length);
    }
    level.bin = builder.keep(std::move(order));
  }
  std::vector<float> plain, scaled;
  for (int n = 0; n < shape.n_fft; ++n) {
    plain.push_back(static_cast<float>(window[n]));
    scaled.push_back(static_cast<float>(window[n] / 32768));
  }
  t.window_float = builder.keep(std::move(plain));
  t.window_int16 = builder.keep(std::move(scaled));
  t.band_start = builder.keep(std::vector<int32_t>(starts, starts + shape.n_mels));
  t.band_count = builder.keep(std::vector<int32_t>(counts, counts + shape.n_mels));
  int64_t total = 0;
  for (int m = 0; m < shape.n_mels; ++m) total += counts[m];
  t.band_weights = builder.keep(std::vector<float>(weights, weights + total));
}

}  // namespace

LogMelPlan* log_mel_plan_create(const LogMelShape& shape, const double* window, const int32_t* starts,
                                const int32_t* counts, const double* weights) {
  const bool power_of_two = (shape.n_fft & (shape.n_fft - 1)) == 0;
  if (!power_of_two || shape.n_fft < 64 || shape.n_fft > 1 << 14 || shape.hop_length < 1 || shape.n_mels < 1) {
    return nullptr;
  }
  try {
    auto plan = std::make_unique<LogMelPlan>();
    build(*plan, shape, window, starts, counts, weights);
    return plan.release();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

const LogMelTables& tables(const LogMelPlan& plan) { return plan.tables; }

void log_mel_plan_destroy(LogMelPlan* plan) { delete plan; }

}  // namespace pyasd
