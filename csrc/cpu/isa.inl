// One instruction set's kernels. Each isa_*.cpp defines PYASD_ISA and includes this file, compiled with its own flags.
// Everything lives in the namespace PYASD_ISA and is static or always inlined, and no inline function of the standard
// library is called: the linker would keep one copy of it, compiled for whichever set.
#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/kernels.h"

#define PYASD_INLINE static inline __attribute__((always_inline))
// For register tiles that fill all 16 registers of AVX2: inlined beside others they spill (gcc 12).
#define PYASD_APART static __attribute__((noinline))

namespace pyasd {
namespace PYASD_ISA {
namespace {

#include "cpu/simd.inl"
#include "math/elementary.inl"
#include "math/butterflies.inl"
#include "math/mixture.inl"
#include "cpu/log_mel.inl"
#include "cpu/mixture.inl"
#include "cpu/mixture_backward.inl"
#include "cpu/trunk.inl"
#include "cpu/probe.inl"

constexpr Kernels kKernels = {
    kLanes,
    kPairs,
    false,
    log_mel_scratch,
    log_mel_group,
    tile_packed_size,
    mixture_pack,
    mixture_forward_scratch,
    mixture_forward,
    mixture_backward_scratch,
    mixture_backward,
    group_made_scratch,
    group_made,
    probe_fma,
    probe_pairs,
    probe_exp,
    nullptr,
};

}  // namespace
}  // namespace PYASD_ISA
}  // namespace pyasd
