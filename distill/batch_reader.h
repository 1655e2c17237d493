// distill/batch_reader.h: batches made ahead by a thread of their own, so that training never waits for data.
//
// next() gives exactly what TrainingData::batch() gives, in the order of the plan: micro-batches of step
// `first_step`, then of the next. The thread keeps at most `depth` batches ready. Where no thread can be
// started batches are made in next() itself: the same bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "distill/training_data.h"

namespace pare {

class BatchReader {
 public:
  // Runs on the reader's thread with each batch before it is handed over, for example to bring pages of a
  // cache into memory. It must not use parallel_for(), whose threads are busy training.
  using Prepare = std::function<Status(TrainingBatch& batch)>;

  // Steps [first_step, last_step); `depth` in [1, 16].
  BatchReader(std::shared_ptr<const TrainingData> data, const BatchPlan& plan, int64_t first_step,
              int64_t last_step, Prepare prepare = {}, int depth = 3);
  ~BatchReader();  // stops the thread after the batch that it is making
  BatchReader(const BatchReader&) = delete;
  BatchReader& operator=(const BatchReader&) = delete;

  // The next micro-batch; asserts that there is one. The first error of the thread comes at the batch that it
  // belongs to, and again at every later call.
  Result<TrainingBatch> next();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pare
