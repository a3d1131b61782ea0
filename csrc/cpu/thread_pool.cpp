#include "cpu/thread_pool.h"

#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

namespace pyasd {
namespace {

struct Job {
  void (*body)(void*, int64_t);
  void* context;
  int64_t count;
  std::atomic<int64_t> next{0};
  int helpers = 0;  // workers inside run(), guarded by the pool's mutex

  void run() {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) body(context, i);
  }
};

class Pool {
 public:
  void parallel_for(Job& job, int helpers) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (int i = workers_; i < helpers; ++i) add_worker();
      if (helpers > workers_) helpers = workers_;
      for (int i = 0; i < helpers; ++i) queue_.push_back(&job);
    }
    if (helpers == 1)
      wake_.notify_one();
    else
      wake_.notify_all();
    job.run();
    std::unique_lock<std::mutex> lock(mutex_);
    for (auto it = queue_.begin(); it != queue_.end();) it = *it == &job ? queue_.erase(it) : it + 1;
    done_.wait(lock, [&] { return job.helpers == 0; });
  }

 private:
  void add_worker() {
    try {
      std::thread([this] { work(); }).detach();
      ++workers_;
    } catch (const std::system_error&) {  // no more threads to be had: those that there are do the work
    }
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return !queue_.empty(); });
      Job* job = queue_.front();
      queue_.pop_front();
      ++job->helpers;
      lock.unlock();
      job->run();
      lock.lock();
      if (--job->helpers == 0) done_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::deque<Job*> queue_;
  int workers_ = 0;
};

// Never destroyed: detached workers may outlive the interpreter's shutdown. A forked child has none of its parent's
// workers and perhaps a locked mutex, so it starts with a new pool.
std::atomic<Pool*> pool{nullptr};

Pool* get_pool() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { pool.store(new Pool); });
  (void)registered;
  Pool* current = pool.load();
  if (current == nullptr) {
    Pool* fresh = new Pool;
    if (pool.compare_exchange_strong(current, fresh)) return fresh;
    delete fresh;
  }
  return current;
}

struct Scratch {
  void* memory = nullptr;
  std::size_t size = 0;
  ~Scratch() { std::free(memory); }
};

}  // namespace

void parallel_for(int64_t count, int threads, void (*body)(void*, int64_t), void* context) {
  Job job;
  job.body = body;
  job.context = context;
  job.count = count;
  const int64_t helpers = (threads < count ? threads : count) - 1;
  if (helpers <= 0) return job.run();
  get_pool()->parallel_for(job, static_cast<int>(helpers));
}

void* scratch(std::size_t bytes, Use use) {
  static thread_local Scratch all[2];
  Scratch& mine = all[static_cast<int>(use)];
  if (mine.size < bytes) {
    std::free(mine.memory);
    mine.size = (bytes + 4095) / 4096 * 4096;
    mine.memory = std::aligned_alloc(4096, mine.size);
    if (mine.memory == nullptr) mine.size = 0;
  }
  return mine.memory;
}

}  // namespace pyasd
