// log-Mel from samples in one kernel. n_fft / 16 threads have a frame: its samples, two and two, are n_fft / 2 complex
// numbers, eight to a thread, that go through a Stockham FFT of radices 8 (and 4 or 2 last) in registers, exchanged
// through shared memory between the passes; then the spectrum's power, the sparse Mel bands and the logarithm. Window
// and twiddles don't change from frame to frame and stay in registers. Frames never mix: a NaN stays in its own.
#pragma once

#include "cuda/log_mel.h"
#include "cuda/math.cuh"

namespace pyasd {
namespace cuda {

constexpr int kLogMelThreads = 256;

// Eight numbers, then a gap: threads that write eight apart, or read in a row, then use different banks.
PYASD_BOTH constexpr int spread(int i) { return i + i / 8; }

template <int Points>
struct FrameMemory {  // of one frame
  float re[Points * 9 / 8], im[Points * 9 / 8], power[Points + 1];
};

// One pass, after Govindaraju et al. (2008): butterfly j of Points / R takes the inputs j + r Points / R, twiddled by
// e^(-2 pi i r (j mod Done) / (Done R)), to the outputs (j / Done) Done R + j mod Done + r Done; Done is the product of
// the radices before. A thread has 8 / R butterflies.
template <int Points, int R, int Done>
struct Pass {
  static constexpr int kThreads = Points / 8, kOwn = 8 / R;
  Complex twiddle[kOwn][R];

  PYASD_MEMBER void load(const LogMelArgs& args, int thread) {
    PYASD_UNROLL
    for (int b = 0; b < kOwn; ++b) {
      PYASD_UNROLL
      for (int r = 1; r < R; ++r) {
        const float* p = args.twiddle + 2 * ((thread + b * kThreads) % Done * r * (2 * Points / (Done * R)));
        twiddle[b][r] = {p[0], p[1]};
      }
    }
  }

  template <class Memory>
  PYASD_MEMBER void read(const Memory& memory, int thread, Complex x[8]) const {
    PYASD_UNROLL
    for (int b = 0; b < kOwn; ++b) {
      PYASD_UNROLL
      for (int r = 0; r < R; ++r) {
        const int at = spread(thread + b * kThreads + r * (Points / R));
        x[b * R + r] = {memory.re[at], memory.im[at]};
      }
    }
  }

