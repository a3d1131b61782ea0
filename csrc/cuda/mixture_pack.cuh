// Weights to the layout of mixture_tiles.cuh: a thread for each eight of them that follow each other, and for each
// bias.
#pragma once

#include "cuda/mixture_tiles.cuh"

namespace pyasd {
namespace cuda {

struct PackArgs {
  MixtureHead head;
  const float* weight;  // [3 * dims * components, hidden]
  const float* bias;
  char* packed;
};

constexpr int kPackThreads = 128;

struct alignas(16) Eight {  // bfloat16 numbers
  uint32_t pair[4];
};

// A block for each unit and component.
template <int Planes>
PYASD_KERNEL(kPackThreads, 1)
pack_kernel(PackArgs args) {
  const MixtureHead& head = args.head;
  const int component = int(blockIdx.x) % head.components;
  const Unit unit = unit_at(head, args.packed, int(blockIdx.x) / head.components);
  char* const out = const_cast<char*>(unit.packed) + int64_t(component) * component_bytes(unit.prefix, Planes);
  const auto row = [&](int param, int dim) {
    return (param * head.dims + unit.first_dim + dim) * head.components + component;
  };
  for (int i = int(threadIdx.x); i < kBiasBytes / 4; i += kPackThreads) {
    const bool there = i < 48 && i % 16 < unit.dims;
    put(reinterpret_cast<float*>(out) + i, there ? args.bias[row(i / 16, i % 16)] : 0.0f);
  }
  const int steps = steps_of(unit.prefix);
  for (int i = int(threadIdx.x); i < steps * 3 * 32; i += kPackThreads) {  // [step][param][dim][half of the step]
    const int half = i % 2, dim = i / 2 % 16, param = i / 32 % 3, step = i / 96;
    Eight part[Planes];
    PYASD_UNROLL
    for (int j = 0; j < 4; ++j) {
      const int unit_of_pair = step * 16 + half * 8 + j * 2;
      const float* p = args.weight + row(param, dim) * head.hidden + unit_of_pair;
      uint32_t pair[Planes];
      split<Planes>(dim < unit.dims && unit_of_pair < unit.prefix ? p[0] : 0.0f,
                    dim < unit.dims && unit_of_pair + 1 < unit.prefix ? p[1] : 0.0f, pair);
      PYASD_UNROLL
      for (int plane = 0; plane < Planes; ++plane) part[plane].pair[j] = pair[plane];
    }
    PYASD_UNROLL
    for (int plane = 0; plane < Planes; ++plane) {
      const int block = ((step * Planes + plane) * 3 + param) * 4 + dim / 8 * 2 + half;
      put(reinterpret_cast<Eight*>(out + kBiasBytes + block * kBlockBytes + dim % 8 * 16), part[plane]);
    }
  }
}

}  // namespace cuda
}  // namespace pyasd
