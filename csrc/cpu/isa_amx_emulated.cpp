// What isa_amx.cpp compiles, with the tile instructions emulated: so that any processor with AVX-512 tests it.
#define PYASD_ISA amx_emulated
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include "cpu/isa.inl"

namespace pyasd {
namespace amx_emulated {
namespace {
#define PYASD_EMULATE_TILES
#include "cpu/amx.inl"
}  // namespace
}  // namespace amx_emulated
const Kernels* kernels_amx_emulated() { return &amx_emulated::kAmxKernels; }
}  // namespace pyasd

#else
#include "cpu/kernels.h"

namespace pyasd {
const Kernels* kernels_amx_emulated() { return nullptr; }
}  // namespace pyasd
#endif
