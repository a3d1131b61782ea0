#include "cuda/log_mel.cuh"
#include "cuda/log_mel.h"

namespace pyasd {
namespace cuda {

namespace {

constexpr int kBlocksPerMultiprocessor = 8;

template <int Points>
int run(const LogMelArgs& args, void* stream) {
  constexpr int kFrames = kLogMelThreads / (Points / 8);
  const int64_t turns = (args.frames + kFrames - 1) / kFrames;
  const int64_t most = int64_t(kBlocksPerMultiprocessor) * multiprocessors();
  return launch(log_mel_kernel<Points>, unsigned(turns < most ? turns : most), kLogMelThreads,
                int(kFrames * sizeof(FrameMemory<Points>)), stream, args);
}

}  // namespace

bool log_mel_supported(int n_fft) {
  return n_fft == 256 || n_fft == 512 || n_fft == 1024 || n_fft == 2048 || n_fft == 4096;
}

int log_mel(const LogMelArgs& args, void* stream) {
  switch (args.n_fft) {
    case 256: return run<128>(args, stream);
    case 512: return run<256>(args, stream);
    case 1024: return run<512>(args, stream);
    case 2048: return run<1024>(args, stream);
    default: return run<2048>(args, stream);
  }
}

}  // namespace cuda
}  // namespace pyasd
