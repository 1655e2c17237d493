// cli/distill_settings.h: what the options of a training run mean for one pair of models, with the defaults
// filled in.
#pragma once

#include <optional>
#include <string>

#include "cli/distill_options.h"
#include "distill/trainer.h"
#include "engine/models/architecture.h"
#include "engine/tensor/quant_scheme.h"
#include "prune/schedule.h"

namespace pare::cli {

// Where the student comes from; decides defaults.
struct StudentOrigin {
  bool is_fresh = false;  // --student-config
  // Made from this teacher (its manifest names the teacher's files), or the teacher itself.
  bool is_cut_from_teacher = false;
  bool has_zeros = false;  // removed weights in matrices of blocks
};

// Sparsity that grows while the model is trained; shares are resolved when the number of steps is known.
struct SparsityPlan {
  Sparsity final;
  std::optional<int64_t> begin, end;  // default: 1/10 and 9/10 of the steps
  int64_t cuts = 20;

  CubicSchedule at_length(int64_t steps) const;
  // "0.5", "0.5@100:800:20". Exit 2 (CL06).
  static Result<SparsityPlan> parse(const std::string& text);
};

struct DistillSettings {
  // Without steps and warm-up of the schedule, micro-batch, keeps_blocks, update_masks and the key of
  // privacy.
  TrainerOptions trainer;
  TrainingForm form;                  // without a transform
  std::optional<QuantScheme> scheme;  // --qat
  std::optional<SparsityPlan> sparsity;
  bool keeps_masks = false;
  CheckpointRule checkpoints;
  double lr = 0.0;
};

// Exit 2 for values that do not fit together, 4 for schemes that cannot be trained.
Result<DistillSettings> distill_settings(const DistillArguments& arguments, const StudentOrigin& origin,
                                         uint64_t seed);

// Exit 4 for what is trained on hosts only: that of check_training_device(), and mixtures of
// experts. Asked before anything is written.
Status check_distill_device(const DistillSettings& settings, const ModelConfig& student, Device device,
                            int ranks);

// The schedule of a run of so many steps.
Result<LearningRateSchedule> schedule_of(const DistillArguments& arguments, const DistillSettings& settings,
                                         int64_t steps);

// Options that decide the bytes of the output, defaults filled in; no paths. What the user chose comes before
// what follows from it.
Json canonical_options(const DistillArguments& arguments, const DistillSettings& settings);

// Before step `step` of a run with such a schedule: new masks by magnitude for the linears of the model,
// where the schedule says so; whether there are any. Weights that a mask removes already stay removed.
Result<bool> cut_weights(const CubicSchedule& schedule, int64_t step, const ModelDescription& model,
                         const ParameterList& parameters);

}  // namespace pare::cli
