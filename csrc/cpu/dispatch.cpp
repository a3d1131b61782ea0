// The native API's CPU side: picks the instruction set's kernels and spreads their work over threads.
#include <algorithm>
#include <atomic>
#include <new>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/thread_pool.h"
#include "pyasd.h"

namespace pyasd {

const Kernels* kernels(int isa) {
  switch (isa) {
    case kBase: return kernels_base();
    case kAvx2: return kernels_avx2();
    case kAvx512: return kernels_avx512();
    case kAvx512Bf16: return kernels_avx512bf16();
    default: return nullptr;
  }
}

namespace {

bool processor_has(int isa) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();  // reads cpuid and, for the vector registers, what the operating system saves (xgetbv)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == kAvx2) return avx2;
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (isa == kAvx512) return avx512;
  if (isa == kAvx512Bf16) return avx512 && __builtin_cpu_supports("avx512bf16");
#endif
  return isa == kBase;
}

// Hidden units of packed rows, and of hidden gradients, for a group that sees `prefix` of them.
int64_t hidden_padded(const Kernels& k, int64_t prefix) {
  return (prefix + k.hidden_multiple - 1) / k.hidden_multiple * k.hidden_multiple;
}

struct Tiles {
  std::vector<MixtureTile> all;
  int64_t packed = 0, packed_rows = 0, d_packed = 0;  // floats of each layout
};

Tiles make_tiles(const MixtureShape& shape, const Kernels& k) {
  Tiles tiles;
  const int64_t dims = shape.dims / shape.groups;
  for (int64_t group = 0; group < shape.groups; ++group) {
    const int64_t prefix = shape.prefix[group];
    const int64_t padded = hidden_padded(k, prefix);
    for (int64_t d = 0; d < dims; d += k.lanes) {
      const int64_t in_tile = std::min<int64_t>(k.lanes, dims - d);
      tiles.all.push_back({group, group * dims + d, int32_t(in_tile), int32_t(prefix), tiles.packed, tiles.packed_rows,
                           tiles.d_packed});
      const int64_t steps = shape.bfloat16 && k.bfloat16_pairs ? (prefix + 1) / 2 : prefix;
      const int64_t outputs = int64_t(shape.components) * 3 * k.lanes;
      tiles.packed += outputs * (1 + steps);
      tiles.packed_rows += outputs * padded;
      tiles.d_packed += outputs * (1 + prefix);
    }
  }
  return tiles;
}

// Windows that a task takes: enough to reuse a tile's weights from the L2 cache, few enough that their hidden units
// stay there too, and enough tasks for all threads.
constexpr int64_t kMostWindows = 384;

int64_t window_tasks(int64_t windows, int threads) {
  const int64_t most = std::max<int64_t>(1, std::min(kMostWindows, (windows + threads - 1) / threads));
  return (windows + most - 1) / most;
}

}  // namespace

bool isa_supported(int isa) { return kernels(isa) != nullptr && processor_has(isa); }

int log_mel(const LogMelPlan* plan, const LogMelArgs& args, int isa, int threads) try {
  const Kernels* k = kernels(isa);
  if (k == nullptr) return kUnsupported;
  const LogMelTables& t = tables(*plan);
  // A task is one group of frames of one clip.
  std::vector<int64_t> first_group(std::size_t(args.clips) + 1), first_frame(std::size_t(args.clips) + 1);
  for (int64_t c = 0; c < args.clips; ++c) {
    const int64_t frames = 1 + args.lengths[c] / t.shape.hop_length;
    first_group[c + 1] = first_group[c] + (frames + k->lanes - 1) / k->lanes;
    first_frame[c + 1] = first_frame[c] + frames;
  }
  const std::size_t sample_size = args.is_int16 ? sizeof(int16_t) : sizeof(float);
  std::atomic<int> status{kOk};
  parallel_for(first_group.back(), threads, [&](int64_t i) {
    const int64_t c = std::upper_bound(first_group.begin(), first_group.end(), i) - first_group.begin() - 1;
    void* memory = scratch(k->log_mel_scratch(t));
    if (memory == nullptr) {
      status = kOutOfMemory;
      return;
    }
    const char* clip = static_cast<const char*>(args.samples) + std::size_t(c * args.clip_stride) * sample_size;
    k->log_mel_group(t, clip, args.is_int16 != 0, args.lengths[c], i - first_group[c],
                     args.out + first_frame[c] * t.shape.n_mels, memory);
  });
  return status;
} catch (const std::bad_alloc&) {
  return kOutOfMemory;
}

