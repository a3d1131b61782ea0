#define PYASD_ISA amx
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512BF16__)
#include "cpu/isa.inl"

namespace pyasd {
namespace amx {
namespace {
#include "cpu/amx.inl"
}  // namespace
}  // namespace amx
const Kernels* kernels_amx() { return &amx::kAmxKernels; }
}  // namespace pyasd

#else
#include "cpu/kernels.h"

namespace pyasd {
const Kernels* kernels_amx() { return nullptr; }
}  // namespace pyasd
#endif
