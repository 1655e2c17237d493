// distill/trainer_parts.h: what a Trainer holds; included by its sources alone.
#pragma once

#include <optional>
#include <vector>

#include "distill/batch_reader.h"
#include "distill/loss_scale.h"
#include "distill/parameter_pieces.h"
#include "distill/private_gradients.h"
#include "distill/trainer.h"
#include "distill/training_data.h"

namespace pare {

struct SampleRange {
  int64_t first = 0, count = 0;
};

// Of one step; loss is that of this rank until it is summed, the counts are those of all ranks.
struct StepSums {
  LossSums loss = {};
  int64_t tokens = 0, input_tokens = 0;
};

struct Trainer::State {
  State(TrainingModel& model, TrainingData& training_data, const TrainerOptions& wanted,
        GradientExchange& group)
      : student(model),
        data(training_data),
        options(wanted),
        exchange(group),
        scale(wanted.scales_loss ? LossScale::dynamic() : LossScale::none()) {}

  TrainingModel& student;
  TrainingData& data;
  const TrainerOptions options;
  GradientExchange& exchange;
  Teacher* teacher = nullptr;
  std::unique_ptr<Optimizer> optimizer;
  std::unique_ptr<IntermediateLoss> intermediate;
  std::optional<PrivateSum> private_sum;
  LossScale scale;
  int64_t batches = 0;    // drawn from the data
  int64_t bad_steps = 0;  // left out
  int64_t micro_sequences = 0, chunk_rows = 0;
  Tensor dhidden;
  // Where micro-batches are all alike they are made ahead; its next batch is that of step `batches`.
  std::optional<BatchReader> reader;

  Result<LossSums> add_gradients(const TrainingBatch& batch, double gradient_scale);
  Status measure_intermediate();
  void start_reading();
  std::vector<SampleRange> own_ranges(int64_t first) const;
  Result<StepSums> plain_gradients();
  Result<StepSums> private_gradients();
  Status leave_out(const char* what, double got);
};

}  // namespace pare
