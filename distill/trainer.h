// distill/trainer.h: steps of training: student, teacher, data and options in, changed weights out.
//
//   PARE_TRY(auto trainer, Trainer::make(student, teacher.get(), data, options, exchange));
//   if (resuming) PARE_CHECK(trainer->restore(state));
//   while (trainer->step_number() < options.schedule.steps) {
//     PARE_TRY(const StepReport report, trainer->step());
//     now and then: PARE_CHECK(trainer->save(state)); put_state(job, state); job.commit(...)
//   }
//
// A step: `batch` sequences over all ranks, in micro-batches; the sum of the token losses is divided once, by
// the number of targets of the whole step. Then gradients are summed over ranks, unscaled, clipped by their
// global norm, and the optimizer changes the weights. Same bytes for any number of threads; with several
// ranks equal to one rank with more micro-batches up to the order of summation. A run that was saved and
// restored gives the bytes of one that was not.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "distill/gradient_exchange.h"
#include "distill/head_loss.h"
#include "distill/intermediate_loss.h"
#include "distill/learning_rate.h"
#include "distill/loss.h"
#include "distill/optimizer.h"
#include "distill/teacher.h"
#include "distill/trainer_state.h"
#include "engine/models/training_model.h"

namespace pare {

class TrainingData;  // training_data.h

// Differentially private SGD: every window is in a step with probability batch / windows; its gradient is
// clipped to norm `clip`, and noise of deviation `noise * clip` is added to the sum, which is divided by
// `batch`. What it spends: privacy.h. Source: Abadi et al., "Deep learning with differential privacy" (2016).
struct PrivateTraining {
  double clip = 1.0;   // > 0
  double noise = 1.0;  // sigma, > 0
  uint64_t secret_key =
      0;  // of choice and noise; never stored in an output, and the same when a run is resumed
};

struct TrainerOptions {
  LossConfig loss = {};
  IntermediateConfig intermediate = {};
  OptimizerConfig optimizer = {};
  LearningRateSchedule schedule = {};
  int64_t batch = 8;         // sequences of a step, over all ranks; a multiple of the ranks
  int64_t micro_batch = 8;   // sequences that one rank sends through the student at a time
  bool keeps_blocks = true;  // else activations of blocks are computed again in the backward pass
  size_t loss_bytes = kLossBytes;
  bool scales_loss = false;    // compute in f16
  int64_t skip_bad_steps = 0;  // steps whose loss or gradients may be NaN or infinite, and are then left out
  std::optional<PrivateTraining> privacy = {};
  uint64_t seed = 0;  // of the projections of intermediate losses
  // Before step t: may give parameters new masks; says whether it did. The trainer then clears what they
  // remove and saves the masks with its state. For sparsity that grows during training.
  std::function<Result<bool>(int64_t step, const ParameterList& parameters)> update_masks = {};

  Status validate() const;  // exit 2 (CL06)
};

// What is not done in the memory of a GPU: losses of intermediate states, private gradients, several
// processes. Exit 4. Trainer::make() asks too; commands ask before they write anything.
Status check_training_device(Device device, const TrainerOptions& options, int ranks);

struct StepReport {
  int64_t step = 0;            // from 0; a skipped step's number comes again
  double loss = 0.0;           // per token: alpha CE + (1 - alpha) [temperature^2] D + intermediate
  double cross_entropy = 0.0;  // nats per token
  double divergence = 0.0;     // nats per token, without temperature^2
  double intermediate = 0.0;   // weighted
  double lr = 0.0;
  double gradient_norm = 0.0;  // before clipping
  double loss_scale = 1.0;     // in use in this step
  int64_t tokens = 0;          // with a target, over all ranks
  int64_t input_tokens = 0;    // through the student, over all ranks
  bool skipped = false;        // no weight changed: gradients overflowed (f16), or a bad step was allowed
};

class Trainer {
 public:
  // teacher: null for ce. All outlive the trainer. teacher_config: of the teacher, where intermediate losses
  // are wanted. Reserves everything. Exit 2 (options that contradict each other or the data), 4, 6.
  static Result<std::unique_ptr<Trainer>> make(TrainingModel& student, Teacher* teacher,
                                               const ModelConfig* teacher_config, TrainingData& data,
                                               const TrainerOptions& options, GradientExchange& exchange);
  ~Trainer();

  // Bytes that make() will take beside the weights, without what the teacher takes (Teacher::held_bytes()
  // tells). teacher_columns: its logit_columns(), or 0 without one.
  static uint64_t planned_bytes(const TrainingModel& student, int64_t teacher_columns, int64_t context,
                                const TrainerOptions& options, int ranks);

  // One step. Collective. Exit 7 (NU11) naming the step, when the loss or, without scaling, a gradient is NaN
  // or infinite: weights are those before the step.
  Result<StepReport> step();
  int64_t step_number() const;    // optimizer steps taken; the next step's number
  int64_t batches_drawn() const;  // of the data; more than steps when some were skipped
  int64_t bad_steps() const;      // left out so far

  // The student over samples [begin, end) of `data`, whose windows are no longer than those that are trained
  // on; per token. asks_teacher: also what it trains for, without intermediate losses; else loss is the cross
  // entropy. Changes nothing. Not collective.
  struct Validation {
    double loss = 0.0, cross_entropy = 0.0, divergence = 0.0;
    int64_t tokens = 0;
  };
  Result<Validation> validate(const TrainingData& data, int64_t begin, int64_t end,
                              bool asks_teacher = false);

  // Masters, moments, masks that were changed, projections, positions. Complete on rank 0. Collective. Exit
  // 5, 6. The tensors of the masters are views: use them before the next step.
  Status save(TrainerState& state);
  // Into a trainer made with the same student and options; refreshes the student. Exit 3.
  Status restore(const TrainerState& state);

  const Optimizer& optimizer() const;

 private:
  Trainer();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pare
