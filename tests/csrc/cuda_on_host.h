// A CUDA device on the host, for tests: csrc/cuda/device.cuh takes it in place of the hardware wherever the compiler is
// not nvcc, so that the very source of the kernels runs without a GPU, block by block.
//
// Every thread of a block is a fiber that runs until it waits: for its warp (shuffles, matrix loads and products are
// collective), for its block, or for copies. A launch fails, with the reason in last_error(), when
//   - an access leaves the memory that it was given (tests hand out buffers between pages that can't be touched;
//     shared memory is one here),
//   - an output is written twice in a launch (puts are counted; that it is written at all, NaN-poisoned outputs show),
//   - threads wait for each other for ever, or lanes of a warp meet at different operations,
//   - wgmma is used against its rules: without its fences, with factors that change before the products are waited for.
// Shared memory begins as NaN in every block; an asynchronous copy leaves NaN at its destination until it is waited
// for. A warp runs as far as it gets before the next one does; PYASD_HOST_ORDER=reverse runs warps and threads last to
// first: where that changes a result, a barrier is missing.
// PYASD_HOST_SHARED_KB is the shared memory that a block may have (227).
#pragma once

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <unordered_set>
#include <vector>

#define PYASD_KERNEL(threads, blocks) static void
#define PYASD_DEVICE static inline
#define PYASD_MEMBER inline
#define PYASD_BOTH static inline
#define PYASD_UNROLL

