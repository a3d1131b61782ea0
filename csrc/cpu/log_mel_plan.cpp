#include "cpu/log_mel_plan.h"

#include <algorithm>
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
  std::vector<MelTerm> terms;
};

namespace {

constexpr int kMostOpening = 16;
constexpr int kLeastPart = 32;  // of the first level, whose parts are transposed block by block
constexpr double kTau = 6.283185307179586476925286766559;

class Builder {
 public:
  explicit Builder(LogMelPlan& plan) : plan_(plan) {}

  const float* twiddles(int count, int radix, int block) {
    std::vector<float> table;
    for (int n = 0; n < count; ++n) {
      for (int j = 1; j < radix; ++j) add(table, -kTau * j * n / block);
    }
    return keep(std::move(table));
  }

  const float* opening_twiddles(const LogMelLevel& level) {
    std::vector<float> table;
    for (int n = 0; n < level.part; ++n) {
      for (int points = level.opening / 4; points > 0; points /= 2) {
        const int length = points * level.part;  // of the complex signal
        for (int i = 0; i < points; ++i) add(table, -kTau * (n + i * level.part) / (4 * length));
        for (int j = 1; j < points; ++j) add(table, -kTau * j * n / length);
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

  const MelTerm* keep(std::vector<MelTerm>&& table) {
    plan_.terms = std::move(table);
    return plan_.terms.data();
  }

 private:
  static void add(std::vector<float>& table, double angle) {
    table.push_back(static_cast<float>(std::cos(angle)));
    table.push_back(static_cast<float>(std::sin(angle)));
  }

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

// The spectrum's bin that each output of the level's complex FFTs is, these in the order of real_opening.
std::vector<int32_t> output_bins(const LogMelLevel& level, int n_fft) {
  std::vector<int32_t> order(static_cast<std::size_t>(level.part)), bins;
  output_order(level, 0, 0, level.part, 0, 1, order);
  for (int signals = 1; 4 * signals <= level.opening; signals *= 2) {  // whose outputs take turns
    const int length = 4 * signals * level.part;
    for (int j = 0; j < signals; ++j) {
      for (const int32_t k : order) {
        const int odd_bin = 4 * (signals * k + j) + 1;
        bins.push_back((2 * odd_bin < length ? odd_bin : length - odd_bin) * (n_fft / length));
      }
    }
  }
  return bins;
}

void build_levels(Builder& builder, LogMelTables& t) {
  t.level_count = 0;
  for (int length = t.shape.n_fft; length >= 4; length = 2 * t.level[t.level_count - 1].part) {
    const bool first = t.level_count == 0;
    LogMelLevel& level = t.level[t.level_count++];
    level.length = length;
    level.opening = std::min(kMostOpening, first ? length / kLeastPart : length);
    level.part = length / level.opening;
    // Without the 1, the outputs of an opening, a power of two apart, would be in one set of the L1 cache.
    level.pair = 2 * level.part + (first ? 1 : 0);
    if (first) t.work_size = level.pair * level.opening / 2;
    level.open = builder.opening_twiddles(level);
    choose_radices(level.part, level);
    int block = level.part;
    for (int stage = 0; stage + 1 < level.radix_count; ++stage) {
      const int radix = level.radix[stage];
      level.twiddle[stage] = builder.twiddles(block / radix, radix, block);
      block /= radix;
    }
    level.bin = builder.keep(output_bins(level, t.shape.n_fft));
  }
}

const float* build_window(Builder& builder, const LogMelLevel& level, const double* window, double scale) {
  std::vector<float> table;
  for (int n = 0; n < level.part; ++n) {
    for (int j = 0; j < level.opening; ++j) table.push_back(static_cast<float>(window[n + j * level.part] * scale));
  }
  return builder.keep(std::move(table));
}

void build_bands(Builder& builder, LogMelTables& t, const int32_t* starts, const int32_t* counts,
                 const double* weights) {
  std::vector<int32_t> term_counts;
  std::vector<MelTerm> terms;
  for (int first = 0; first < t.shape.n_mels; first += kMelBands) {
    const int bands = std::min(kMelBands, t.shape.n_mels - first);
    const int most = *std::max_element(counts + first, counts + first + bands);
    const std::size_t begin = terms.size();
    terms.resize(begin + static_cast<std::size_t>(most * kMelBands), {t.shape.n_fft / 2 + 1, 0.0f});
    for (int j = 0; j < bands; ++j) {
      for (int i = 0; i < counts[first + j]; ++i) {
        terms[begin + static_cast<std::size_t>(i * kMelBands + j)] = {starts[first + j] + i,
                                                                      static_cast<float>(*weights++)};
      }
    }
    term_counts.push_back(most);
  }
  t.term_count = builder.keep(std::move(term_counts));
  t.terms = builder.keep(std::move(terms));
}

}  // namespace

LogMelPlan* log_mel_plan_create(const LogMelShape& shape, const LogMelWeights& from) {
  const bool power_of_two = (shape.n_fft & (shape.n_fft - 1)) == 0;
  if (!power_of_two || shape.n_fft < 64 || shape.n_fft > 1 << 14 || shape.hop_length < 1 || shape.n_mels < 1) {
    return nullptr;
  }
  try {
    auto plan = std::make_unique<LogMelPlan>();
    Builder builder(*plan);
    LogMelTables& t = plan->tables;
    t.shape = shape;
    build_levels(builder, t);
    t.window_float = build_window(builder, t.level[0], from.window, 1);
    t.window_int16 = build_window(builder, t.level[0], from.window, 1.0 / 32768);
    build_bands(builder, t, from.starts, from.counts, from.weights);
    return plan.release();
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

const LogMelTables& tables(const LogMelPlan& plan) { return plan.tables; }

void log_mel_plan_destroy(LogMelPlan* plan) { delete plan; }

}  // namespace pyasd
