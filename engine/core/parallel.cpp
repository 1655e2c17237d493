#include "engine/core/parallel.h"

#include <fenv.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/core/assert.h"
#include "engine/core/memory.h"

namespace pare {
namespace {

// Stack of a worker: fixed, so that `ulimit -s` does not decide whether a kernel fits.
constexpr size_t kStackBytes = 4u << 20;

// How long an idle thread looks for work before it sleeps. Decoding starts a loop every few microseconds, and
// a wake-up through the kernel costs about as much as such a loop.
constexpr std::chrono::microseconds kSpin{20};

thread_local int this_thread_index = 0;
thread_local bool inside_loop = false;

void pause_thread() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

template <typename Done>
bool spin_until(Done done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (done()) return true;
      pause_thread();
    }
  } while (std::chrono::steady_clock::now() < end);
  return done();
}

// Threads that wait for loops. One loop runs at a time; its items are handed out in order by a counter.
//
// A worker enters a loop with ++busy_ and then looks at open_; the caller closes the loop with open_ = false
// and then looks at busy_. All four are sequentially consistent, so either the worker sees the closed loop or
// the caller waits for the worker, and the fields of the loop never change under a worker.
class Pool {
 public:
  Pool() { start(0); }

  void start(int threads) {
    const std::lock_guard loop_lock(loop_mutex_);
    stop();
    const int cpus = available_cpus();
    if (threads <= 0) threads = cpus;
    // Spinning beside a thread that waits for the same CPU only delays it.
    spins_ = threads <= cpus;
    seen_at_start_ = generation_;
    for (int index = 1; index < threads; ++index) {
      if (!start_worker(index)) break;
    }
    size_ = static_cast<int>(workers_.size()) + 1;
  }

  int size() const { return size_; }

  void run(int64_t count, const std::function<void(int64_t)>& body) {
    const std::lock_guard loop_lock(loop_mutex_);
    body_ = &body;
    count_ = count;
    next_ = 0;
    failed_item_ = count;
    open_ = true;
    ++generation_;
    if (sleepers_ > 0) {
      // The empty critical section orders us after a worker that has counted itself and not yet begun to
      // wait.
      { const std::lock_guard lock(mutex_); }
      work_.notify_all();
    }
    work_through();
    open_ = false;
    wait_for_workers();
    if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
  }

 private:
  struct Start {
    Pool* pool;
    int index;
  };

  bool start_worker(int index) {
    pthread_attr_t attributes;
    if (::pthread_attr_init(&attributes) != 0) return false;
    ::pthread_attr_setstacksize(&attributes, kStackBytes);
    // Workers inherit this mask: signals of the user arrive at the main thread. Faults must stay deliverable.
    sigset_t blocked, before;
    ::sigfillset(&blocked);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) ::sigdelset(&blocked, fault);
    ::pthread_sigmask(SIG_SETMASK, &blocked, &before);
    auto start = std::make_unique<Start>(Start{this, index});
    pthread_t thread;
    const int error = ::pthread_create(&thread, &attributes, &Pool::thread_main, start.get());
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    ::pthread_attr_destroy(&attributes);
    if (error != 0) return false;
    (void)start.release();  // now owned by the thread
    workers_.push_back(thread);
    return true;
  }

  static void* thread_main(void* argument) {
    const std::unique_ptr<Start> start(static_cast<Start*>(argument));
    this_thread_index = start->index;
    ::fesetenv(FE_DFL_ENV);
    start->pool->worker_loop();
    return nullptr;
  }

  void worker_loop() {
    uint64_t seen = seen_at_start_;
    for (;;) {
      wait_for_loop(seen);
      seen = generation_;
      if (stopping_) return;
      ++busy_;
      if (open_) work_through();
      if (--busy_ == 0 && caller_waits_) {
        { const std::lock_guard lock(mutex_); }
        idle_.notify_all();
      }
    }
  }

  void wait_for_loop(uint64_t seen) {
    if (spins_ && spin_until([&] { return generation_ != seen; })) return;
    std::unique_lock lock(mutex_);
    ++sleepers_;
    work_.wait(lock, [&] { return generation_ != seen; });
    --sleepers_;
  }

  void wait_for_workers() {
    if (busy_ == 0 || (spins_ && spin_until([&] { return busy_ == 0; }))) return;
    std::unique_lock lock(mutex_);
    caller_waits_ = true;
    idle_.wait(lock, [&] { return busy_ == 0; });
    caller_waits_ = false;
  }

  void work_through() {
    inside_loop = true;
    for (int64_t item = next_++; item < count_; item = next_++) {
      try {
        (*body_)(item);
      } catch (...) {
        // Items are handed out in order, so all below this one have begun and will report as well: the lowest
        // failing item is the same for every number of threads.
        const std::lock_guard lock(mutex_);
        if (item < failed_item_) {
          failed_item_ = item;
          failure_ = std::current_exception();
        }
        next_ = count_;
      }
    }
    inside_loop = false;
  }

  void stop() {
    stopping_ = true;
    {
      const std::lock_guard lock(mutex_);
      ++generation_;
    }
    work_.notify_all();
    for (const pthread_t worker : workers_) ::pthread_join(worker, nullptr);
    workers_.clear();
    stopping_ = false;
  }

  std::mutex loop_mutex_;  // held by the thread whose loop runs
  std::vector<pthread_t> workers_;
  std::atomic<int> size_{1};
  std::atomic<bool> spins_{true};
  uint64_t seen_at_start_ = 0;

  std::mutex mutex_;
  std::condition_variable work_, idle_;
  alignas(64) std::atomic<uint64_t> generation_{0};  // counts loops; a change wakes the workers
  std::atomic<int> sleepers_{0};
  std::atomic<bool> open_{false}, stopping_{false}, caller_waits_{false};
  alignas(64) std::atomic<int> busy_{0};
  alignas(64) std::atomic<int64_t> next_{0};

  const std::function<void(int64_t)>* body_ = nullptr;
  int64_t count_ = 0;
  int64_t failed_item_ = 0;     // guarded by mutex_
  std::exception_ptr failure_;  // guarded by mutex_
};

// Never destroyed: at exit the workers sleep, and joining them could only hang.
Pool& pool() {
  static Pool& instance = *new Pool;
  return instance;
}

}  // namespace

void set_thread_count(int threads) {
  PARE_ASSERT(!inside_loop, "[parallel] set_thread_count inside a parallel loop");
  pool().start(threads);
}

int thread_count() {
  return pool().size();
}
int thread_index() {
  return this_thread_index;
}

void parallel_for(int64_t count, const std::function<void(int64_t item)>& body) {
  if (count <= 1 || inside_loop || pool().size() == 1) {
    for (int64_t item = 0; item < count; ++item) body(item);
    return;
  }
  pool().run(count, body);
}

void parallel_ranges(int64_t size, int64_t grain,
                     const std::function<void(int64_t begin, int64_t end)>& body) {
  PARE_ASSERT(grain > 0, "[parallel] grain {}", grain);
  if (size <= 0) return;
  parallel_for((size - 1) / grain + 1, [&](int64_t piece) {
    const int64_t begin = piece * grain;
    body(begin, begin + std::min(grain, size - begin));
  });
}

}  // namespace pare
