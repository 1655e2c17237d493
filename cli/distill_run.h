// cli/distill_run.h: from models and data to a trained student in its output: what happens between the checks
// and the report.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "cli/distill_models.h"
#include "cli/distill_summary.h"
#include "cli/distill_training.h"

namespace pare::cli {

// What a run needs; everything outlives it.
struct DistillRun {
  const DistillArguments& arguments;
  const CommonOptions& common;
  const DistillSettings& settings;
  const DistillModels& models;
  DistillData& data;
  Device device;
  ProcessGroup& group;
  JobFolder* folder;         // of rank 0
  uint64_t limit_bytes = 0;  // of memory
};

// The form in which the student is trained, transforms included. grids: of --qat-activations static, by
// matrix (distill_ranges.h); where one is missing its scale starts at 1, which is enough to plan with.
TrainingForm training_form(const DistillArguments& arguments, const DistillSettings& settings,
                           std::map<std::string, ActivationQuant> grids = {});
// Weights that multiply in a token: linears and head.
int64_t multiplying_parameters(const ModelDescription& model);
// Micro-batch and recomputation for a student that is loaded. Exit 6.
Result<MemoryPlan> plan_run(const DistillRun& run, const TrainingModel& student, int64_t decided);

// Of the job, at the place of its last commit; of rank 0, silent on others. Exit 5.
Result<TrainingLog> open_log(const DistillRun& run, const MemoryPlan& memory,
                             const TrainingPosition& position);

struct DistillResult {
  TrainingOutcome outcome;
  MemoryPlan memory;
  int64_t student_parameters = 0;
  Manifest manifest;  // as stored; of rank 0
  std::optional<TrainingCurve> curve;
};

// Decides what time and memory decide, trains, and (rank 0) writes the output and its log. The models are
// gone again when it returns. `planned`: the manifest before any tensor. Exit 75 after a commit.
Result<DistillResult> train_and_write(const DistillRun& run, TrainingPosition& position, Manifest planned);

}  // namespace pare::cli