namespace pyasd {
namespace cuda {

struct Index {
  unsigned x = 0;
};
inline Index threadIdx, blockIdx, blockDim, gridDim;

namespace host {

constexpr int kWarp = 32, kWarpgroup = 128;
constexpr std::size_t kStack = 128 << 10;

struct Copy {
  void* to;
  const void* from;
  int group;
};

struct Barrier {
  int arrived = 0, generation = 0, kind = 0;
  const void* in[kWarpgroup];
  void* out[kWarpgroup];
};

// A product of a warpgroup under way, as one thread has it: its sums, which are NaN until they are waited for, and what
// the factors were when it began.
struct Product {
  float* c;
  float sums[24];
  const uint32_t* a;
  uint32_t a_before[4];
  uint64_t b;
  uint64_t b_before;  // a checksum
};

struct Fiber {
  ucontext_t first;
  sigjmp_buf at;
  bool started = false, done = false;
  const Barrier* waits = nullptr;  // until its generation is no longer `generation`
  int generation = 0;
  std::vector<Copy> copies;
  int groups = 0;                       // of copies committed so far
  std::vector<std::uintptr_t> unshown;  // destinations of its copies that wgmma can't see yet
  std::vector<Product> products;
  bool may_multiply = false;
};

// Memory between two pages that can't be touched; the end is exact, the beginning too where `bytes` fills pages.
class Guarded {
 public:
  explicit Guarded(std::size_t bytes) {
    const std::size_t page = std::size_t(sysconf(_SC_PAGESIZE));
    size_ = (bytes + page - 1) / page * page + 2 * page;
    base_ = static_cast<char*>(mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(base_ + page, size_ - 2 * page, PROT_READ | PROT_WRITE);
    data = base_ + size_ - page - bytes;
  }
  Guarded(const Guarded&) = delete;
  ~Guarded() { munmap(base_, size_); }
  char* data;

 private:
  char* base_;
  std::size_t size_;
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<Barrier> warps, warpgroups;
  Barrier block;
  std::vector<char> stacks;
  std::unordered_set<std::uintptr_t> written, unshown;
  char* shared = nullptr;
  unsigned current = 0;
  sigjmp_buf scheduler, launch;
  std::string error;
  void (*body)(const void*) = nullptr;
  const void* args = nullptr;
};
inline Machine machine;

inline void fail(const std::string& what) {
  if (!machine.error.empty()) return;
  machine.error = what + " (block " + std::to_string(blockIdx.x) + ", thread " + std::to_string(threadIdx.x) + ")";
}

inline void yield() {
  if (_setjmp(machine.fibers[machine.current].at) == 0) _longjmp(machine.scheduler, 1);
}

// Returns true to the last of `members` to arrive, which then does what all came for, and calls release().
inline bool arrive(Barrier& barrier, int members, int kind) {
  if (barrier.arrived == 0) barrier.kind = kind;
  if (barrier.kind != kind) fail("threads meet at different operations");
  if (++barrier.arrived == members) return true;
  Fiber& fiber = machine.fibers[machine.current];
  fiber.waits = &barrier;
  fiber.generation = barrier.generation;
  yield();
  return false;
}

inline void release(Barrier& barrier) {
  barrier.arrived = 0;
  ++barrier.generation;
}

// All lanes of a warp, or of a warpgroup, bring `in`; step(in, out) gets those of every lane and makes what each
// returns.
template <class Out, int Members = kWarp, class In, class Step>
Out collective(int kind, const In& in, Step step) {
  Barrier& team = (Members == kWarp ? machine.warps : machine.warpgroups)[threadIdx.x / Members];
  Out out{};
  team.in[threadIdx.x % Members] = &in;
  team.out[threadIdx.x % Members] = &out;
  if (arrive(team, Members, kind)) {
    const In* all_in[Members];
    Out* all_out[Members];
    for (int i = 0; i < Members; ++i) {
      all_in[i] = static_cast<const In*>(team.in[i]);
      all_out[i] = static_cast<Out*>(team.out[i]);
    }
    step(all_in, all_out);
    release(team);
  }
  return out;
}

inline void start() {
  machine.body(machine.args);
  machine.fibers[machine.current].done = true;
  _longjmp(machine.scheduler, 1);
}

inline void resume(unsigned index) {
  machine.current = index;
  threadIdx.x = index;
  Fiber& fiber = machine.fibers[index];
  if (_setjmp(machine.scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.at, 1);
  fiber.started = true;
  setcontext(&fiber.first);
}

inline void run_block(unsigned threads, bool reverse) {
  machine.fibers.assign(threads, Fiber{});
  machine.warps.assign((threads + kWarp - 1) / kWarp, Barrier{});
  machine.warpgroups.assign((threads + kWarpgroup - 1) / kWarpgroup, Barrier{});
  machine.unshown.clear();
  machine.block = Barrier{};
  for (unsigned i = 0; i < threads; ++i) {
    ucontext_t& context = machine.fibers[i].first;
    getcontext(&context);
    context.uc_stack.ss_sp = machine.stacks.data() + i * kStack;
    context.uc_stack.ss_size = kStack;
    context.uc_link = nullptr;
    makecontext(&context, start, 0);
  }
  for (unsigned done = 0; done < threads;) {
    bool moved = false;
    for (unsigned warp = 0; warp < machine.warps.size(); ++warp) {
      for (bool again = true; again;) {  // as far as the warp gets by itself
        again = false;
        for (unsigned i = warp * kWarp; i < std::min(threads, (warp + 1) * kWarp); ++i) {
          const unsigned index = reverse ? threads - 1 - i : i;
          Fiber& fiber = machine.fibers[index];
          if (fiber.done || (fiber.waits != nullptr && fiber.waits->generation == fiber.generation)) continue;
          fiber.waits = nullptr;
          resume(index);
          if (!machine.error.empty()) return;
          again = moved = true;
          done += fiber.done ? 1 : 0;
        }
      }
    }
    if (!moved) return fail("threads wait for each other for ever");
  }
}

inline void on_fault(int, siginfo_t* info, void*) {
  char text[64];
  std::snprintf(text, sizeof text, "an access out of bounds, at %p", info->si_addr);
  fail(text);
  siglongjmp(machine.launch, 1);
}

inline std::size_t setting(const char* name, std::size_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::size_t(std::atoll(value));
}

}  // namespace host

// ---- what device.cuh gives -----------------------------------------------------------------------------------------

inline const char* last_error() { return host::machine.error.c_str(); }
inline int shared_memory_limit() { return int(host::setting("PYASD_HOST_SHARED_KB", 227) << 10); }
inline int multiprocessors() { return 2; }

template <class Args>
int loaded(void (*)(Args)) {
  return 0;
}

template <class Args>
int launch(void (*kernel)(Args), unsigned grid, unsigned threads, int shared_bytes, void*, const Args& args) {
  using namespace host;
  machine.error.clear();
  machine.written.clear();
  if (grid == 0) return 0;
  if (shared_bytes > shared_memory_limit()) {
    fail("more shared memory than a block may have");
    return 1;
  }
  static void (*body)(Args);
  body = kernel;
  machine.body = [](const void* a) { body(*static_cast<const Args*>(a)); };
  machine.args = &args;
  if (machine.stacks.size() < threads * kStack) machine.stacks.resize(threads * kStack);
  Guarded shared{std::size_t(shared_bytes)};
  machine.shared = shared.data;
  static bool reverse;  // outlives the long jump
  const char* order = std::getenv("PYASD_HOST_ORDER");
  reverse = order != nullptr && std::string(order) == "reverse";
  gridDim.x = grid;
  blockDim.x = threads;
  struct sigaction action{}, before_segv, before_bus;
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO;
  sigaction(SIGSEGV, &action, &before_segv);
  sigaction(SIGBUS, &action, &before_bus);
  if (sigsetjmp(machine.launch, 1) == 0) {
    for (unsigned block = 0; block < grid && machine.error.empty(); ++block) {
      blockIdx.x = block;
      std::memset(shared.data, 0xff, std::size_t(shared_bytes));
      run_block(threads, reverse);
    }
  }
  sigaction(SIGSEGV, &before_segv, nullptr);
  sigaction(SIGBUS, &before_bus, nullptr);
  return machine.error.empty() ? 0 : 1;
}

inline char* shared_memory() { return host::machine.shared; }

template <class T>
void put(T* p, const T& value) {
  for (std::size_t i = 0; i < sizeof(T); i += 4) {
    if (!host::machine.written.insert(reinterpret_cast<std::uintptr_t>(p) + i).second) {
      host::fail("an output is written twice");
    }
  }
  *p = value;
}

inline void sync_block() {
  if (host::arrive(host::machine.block, int(blockDim.x), 0)) host::release(host::machine.block);
}

inline void sync_warp() {
  host::collective<int>(1, 0, [](const int* const*, int* const*) {});
}

inline float shuffle_xor(float x, int mask) {
  return host::collective<float>(2, x, [mask](const float* const* in, float* const* out) {
    for (int i = 0; i < host::kWarp; ++i) *out[i] = *in[i ^ mask];
  });
}

inline float shuffle(float x, int from) {
  return host::collective<float>(3, std::pair<float, int>(x, from),
                                 [](const std::pair<float, int>* const* in, float* const* out) {
                                   for (int i = 0; i < host::kWarp; ++i) *out[i] = in[in[i]->second]->first;
                                 });
}

inline void copy_async(void* shared, const void* global) {
  auto& fiber = host::machine.fibers[host::machine.current];
  if (reinterpret_cast<std::uintptr_t>(shared) % 16 != 0 || reinterpret_cast<std::uintptr_t>(global) % 16 != 0) {
    host::fail("an asynchronous copy of 16 bytes is not aligned to 16 bytes");
  }
  std::memset(shared, 0xff, 16);
  fiber.copies.push_back({shared, global, fiber.groups});
}

inline void commit_copies() { ++host::machine.fibers[host::machine.current].groups; }

template <int Pending>
void wait_copies() {
  auto& fiber = host::machine.fibers[host::machine.current];
  std::size_t kept = 0;
  for (const host::Copy& copy : fiber.copies) {
    if (copy.group < fiber.groups - Pending) {
      std::memcpy(copy.to, copy.from, 16);
      fiber.unshown.push_back(reinterpret_cast<std::uintptr_t>(copy.to));
      host::machine.unshown.insert(fiber.unshown.back());
    } else {
      fiber.copies[kept++] = copy;
    }
  }
  fiber.copies.resize(kept);
}

namespace host {

struct Four {
  uint32_t x[4];
};

inline void load_matrices(uint32_t r[4], const void* row, bool transposed) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) fail("a matrix's row is not aligned to 16 bytes");
  const auto step = [transposed](const void* const* const* in, Four* const* out) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      uint16_t m[8][8];
      for (int i = 0; i < 8; ++i) std::memcpy(m[i], *in[matrix * 8 + i], 16);
      for (int i = 0; i < kWarp; ++i) {
        const int a = i / 4, b = i % 4 * 2;
        const uint32_t low = transposed ? m[b][a] : m[a][b], high = transposed ? m[b + 1][a] : m[a][b + 1];
        out[i]->x[matrix] = low | high << 16;
      }
    }
  };
  const Four result = collective<Four>(transposed ? 5 : 4, row, step);
  std::memcpy(r, result.x, sizeof result.x);
}

inline float from_bfloat16(uint32_t half) {
  const uint32_t bits = half << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// The sum of exact products as tensor cores make it: every addend is cut off one bit below the last place of the
// largest, and the sum is cut off to float32.
inline float sum_as_tensor_core(const float* products, int count, float c) {
  float largest = std::fabs(c), total_nan = c;
  for (int i = 0; i < count; ++i) {
    largest = std::max(largest, std::fabs(products[i]));
    total_nan += products[i];
  }
  if (!(largest > 0) || !std::isfinite(total_nan)) return total_nan;
  int exponent;
  std::frexp(largest, &exponent);
  const double unit = std::ldexp(1.0, exponent - 25), scale = 1 / unit;
  int64_t sum = int64_t(double(c) * scale);
  for (int i = 0; i < count; ++i) sum += int64_t(double(products[i]) * scale);
  const double exact = double(sum) * unit;
  const float rounded = float(exact);
  return std::fabs(rounded) > std::fabs(exact) ? std::nextafterf(rounded, 0.0f) : rounded;
}

struct Factors {
  uint32_t a[4], b[2];
  float c[4];
};
struct Sums {
  float c[4];
};

}  // namespace host

inline void load_matrices(uint32_t r[4], const void* row) { host::load_matrices(r, row, false); }
inline void load_matrices_transposed(uint32_t r[4], const void* row) { host::load_matrices(r, row, true); }

inline void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  using namespace host;
  const Factors mine{{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}};
  const Sums result = collective<Sums>(6, mine, [](const Factors* const* in, Sums* const* out) {
    float left[16][16], right[8][16];
    for (int i = 0; i < kWarp; ++i) {
      const int row = i / 4, column = i % 4 * 2;
      for (int half = 0; half < 2; ++half) {
        for (int j = 0; j < 4; ++j) {
          left[row + j % 2 * 8][column + j / 2 * 8 + half] = from_bfloat16(in[i]->a[j] >> (16 * half) & 0xffff);
        }
        for (int j = 0; j < 2; ++j)
          right[row][column + j * 8 + half] = from_bfloat16(in[i]->b[j] >> (16 * half) & 0xffff);
      }
    }
    for (int i = 0; i < kWarp; ++i) {
      for (int j = 0; j < 4; ++j) {
        float products[16];
        const float* l = left[i / 4 + j / 2 * 8];
        const float* r = right[i % 4 * 2 + j % 2];
        for (int k = 0; k < 16; ++k) products[k] = l[k] * r[k];
        out[i]->c[j] = sum_as_tensor_core(products, 16, in[i]->c[j]);
      }
    }
  });
  std::memcpy(c, result.c, sizeof result.c);
}

