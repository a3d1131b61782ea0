// log-Mel on a CUDA device: see ops.log_mel for what it computes. Pointers are to memory of the current device.
#pragma once

#include <cstdint>

namespace pyasd {
namespace cuda {

struct LogMelArgs {
  int32_t n_fft, hop_length, n_mels;
  int32_t reflect;    // 1: pad by reflection, 0: by zeros
  int32_t floor_add;  // 1: log10(M + eps), 0: log10(max(M, eps))
  float eps;
  const float* window;        // [n_fft]
  const float* twiddle;       // [n_fft] pairs e^(-2 pi i k / n_fft)
  const int32_t* band_start;  // [n_mels] first bin
  const int32_t* band_count;
  const int32_t* band_offset;  // where its weights begin
  const float* band_weights;
  const void* samples;  // [clips, clip_stride] int16 or float32
  int32_t is_int16;
  int64_t clips, clip_stride;
  int64_t length;          // of every clip, or, where clips differ in length,
  const int64_t* lengths;  // [clips], and
  const int64_t* first;    // [clips] each clip's first frame in the output; both null where they don't
  int64_t frames;          // of all clips
  float* out;              // [frames, n_mels]
};

bool log_mel_supported(int n_fft);  // 256, 512, 1024, 2048 and 4096

// Enqueues the kernel on a stream (a cudaStream_t) and returns a cudaError_t; neither synchronises nor allocates.
int log_mel(const LogMelArgs& args, void* stream);

}  // namespace cuda
}  // namespace pyasd
