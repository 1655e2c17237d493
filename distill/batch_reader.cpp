#include "distill/batch_reader.h"

#include <signal.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <optional>
#include <system_error>
#include <thread>
#include <utility>

#include "engine/core/assert.h"

namespace pare {

struct BatchReader::State {
  std::shared_ptr<const TrainingData> data;
  BatchPlan plan;
  Prepare prepare;
  int64_t first_step = 0, batches = 0;  // of the whole run
  size_t depth = 1;
  int64_t taken = 0;  // by next()
  std::optional<Error> failure;

  // Shared with the thread, under the mutex.
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<Result<TrainingBatch>> ready;
  bool stopping = false;

  std::thread thread;

  Result<TrainingBatch> make(int64_t number) const {
    const int64_t step = first_step + number / plan.accumulation;
    PARE_TRY(TrainingBatch batch,
             data->batch(plan.first_sample(step, number % plan.accumulation), plan.sequences));
    if (prepare) PARE_CHECK(prepare(batch));
    return batch;
  }

  // What is thrown while a batch is made ends the thread, not the process.
  Result<TrainingBatch> make_safely(int64_t number) const {
    try {
      return make(number);
    } catch (const std::bad_alloc&) {
      return Error{.exit = Exit::resource, .rule = "RL01", .path = "training data", .what = "out of memory"};
    } catch (const std::exception& bug) {
      return Error{.exit = Exit::internal, .path = "training data", .what = bug.what()};
    }
  }

  void read_ahead() {
    for (int64_t number = 0; number < batches; ++number) {
      Result<TrainingBatch> batch = make_safely(number);
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return stopping || ready.size() < depth; });
      if (stopping) return;
      const bool failed = !batch;
      ready.push_back(std::move(batch));
      changed.notify_all();
      if (failed) return;
    }
  }

  void start_thread() {
    // The thread inherits this mask: signals of the user arrive at the main thread, faults where they happen.
    sigset_t blocked, before;
    ::sigfillset(&blocked);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) ::sigdelset(&blocked, fault);
    ::pthread_sigmask(SIG_SETMASK, &blocked, &before);
    try {
      thread = std::thread([this] { read_ahead(); });
    } catch (const std::system_error&) {
      // next() makes the batches.
    }
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
};

BatchReader::BatchReader(std::shared_ptr<const TrainingData> data, const BatchPlan& plan, int64_t first_step,
                         int64_t last_step, Prepare prepare, int depth)
    : state_(std::make_unique<State>()) {
  PARE_ASSERT(depth >= 1 && depth <= 16 && first_step >= 0 && last_step >= first_step,
              "[batch_reader] {} to {}", first_step, last_step);
  State& s = *state_;
  s.data = std::move(data);
  s.plan = plan;
  s.prepare = std::move(prepare);
  s.first_step = first_step;
  s.batches = (last_step - first_step) * plan.accumulation;
  s.depth = size_t(depth);
  s.start_thread();
}

BatchReader::~BatchReader() {
  State& s = *state_;
  if (!s.thread.joinable()) return;
  {
    const std::lock_guard lock(s.mutex);
    s.stopping = true;
  }
  s.changed.notify_all();
  s.thread.join();
}

Result<TrainingBatch> BatchReader::next() {
  State& s = *state_;
  if (s.failure) return *s.failure;
  PARE_ASSERT(s.taken < s.batches, "[batch_reader] batch {} of {}", s.taken, s.batches);
  const auto take = [&]() -> Result<TrainingBatch> {
    if (!s.thread.joinable()) return s.make(s.taken);
    std::unique_lock lock(s.mutex);
    s.changed.wait(lock, [&] { return !s.ready.empty(); });
    Result<TrainingBatch> batch = std::move(s.ready.front());
    s.ready.pop_front();
    s.changed.notify_all();
    return batch;
  };
  Result<TrainingBatch> batch = take();
  ++s.taken;
  if (!batch) s.failure = batch.error();
  return batch;
}

}  // namespace pare
