// All that kernels use of the hardware, once for the GPU and, where the compiler is not nvcc, as the host emulation of
// tests/csrc/cuda_on_host.h. Beyond this, kernels are plain C++ that names threadIdx, blockIdx, blockDim and gridDim.
#pragma once

#include <cstdint>

#if !defined(__CUDACC__)

#include "cuda_on_host.h"

#else

#include <cuda_runtime.h>

#include <mutex>
#include <set>
#include <utility>

#define PYASD_KERNEL(threads, blocks) static __global__ void __launch_bounds__(threads, blocks)
#define PYASD_DEVICE static __device__ __forceinline__
#define PYASD_MEMBER __device__ __forceinline__
#define PYASD_BOTH static __host__ __device__ __forceinline__
#define PYASD_UNROLL _Pragma("unroll")

namespace pyasd {
namespace cuda {

// Of the current device: the most bytes of dynamic shared memory that a block may have; multiprocessors.
inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&value, attribute, device);
  return value;
}
inline int shared_memory_limit() { return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }
inline int multiprocessors() { return device_attribute(cudaDevAttrMultiProcessorCount); }

// Allows a kernel all the shared memory that a block may have on the current device, once: the limit is the kernel's,
// not the launch's, and threads that set it to what each needs would lower it for one another.
template <class Args>
cudaError_t allow_shared_memory(void (*kernel)(Args)) {
  static std::mutex mutex;
  static std::set<std::pair<int, void (*)(Args)> > allowed;
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  const std::lock_guard<std::mutex> lock(mutex);
  if (allowed.count({device, kernel}) > 0) return cudaSuccess;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_memory_limit());
  if (error == cudaSuccess) allowed.insert({device, kernel});
  return error;
}

// Runs kernel(args) in `grid` blocks with `shared_bytes` of dynamic shared memory on a stream of the current device;
// returns a cudaError_t.
template <class Args>
int launch(void (*kernel)(Args), unsigned grid, unsigned threads, int shared_bytes, void* stream, const Args& args) {
  if (grid == 0) return cudaSuccess;
  if (shared_bytes > 48 << 10) {
    const cudaError_t error = allow_shared_memory(kernel);
    if (error != cudaSuccess) {
      cudaGetLastError();  // the runtime remembers errors: this one is dealt with
      return error;
    }
  }
  // clang-format off
  kernel<<<grid, threads, std::size_t(shared_bytes), static_cast<cudaStream_t>(stream)>>>(args);
  // clang-format on
  return cudaGetLastError();
}

// cudaSuccess where the current device can run a kernel, which must have been compiled for its architecture.
template <class Args>
int loaded(void (*kernel)(Args)) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess) cudaGetLastError();  // the runtime remembers errors: this one is dealt with
  return error;
}

PYASD_DEVICE char* shared_memory() {
  extern __shared__ __align__(128) char pyasd_shared[];
  return pyasd_shared;
}

// Writes an output, each of which is written once in a launch (the emulation counts).
template <class T>
PYASD_DEVICE void put(T* p, const T& value) {
  *p = value;
}

PYASD_DEVICE void sync_block() { __syncthreads(); }
PYASD_DEVICE void sync_warp() { __syncwarp(); }
PYASD_DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
PYASD_DEVICE float shuffle(float x, int from) { return __shfl_sync(0xffffffffu, x, from); }

// 16 bytes from global to shared memory, both aligned to 16; there when wait_copies() and a barrier have passed.
PYASD_DEVICE void copy_async(void* shared, const void* global) {
  const unsigned to = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
}
PYASD_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>  // waits until at most that many of the newest groups are under way
PYASD_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Four 8 x 8 matrices of 16-bit numbers: lane 8 i + j brings the address of row j (16 bytes) of matrix i and gets, in
// r[i], the elements 2 (lane % 4) and the next of row lane / 4 of matrix i; transposed, of column lane / 4.
PYASD_DEVICE void load_matrices(uint32_t r[4], const void* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
PYASD_DEVICE void load_matrices_transposed(uint32_t r[4], const void* row) {
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// c += a b: a [16, 16] and b [16, 8] bfloat16, c [16, 8] float32. Lane 4 i + j holds of c the rows i and i + 8, columns
// 2 j and 2 j + 1.
PYASD_DEVICE void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- products of a warpgroup (four warps, of which the first has an index divisible by four), on sm_90a alone -------

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PYASD_HAS_WGMMA 1
#else
#define PYASD_HAS_WGMMA 0
#endif

// Where a product's right factor b [16, columns] lies in shared memory: as blocks of 8 columns x 8 rows, a column's 8
// bfloat16 numbers after each other (128 bytes); the second 8 rows `rows_bytes` further on, the next 8 columns
// `columns_bytes`. All are multiples of 16. (PTX ISA, wgmma, matrix descriptor: K-major, no swizzling.)
PYASD_DEVICE uint64_t wgmma_matrix(const void* shared, int rows_bytes, int columns_bytes) {
  const uint64_t address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  return (address & 0x3ffff) >> 4 | uint64_t(rows_bytes >> 4) << 16 | uint64_t(columns_bytes >> 4) << 32;
}

// Makes what this thread's copies have written to shared memory visible to wgmma, after wait_copies() and before a
// barrier.
PYASD_DEVICE void show_copies_to_wgmma() {
#if PYASD_HAS_WGMMA
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// Before the first product of those that are committed together, and after any other use of their registers.
PYASD_DEVICE void begin_wgmma() {
#if PYASD_HAS_WGMMA
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

// c += a b: a [64, 16] bfloat16, of which each warp holds 16 rows as for mma_bf16, b [16, 48], c [64, 48] float32:
// c[4 i] ... are as mma_bf16 has them for the columns 8 i ... c and a are the product's own until end_wgmma().
PYASD_DEVICE void wgmma_bf16(float c[24], const uint32_t a[4], uint64_t b) {
#if PYASD_HAS_WGMMA
  asm volatile(
      "{\n"
      "wgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, "
      "%13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23}, {%24, %25, %26, %27}, %28, 1, 1, 1, 0;\n"
      "}"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]), "+f"(c[8]),
        "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]), "+f"(c[16]),
        "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]), "+f"(c[23])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b)
      : "memory");
#endif
}

// Waits for all products since begin_wgmma().
PYASD_DEVICE void end_wgmma() {
#if PYASD_HAS_WGMMA
  asm volatile("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
}
// After end_wgmma(), for each sum: the compiler must not read it earlier.
PYASD_DEVICE void take_wgmma(float c[24]) {
  PYASD_UNROLL
  for (int i = 0; i < 24; ++i) asm volatile("" : "+f"(c[i])::"memory");
}

PYASD_DEVICE float exp2_hardware(float x) {  // error 2 ulp; 0 for -infinity
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
// Two numbers rounded to bfloat16, the first in the lower half.
PYASD_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
PYASD_DEVICE float float_of_bits(uint32_t bits) { return __uint_as_float(bits); }
PYASD_DEVICE uint32_t bits_of_float(float x) { return __float_as_uint(x); }
PYASD_DEVICE float fma_hardware(float a, float b, float c) { return __fmaf_rn(a, b, c); }
PYASD_DEVICE float maximum_nan(float a, float b) {  // NaN where either is
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

}  // namespace cuda
}  // namespace pyasd

#endif
