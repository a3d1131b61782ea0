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
  int64_t first_dim;  // of all dims
  int32_t dims;       // in this tile, at most lanes
  int32_t prefix;     // hidden units that the group sees
  int64_t packed;     // where the tile begins in the packed weights
};

struct Kernels {
  int lanes;            // floats in a vector: frames of a log-Mel group, output dimensions of a mixture tile
  bool bfloat16_pairs;  // trunk: products of bfloat16 pairs in one instruction
  bool tile_products;   // trunk: products of AMX tiles, of bfloat16 parts

  std::size_t (*log_mel_scratch)(const LogMelTables& tables);
  // Frames [group * lanes, (group + 1) * lanes) of one clip of `length` samples; `out` is the clip's first frame.
  void (*log_mel_group)(const LogMelTables& tables, const void* samples, bool is_int16, int64_t length, int64_t group,
                        float* out, void* scratch);

  int64_t (*tile_packed_size)(const MixtureShape& shape, int64_t prefix);  // floats of one tile's packed weights
  // One tile's weights from the rows of `weight` into the packed layout (see cpu/mixture.inl).
  void (*mixture_pack)(const MixtureShape& shape, const MixtureTile& tile, const float* weight, const float* bias,
                       float* packed);

  std::size_t (*mixture_forward_scratch)(const MixtureShape& shape, int64_t windows);
  // Windows [first, last), all tiles.
  void (*mixture_forward)(const MixtureShape& shape, const MixtureTile* tiles, int64_t tile_count,
                          const MixtureForwardArgs& args, int64_t first, int64_t last, void* scratch);

  std::size_t (*mixture_backward_scratch)(const MixtureShape& shape, int64_t windows);
  // One tile, windows [first, last): writes d_target, adds to the tile's d_weight and d_bias (writes them where `first`
  // is 0), and writes the tile's share of d_hidden, [last - first][prefix in whole vectors], and, unless `values` is
  // null, of the log-likelihoods, [last - first][lanes].
  void (*mixture_backward)(const MixtureShape& shape, const MixtureTile& tile, const MixtureBackwardArgs& args,
                           int64_t first, int64_t last, float* d_hidden, float* values, void* scratch);

  std::size_t (*group_made_scratch)(const TrunkTables& tables, const MixtureShape& head, int64_t windows, int64_t mels);
  // Windows [first, last), the tiles given.
  void (*group_made)(const TrunkTables& tables, const MixtureShape& head, const MixtureTile* tiles, int64_t tile_count,
                     const GroupMadeArgs& args, int64_t first, int64_t last, void* scratch);

  double (*probe_fma)(int64_t rounds, float* sink);
  double (*probe_pairs)(int64_t rounds, float* sink);
  double (*probe_exp)(int64_t rounds, float* sink);

  // With tile_products: c [2][32][16] = bias [2][16] + a [32][32] times b [2][16 pairs][16][2], in all eight tiles.
  void (*tile_check)(const uint16_t* a, const uint16_t* b, const float* bias, float* c);
};

const Kernels* kernels(int isa);  // null where the build has none

const Kernels* kernels_base();
const Kernels* kernels_avx2();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512bf16();
const Kernels* kernels_amx();
const Kernels* kernels_amx_emulated();

const char* amx_obstacle();  // why this process can't use AMX; null where it can

}  // namespace pyasd