#define PYASD_HAS_WGMMA 1

namespace host {

constexpr int kColumns = 48;

struct WarpgroupFactors {
  uint32_t a[4];
  uint64_t b;
  float c[kColumns / 2];
};
struct WarpgroupSums {
  float c[kColumns / 2];
};

// Where row k of column n of the right factor is, as a matrix descriptor says.
inline const char* element(uint64_t b, int k, int n) {
  const auto field = [b](int low) { return int(b >> low & 0x3fff) << 4; };
  return machine.shared + field(0) + k / 8 * field(16) + n / 8 * field(32) + n % 8 * 16 + k % 8 * 2;
}

// Whether this thread looks whether a right factor changes: some of these come late, whichever way threads run.
inline bool watches() { return (threadIdx.x + 4) % kWarp < 8; }

inline uint64_t checksum(uint64_t b) {
  uint64_t sum = 0;
  for (int i = 0; i < 16 * kColumns; ++i) {
    uint16_t x;
    std::memcpy(&x, element(b, i % 16, i / 16), 2);
    sum = sum * 1000003 + x;
  }
  return sum;
}

inline void multiply_warpgroup(const WarpgroupFactors* const* in, WarpgroupSums* const* out) {
  float left[64][16], right[kColumns][16];
  for (int n = 0; n < kColumns; ++n) {
    for (int k = 0; k < 16; ++k) {
      const char* p = element(in[0]->b, k, n);
      if (machine.unshown.count(reinterpret_cast<std::uintptr_t>(p) / 16 * 16)) fail("wgmma doesn't see a copy yet");
      uint16_t x;
      std::memcpy(&x, p, 2);
      right[n][k] = from_bfloat16(x);
    }
  }
  for (int i = 0; i < kWarpgroup; ++i) {
    if (in[i]->b != in[0]->b) fail("threads bring different matrix descriptors");
    for (int j = 0; j < 4; ++j) {
      const int row = i / kWarp * 16 + i % kWarp / 4 + j % 2 * 8, k = i % 4 * 2 + j / 2 * 8;
      left[row][k] = from_bfloat16(in[i]->a[j] & 0xffff);
      left[row][k + 1] = from_bfloat16(in[i]->a[j] >> 16);
    }
  }
  for (int i = 0; i < kWarpgroup; ++i) {
    for (int j = 0; j < kColumns / 2; ++j) {
      float products[16];
      const float* l = left[i / kWarp * 16 + i % kWarp / 4 + j / 2 % 2 * 8];
      const float* r = right[j / 4 * 8 + i % 4 * 2 + j % 2];
      for (int k = 0; k < 16; ++k) products[k] = l[k] * r[k];
      out[i]->c[j] = sum_as_tensor_core(products, 16, in[i]->c[j]);
    }
  }
}

}  // namespace host

