#define PYASD_ISA avx2
#if defined(__AVX2__) && defined(__FMA__)
#include "cpu/isa.inl"

namespace pyasd {
const Kernels* kernels_avx2() { return &avx2::kKernels; }
}  // namespace pyasd

#else
#include "cpu/kernels.h"

namespace pyasd {
const Kernels* kernels_avx2() { return nullptr; }
}  // namespace pyasd
#endif