  template <class Memory>
  PYASD_MEMBER void run(Memory& memory, int thread, Complex x[8]) const {
    PYASD_UNROLL
    for (int b = 0; b < kOwn; ++b) {
      if (Done > 1) {
        PYASD_UNROLL
        for (int r = 1; r < R; ++r) x[b * R + r] = times(x[b * R + r], twiddle[b][r].re, twiddle[b][r].im);
      }
      butterfly<R>(x + b * R);
      const int j = thread + b * kThreads;
      PYASD_UNROLL
      for (int r = 0; r < R; ++r) {
        const int at = spread(j / Done * (Done * R) + j % Done + r * Done);
        memory.re[at] = x[b * R + r].re;
        memory.im[at] = x[b * R + r].im;
      }
    }
  }
};

// Which clip a frame of the output is of, and where in the clip it begins.
struct Frame {
  int64_t clip, start, length;
};
PYASD_DEVICE Frame frame_at(const LogMelArgs& args, int64_t index) {
  int64_t clip, first, length = args.length;
  if (args.first == nullptr) {
    const int64_t frames = 1 + length / args.hop_length;
    clip = index / frames;
    first = clip * frames;
  } else {
    int64_t last = args.clips - 1;
    clip = 0;
    while (clip < last) {  // the last clip whose first frame is at or before the index
      const int64_t middle = (clip + last + 1) / 2;
      if (args.first[middle] <= index) {
        clip = middle;
      } else {
        last = middle - 1;
      }
    }
    first = args.first[clip];
    length = args.lengths[clip];
  }
  return {clip, (index - first) * args.hop_length - args.n_fft / 2, length};
}

PYASD_DEVICE float sample_at(const LogMelArgs& args, const Frame& frame, int i) {
  int64_t at = frame.start + i;
  if (args.reflect) at = at < 0 ? -at : at >= frame.length ? 2 * (frame.length - 1) - at : at;
  if (at < 0 || at >= frame.length) return 0.0f;
  at += frame.clip * args.clip_stride;
  if (args.is_int16) return float(static_cast<const int16_t*>(args.samples)[at]) * (1.0f / 32768);
  return static_cast<const float*>(args.samples)[at];
}

// |X[k]|^2 and |X[Points - k]|^2 of the real signal, from the complex signal's bins k and Points - k.
PYASD_DEVICE void powers(Complex a, Complex b, float re, float im, float* low, float* high) {
  const Complex even = {0.5f * (a.re + b.re), 0.5f * (a.im - b.im)}, odd = {0.5f * (a.im + b.im), 0.5f * (b.re - a.re)};
  const Complex turned = times(odd, re, im);
  const Complex l = even + turned, h = even - turned;
  *low = fma(l.re, l.re, l.im * l.im);
  *high = fma(h.re, h.re, h.im * h.im);
}

template <int Points>
PYASD_KERNEL(kLogMelThreads, 2)
log_mel_kernel(LogMelArgs args) {
  constexpr int kThreads = Points / 8, kFrames = kLogMelThreads / kThreads;
  constexpr int kLast = Points % 512 == 0 ? Points / 512 : Points / 64;  // radix of the pass after those of 8
  constexpr bool kThree = Points >= 512;                                 // of these
  const int thread = int(threadIdx.x) % kThreads, own = int(threadIdx.x) / kThreads;
  FrameMemory<Points>& memory = reinterpret_cast<FrameMemory<Points>*>(shared_memory())[own];

  float window[16];
  PYASD_UNROLL
  for (int i = 0; i < 16; ++i) window[i] = args.window[2 * (thread + i / 2 * kThreads) + i % 2];
  Pass<Points, 8, 1> first;
  Pass<Points, 8, 8> second;
  Pass<Points, 8, kThree ? 64 : 1> third;
  Pass<Points, kLast == 1 ? 2 : kLast, kThree ? 512 : 64> last;
  second.load(args, thread);
  if (kThree) third.load(args, thread);
  if (kLast > 1) last.load(args, thread);

  const int64_t turns = (args.frames + kFrames - 1) / kFrames;
  for (int64_t turn = blockIdx.x; turn < turns; turn += gridDim.x) {
    const int64_t index = turn * kFrames + own;
    const bool there = index < args.frames;
    const Frame frame = frame_at(args, there ? index : args.frames - 1);
    Complex x[8];
    PYASD_UNROLL
    for (int r = 0; r < 8; ++r) {
      const int i = 2 * (thread + r * kThreads);
      x[r] = {sample_at(args, frame, i) * window[2 * r], sample_at(args, frame, i + 1) * window[2 * r + 1]};
    }
    first.run(memory, thread, x);
    sync_block();
    second.read(memory, thread, x);
    sync_block();
    second.run(memory, thread, x);
    sync_block();
    if (kThree) {
      third.read(memory, thread, x);
      sync_block();
      third.run(memory, thread, x);
      sync_block();
    }
    if (kLast > 1) {
      last.read(memory, thread, x);
      sync_block();
      last.run(memory, thread, x);
      sync_block();
    }
    for (int k = thread; k <= Points / 2; k += kThreads) {
      const int low = spread(k), high = spread((Points - k) % Points);
      powers({memory.re[low], memory.im[low]}, {memory.re[high], memory.im[high]}, args.twiddle[2 * k],
             args.twiddle[2 * k + 1], memory.power + k, memory.power + Points - k);
    }
    sync_block();
    for (int band = thread; there && band < args.n_mels; band += kThreads) {
      const float* weights = args.band_weights + args.band_offset[band];
      const float* power = memory.power + args.band_start[band];
      float sum = 0.0f;
      for (int i = 0; i < args.band_count[band]; ++i) sum = fma(power[i], weights[i], sum);
      put(args.out + index * args.n_mels + band, decibel(args.floor_add ? sum + args.eps : at_least(sum, args.eps)));
    }
  }
}

}  // namespace cuda
}  // namespace pyasd