inline uint64_t wgmma_matrix(const void* shared, int rows_bytes, int columns_bytes) {
  const std::ptrdiff_t address = static_cast<const char*>(shared) - host::machine.shared;
  if ((address | rows_bytes | columns_bytes) % 16 != 0) host::fail("a matrix of wgmma is not aligned to 16 bytes");
  return uint64_t(address & 0x3ffff) >> 4 | uint64_t(rows_bytes >> 4) << 16 | uint64_t(columns_bytes >> 4) << 32;
}

inline void show_copies_to_wgmma() {
  auto& fiber = host::machine.fibers[host::machine.current];
  for (const std::uintptr_t address : fiber.unshown) host::machine.unshown.erase(address);
  fiber.unshown.clear();
}

inline void begin_wgmma() { host::machine.fibers[host::machine.current].may_multiply = true; }

inline void wgmma_bf16(float c[24], const uint32_t a[4], uint64_t b) {
  using namespace host;
  if (!machine.fibers[machine.current].may_multiply) fail("wgmma without a fence before it");
  WarpgroupFactors mine{{a[0], a[1], a[2], a[3]}, b, {}};
  std::memcpy(mine.c, c, sizeof mine.c);
  for (const Product& earlier : machine.fibers[machine.current].products) {
    if (earlier.c == c) std::memcpy(mine.c, earlier.sums, sizeof mine.c);
  }
  const WarpgroupSums result = collective<WarpgroupSums, kWarpgroup>(7, mine, multiply_warpgroup);
  Product product{c, {}, a, {a[0], a[1], a[2], a[3]}, b, watches() ? checksum(b) : 0};
  std::memcpy(product.sums, result.c, sizeof result.c);
  machine.fibers[machine.current].products.push_back(product);
  std::fill(c, c + 24, std::nanf(""));
}

inline void end_wgmma() {
  auto& fiber = host::machine.fibers[host::machine.current];
  for (const host::Product& product : fiber.products) {
    if (std::memcmp(product.a, product.a_before, sizeof product.a_before) != 0 ||
        (host::watches() && host::checksum(product.b) != product.b_before)) {
      host::fail("a factor of wgmma changed before the product was waited for");
    }
    std::memcpy(product.c, product.sums, sizeof product.sums);
  }
  fiber.products.clear();
  fiber.may_multiply = false;
}
inline void take_wgmma(float[24]) {}

inline float float_of_bits(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
inline uint32_t bits_of_float(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline uint32_t pack_bf16(float low, float high) {
  const auto rounded = [](float x) {
    const uint32_t bits = bits_of_float(x);
    return std::isnan(x) ? 0x7fffu : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  };
  return rounded(low) | rounded(high) << 16;
}
inline float exp2_hardware(float x) { return std::exp2(x); }
inline float fma_hardware(float a, float b, float c) { return std::fma(a, b, c); }
inline float maximum_nan(float a, float b) { return std::isnan(a) || std::isnan(b) ? a + b : a < b ? b : a; }

}  // namespace cuda
}  // namespace pyasd
