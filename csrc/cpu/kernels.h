// What each instruction set's translation unit gives to the dispatcher: functions over plain memory, for one thread.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/log_mel_plan.h"
#include "cpu/trunk.h"
#include "pyasd.h"

namespace pyasd {

// Window of the mixture kernels' work: the part of a call that one task does.
struct MixtureTile {
  int64_t group;
  int64_t first_dim;     // of all dims
  int32_t dims;          // in this tile, at most lanes
  int32_t prefix;        // hidden units that the group sees
  int64_t packed;        // where the tile begins in the packed weights
};

struct Kernels {
  int lanes;             // floats in a vector: frames of a log-Mel group, output dimensions of a mixture tile
  bool bfloat16_pairs;   // products of bfloat16 pairs in one instruction: packed weights are then half as many

  std::size_t (*log_mel_scratch)(const LogMelTables& tables);
  // Frames [group * lanes, (group + 1) * lanes) of one clip of `length` samples; `out` is the clip's first frame.
  void (*log_mel_group)(const LogMelTables& tables, const void* samples, bool is_int16, int64_t length, int64_t group,
                        float* out, void* scratch);

  // One tile's weights from the rows of `weight` into the packed layout (see cpu/mixture.inl).
  void (*mixture_pack)(const MixtureShape& shape, const MixtureTile& tile, const float* weight, const float* bias,
                       float* packed);

  std::size_t (*mixture_forward_scratch)(const MixtureShape& shape, int64_t windows);
  // Windows [first, last), all tiles.
  void (*mixture_forward)(const MixtureShape& shape, const MixtureTile* tiles, int64_t tile_count,
                          const MixtureForwardArgs& args, int64_t first, int64_t last, void* scratch);

  std::size_t (*mixture_backward_scratch)(const MixtureShape& shape, int64_t windows);
  // One tile, windows [first, last): writes d_target, adds to the tile's d_weight and d_bias (writes them where `first` is
  // 0), and writes the tile's share of d_hidden, [last - first][prefix in whole vectors], and, unless `values` is null, of
  // the log-likelihoods, [last - first][lanes].
  void (*mixture_backward)(const MixtureShape& shape, const MixtureTile& tile, const MixtureBackwardArgs& args,
                           int64_t first, int64_t last, float* d_hidden, float* values, void* scratch);

  std::size_t (*trunk_scratch)(const TrunkTables& tables);
  void (*trunk_forward)(const TrunkTables& tables, const float* in, int64_t in_stride, int64_t windows, float* out,
                        void* scratch);
  void (*standardise)(const TrunkTables& tables, const float* log_mel, int64_t frames, int64_t mels, const float* mean,
                      const float* inverse_scale, float* targets, float* factors);

  double (*probe_fma)(int64_t rounds, float* sink);
  double (*probe_exp)(int64_t rounds, float* sink);
};

const Kernels* kernels(int isa);  // null where the build has none

const Kernels* kernels_base();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512bf16();

}  // namespace pyasd
