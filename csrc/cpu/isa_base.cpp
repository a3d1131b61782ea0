#define PYASD_ISA base
#include "cpu/isa.inl"

namespace pyasd {
const Kernels* kernels_base() { return &base::kKernels; }
}  // namespace pyasd