int64_t mixture_packed_size(const MixtureShape& shape, int isa) {
  return make_tiles(shape, *kernels(isa)).packed;
}

int64_t mixture_packed_rows_size(const MixtureShape& shape, int isa) {
  return make_tiles(shape, *kernels(isa)).packed_rows;
}

int mixture_pack(const MixtureShape& shape, const float* weight, const float* bias, float* packed, float* packed_rows,
                 int isa, int threads) try {
  const Kernels* k = kernels(isa);
  if (k == nullptr) return kUnsupported;
  const std::vector<MixtureTile> tiles = make_tiles(shape, *k).all;
  parallel_for(int64_t(tiles.size()), threads,
               [&](int64_t i) { k->mixture_pack(shape, tiles[i], weight, bias, packed, packed_rows); });
  return kOk;
} catch (const std::bad_alloc&) {
  return kOutOfMemory;
}

int mixture_forward(const MixtureShape& shape, const MixtureForwardArgs& args, int isa, int threads) try {
  const Kernels* k = kernels(isa);
  if (k == nullptr) return kUnsupported;
  if (args.windows == 0) return kOk;
  const std::vector<MixtureTile> tiles = make_tiles(shape, *k).all;
  const int64_t tasks = window_tasks(args.windows, threads);
  std::atomic<int> status{kOk};
  parallel_for(tasks, threads, [&](int64_t i) {
    const int64_t first = args.windows * i / tasks, last = args.windows * (i + 1) / tasks;
    void* memory = scratch(k->mixture_forward_scratch(shape, last - first));
    if (memory == nullptr) {
      status = kOutOfMemory;
      return;
    }
    k->mixture_forward(shape, tiles.data(), int64_t(tiles.size()), args, first, last, memory);
  });
  return status;
} catch (const std::bad_alloc&) {
  return kOutOfMemory;
}

int group_made_forward(const MixtureShape& head, const GroupMadeArgs& args, int isa, int threads) try {
  const Kernels* k = kernels(isa);
  if (k == nullptr) return kUnsupported;
  if (args.windows == 0) return kOk;
  std::vector<MixtureTile> tiles = make_tiles(head, *k).all;
  tiles.erase(std::remove_if(tiles.begin(), tiles.end(), [&](const MixtureTile& t) { return !args.wanted[t.group]; }),
              tiles.end());
  const TrunkTables& t = tables(*args.trunk);
  const int64_t tasks = window_tasks(args.windows, threads);
  const auto aligned = [](int64_t floats) { return (floats + 15) / 16 * 16; };
  std::atomic<int> status{kOk};
  parallel_for(tasks, threads, [&](int64_t i) {
    const int64_t first = args.windows * i / tasks, windows = args.windows * (i + 1) / tasks - first;
    const int64_t frames = windows + head.groups - 1;
    const int64_t size_z = aligned(frames * args.mels), size_hidden = aligned(windows * head.hidden);
    const std::size_t inner = std::max(k->trunk_scratch(t), k->mixture_forward_scratch(head, windows));
    void* memory = scratch(std::size_t((t.bfloat16 ? 2 : 1) * size_z + size_hidden) * sizeof(float) + inner);
    if (memory == nullptr) {
      status = kOutOfMemory;
      return;
    }
    float* z = static_cast<float*>(memory);
    float* factors = t.bfloat16 ? z + size_z : z;
    float* hidden = factors + size_z;
    float* rest = hidden + size_hidden;
    k->standardise(t, args.log_mel + first * args.mels, frames, args.mels, args.band_mean, args.inverse_scale, z,
                   factors);
    k->trunk_forward(t, factors, t.pairs ? args.mels / 2 : args.mels, windows, hidden, rest);
    const int64_t outputs = args.per_dim ? head.dims : head.groups;
    const MixtureForwardArgs mixture{args.packed, hidden,    z, windows, head.hidden, args.mels,
                                     args.out + first * outputs, args.per_dim};
    k->mixture_forward(head, tiles.data(), int64_t(tiles.size()), mixture, 0, windows, rest);
  });
  return status;
} catch (const std::bad_alloc&) {
  return kOutOfMemory;
}

