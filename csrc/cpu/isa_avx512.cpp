#define PYASD_ISA avx512
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include "cpu/isa.inl"

namespace pyasd {
const Kernels* kernels_avx512() { return &avx512::kKernels; }
}  // namespace pyasd

#else
#include "cpu/kernels.h"

namespace pyasd {
const Kernels* kernels_avx512() { return nullptr; }
}  // namespace pyasd
#endif
