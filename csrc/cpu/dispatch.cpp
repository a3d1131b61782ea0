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
    case kAmx: return kernels_amx();
    case kAmxEmulated: return kernels_amx_emulated();
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
  if (isa == kAvx512 || isa == kAmxEmulated) return avx512;
  if (isa == kAvx512Bf16 || isa == kAmx) return avx512 && __builtin_cpu_supports("avx512bf16");
#endif
  return isa == kBase;
}

struct Tiles {
  std::vector<MixtureTile> all;
  int64_t packed = 0;  // floats of the packed weights
};

Tiles make_tiles(const MixtureShape& shape, const Kernels& k) {
  Tiles tiles;
  const int64_t dims = shape.dims / shape.groups;
  for (int64_t group = 0; group < shape.groups; ++group) {
    const int64_t prefix = shape.prefix[group];
    const int64_t packed = k.tile_packed_size(shape, prefix);
    for (int64_t d = 0; d < dims; d += k.lanes) {
      const int64_t in_tile = std::min<int64_t>(k.lanes, dims - d);
      tiles.all.push_back({group, group * dims + d, int32_t(in_tile), int32_t(prefix), tiles.packed});
      tiles.packed += packed;
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

const char* isa_obstacle(int isa) {
  if (kernels(isa) == nullptr) return "it is not part of this build";
  if (!processor_has(isa)) return "the processor or the operating system lacks it";
  return isa == kAmx ? amx_obstacle() : nullptr;
}

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

int64_t mixture_packed_size(const MixtureShape& shape, int isa) { return make_tiles(shape, *kernels(isa)).packed; }

int mixture_pack(const MixtureShape& shape, const MixturePackArgs& args, int isa, int threads) try {
  const Kernels* k = kernels(isa);
  if (k == nullptr) return kUnsupported;
  const std::vector<MixtureTile> tiles = make_tiles(shape, *k).all;
  parallel_for(int64_t(tiles.size()), threads,
               [&](int64_t i) { k->mixture_pack(shape, tiles[i], args.weight, args.bias, args.packed); });
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
  std::atomic<int> status{kOk};
  parallel_for(tasks, threads, [&](int64_t i) {
    const int64_t first = args.windows * i / tasks, last = args.windows * (i + 1) / tasks;
    void* memory = scratch(k->group_made_scratch(t, head, last - first, args.mels));
    if (memory == nullptr) {
      status = kOutOfMemory;
      return;
    }
    k->group_made(t, head, tiles.data(), int64_t(tiles.size()), args, first, last, memory);
  });
  return status;
} catch (const std::bad_alloc&) {
  return kOutOfMemory;
}

namespace {

// Hidden units of a tile's share of d_hidden: those that its group sees, in whole vectors.
int64_t share_units(const MixtureTile& tile, int lanes) { return (tile.prefix + lanes - 1) / lanes * lanes; }

// Adds up the tiles' shares of one window, in the tiles' order whatever thread made them: its d_hidden and, as the
// forward pass does it, its log-likelihoods.
struct Shares {
  const MixtureShape& shape;
  const std::vector<MixtureTile>& tiles;
  const std::vector<int64_t>& d_hidden_at;  // where each tile's share begins
  const float* d_hidden;
  const float* values;  // [tile][chunk][lanes], or null
  int64_t chunk;
  int lanes;

  void add_hidden(int64_t w, float* row) const {
    std::fill(row, row + shape.hidden, 0.0f);
    for (std::size_t t = 0; t < tiles.size(); ++t) {
      const float* part = d_hidden + d_hidden_at[t] + w * share_units(tiles[t], lanes);
      for (int64_t h = 0; h < tiles[t].prefix; ++h) row[h] += part[h];
    }
  }

  void add_values(int64_t w, float* row) const {
    float sum[16];
    for (std::size_t t = 0; t < tiles.size(); ++t) {
      const float* own = values + (int64_t(t) * chunk + w) * lanes;
      const bool opens_group = t == 0 || tiles[t - 1].group != tiles[t].group;
      for (int i = 0; i < lanes; ++i) sum[i] = opens_group ? own[i] : sum[i] + own[i];
      if (t + 1 < tiles.size() && tiles[t + 1].group == tiles[t].group) continue;
      for (int half = lanes / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
      }
      row[tiles[t].group] = sum[0];
    }
  }
};

}  // namespace

int mixture_backward(const MixtureShape& shape, const MixtureBackwardArgs& args, int isa, int threads) try {
  const Kernels* k = kernels(isa);
  if (k == nullptr) return kUnsupported;
  const std::vector<MixtureTile> tiles = make_tiles(shape, *k).all;
  const int64_t tile_count = int64_t(tiles.size());
  if (args.windows == 0) {
    std::fill(args.d_weight, args.d_weight + 3 * shape.dims * shape.components * shape.hidden, 0.0f);
    std::fill(args.d_bias, args.d_bias + 3 * shape.dims * shape.components, 0.0f);
    return kOk;
  }
  // Windows whose shares wait to be added up. Each chunk reads the weights and their gradients once more, from beyond
  // the L2 cache, so that chunks are long.
  constexpr int64_t kChunk = 512;
  const int64_t chunk = std::min(kChunk, args.windows);
  std::vector<int64_t> share(tiles.size() + 1);
  for (int64_t t = 0; t < tile_count; ++t) {
    share[t + 1] = share[t] + chunk * share_units(tiles[t], k->lanes);
  }
  const int64_t values_size = args.log_prob == nullptr ? 0 : tile_count * chunk * k->lanes;
  void* memory = scratch(std::size_t(share.back() + values_size) * sizeof(float), Use::kCall);
  if (memory == nullptr) return kOutOfMemory;
  float* d_hidden = static_cast<float*>(memory);
  float* values = args.log_prob == nullptr ? nullptr : d_hidden + share.back();
  const Shares shares{shape, tiles, share, d_hidden, values, chunk, k->lanes};
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
      k->mixture_backward(shape, tiles[t], args, first, last, d_hidden + share[t],
                          values == nullptr ? nullptr : values + t * chunk * k->lanes, memory);
    });
    if (status != kOk) return status;
    parallel_for((last - first + 15) / 16, threads, [&](int64_t i) {
      for (int64_t w = i * 16; w < std::min(i * 16 + 16, last - first); ++w) {
        shares.add_hidden(w, args.d_hidden + (first + w) * shape.hidden);
        if (values != nullptr) shares.add_values(w, args.log_prob + (first + w) * shape.groups);
      }
    });
  }
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

double probe_pairs(int64_t rounds, int isa) { return probe(kernels(isa)->probe_pairs, rounds); }

double probe_exp(int64_t rounds, int isa) { return probe(kernels(isa)->probe_exp, rounds); }

}  // namespace pyasd
