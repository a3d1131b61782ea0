// One instruction set's kernels. isa_base.cpp, isa_avx2.cpp and isa_avx512.cpp define PYASD_ISA and include this file,
// each compiled with its own flags. Everything lives in the namespace PYASD_ISA and is static or always inlined, and no
// inline function of the standard library is called: the linker would keep one copy of it, compiled for whichever set.
#include <cstddef>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "cpu/kernels.h"

#define PYASD_INLINE static inline __attribute__((always_inline))

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
    log_mel_scratch,
    log_mel_group,
    mixture_pack,
    mixture_forward_scratch,
    mixture_forward,
    mixture_backward_scratch,
    mixture_backward,
    trunk_scratch,
    trunk_forward,
    standardise,
    probe_fma,
    probe_exp,
};

}  // namespace
}  // namespace PYASD_ISA
}  // namespace pyasd
