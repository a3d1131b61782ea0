#define PYASD_ISA avx512bf16
#if defined(__AVX512BF16__)
#include "cpu/isa.inl"

namespace pyasd {
const Kernels* kernels_avx512bf16() { return &avx512bf16::kKernels; }
}  // namespace pyasd

#else
#include "cpu/kernels.h"

namespace pyasd {
const Kernels* kernels_avx512bf16() { return nullptr; }
}  // namespace pyasd
#endif