int mixture_backward(const MixtureShape& shape, const MixtureBackwardArgs& args, int isa, int threads) try {
  const Kernels* k = kernels(isa);
  if (k == nullptr) return kUnsupported;
  const Tiles layout = make_tiles(shape, *k);
  const std::vector<MixtureTile>& tiles = layout.all;
  const int64_t tile_count = int64_t(tiles.size());
  constexpr int64_t kChunk = 128;  // windows whose shares of d_hidden wait to be added up
  std::vector<int64_t> share(tiles.size() + 1);
  const int64_t chunk = std::min(kChunk, args.windows);
  for (int64_t t = 0; t < tile_count; ++t) {
    share[t + 1] = share[t] + chunk * hidden_padded(*k, tiles[t].prefix);
  }
  void* memory = scratch(std::size_t(layout.d_packed + share.back()) * sizeof(float), Use::kCall);
  if (memory == nullptr) return kOutOfMemory;
  float* d_packed = static_cast<float*>(memory);
  float* shares = d_packed + layout.d_packed;
  std::fill(d_packed, shares, 0.0f);
  std::atomic<int> status{kOk};
  for (int64_t first = 0; first < args.windows; first += kChunk) {
    const int64_t last = std::min(first + kChunk, args.windows);
    parallel_for(tile_count, threads, [&](int64_t i) {
      const int64_t t = tile_count - 1 - i;  // in storage order the last groups tend to be the longest
      void* memory = scratch(k->mixture_backward_scratch(shape, last - first));
      if (memory == nullptr) {
        status = kOutOfMemory;
        return;
      }
      k->mixture_backward(shape, tiles[t], args, first, last, d_packed, shares + share[t], memory);
    });
    if (status != kOk) return status;
    parallel_for((last - first + 15) / 16, threads, [&](int64_t i) {
      for (int64_t w = first + i * 16; w < std::min(first + i * 16 + 16, last); ++w) {
        float* row = args.d_hidden + w * shape.hidden;
        std::fill(row, row + shape.hidden, 0.0f);
        for (int64_t t = 0; t < tile_count; ++t) {
          const float* part = shares + share[t] + (w - first) * hidden_padded(*k, tiles[t].prefix);
          for (int64_t h = 0; h < tiles[t].prefix; ++h) row[h] += part[h];
        }
      }
    });
  }
  parallel_for(tile_count, threads, [&](int64_t t) {
    k->mixture_unpack(shape, tiles[t], d_packed, args.d_weight, args.d_bias);
  });
  return kOk;
} catch (const std::bad_alloc&) {
  return kOutOfMemory;
}

namespace {

double probe(double (*run)(int64_t rounds, float* sink), int64_t rounds) {
  float result;
  const double done = run(rounds, &result);
  [[maybe_unused]] volatile float kept = result;  // else the loop could be left out
  return done;
}

}  // namespace

double probe_fma(int64_t rounds, int isa) { return probe(kernels(isa)->probe_fma, rounds); }

double probe_exp(int64_t rounds, int isa) { return probe(kernels(isa)->probe_exp, rounds); }

}  // namespace pyasd
