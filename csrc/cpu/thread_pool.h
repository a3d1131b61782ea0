// A small pool of threads. No OpenMP: torch and scikit-learn each bring a runtime of their own.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pyasd {

// Calls body(context, i) once for each i in [0, count), on the calling thread and at most threads - 1 others, and
// returns when all calls have. Several threads may call at once. Workers are made on first use, and made anew in a
// forked child.
void parallel_for(int64_t count, int threads, void (*body)(void* context, int64_t i), void* context);

// The same for a callable.
template <class Body>
void parallel_for(int64_t count, int threads, const Body& body) {
  void* context = const_cast<void*>(static_cast<const void*>(&body));
  parallel_for(count, threads, [](void* context, int64_t i) { (*static_cast<const Body*>(context))(i); }, context);
}

// This thread's own scratch memory, aligned to a page and kept until the thread ends; null when there is none left. A
// second call for the same use may move what the first returned.
enum class Use { kTask, kCall };  // within one task of parallel_for; by a call that runs several of them
void* scratch(std::size_t bytes, Use use = Use::kTask);

}  // namespace pyasd
