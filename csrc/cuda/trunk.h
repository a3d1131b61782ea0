// Group MADE's hidden layers on a CUDA device: see ops.group_made_score for what they compute. Pointers are to memory
// of the current device unless they say otherwise; sizes count elements.
#pragma once

#include <cstdint>
#include <vector>

namespace pyasd {
namespace cuda {

constexpr int kTrunkWidth = 128;  // units that a layer may have

struct TrunkLayer {  // followed by ReLU; on the host
  int32_t inputs, outputs;
  const float* weight;  // [outputs, inputs]: where it is zero for a whole tile, nothing is multiplied
  const float* bias;
};

struct TrunkShape {
  int32_t mels, frames;  // of a window
  int32_t outputs;       // of the last layer
  int32_t planes;        // bfloat16 numbers that a factor is split into: 3 (float32-accurate) or 1 (bfloat16)
  int32_t across;        // blocks of 8 columns that the widest rows take: frames, or outputs of a layer
  int32_t chunks;
};

struct Trunk {
  TrunkShape shape;
  std::vector<char> packed;  // on the host
};

// At least one layer, none of more than kTrunkWidth outputs; the first one's inputs are frames of `mels` numbers.
Trunk trunk_pack(const std::vector<TrunkLayer>& layers, int mels, bool bfloat16);

// Whether a block's shared memory holds what the kernel needs.
bool trunk_fits(const TrunkShape& shape);

struct TrunkArgs {
  TrunkShape shape;
  const char* packed;    // aligned to 16 bytes
  const float* log_mel;  // [windows + frames - 1, mels], contiguous
  int64_t windows;
  const float* band_mean;   // [mels]
  const float* band_scale;  // [mels]
  float* z;                 // as log_mel, standardised per band
  float* hidden;            // [windows, outputs]
};

// Enqueues the kernel on a stream (a cudaStream_t) and returns a cudaError_t; neither synchronises nor allocates.
int trunk_forward(const TrunkArgs& args, void* stream);

}  // namespace cuda
}  // namespace pyasd
