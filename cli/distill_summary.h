// cli/distill_summary.h: what a training run says of itself, before and after.
#pragma once

#include <optional>

#include "cli/distill_teacher.h"
#include "cli/distill_training.h"
#include "cli/job_finish.h"
#include "distill/privacy.h"

namespace pare::cli {

// Everything that a run knows of itself; what is not there yet is empty.
struct DistillSummary {
  const DistillArguments& arguments;
  const DistillSettings& settings;
  const DistillModels& models;
  const DistillData& data;
  int64_t steps = 0;  // planned; 0: decided by time
  MemoryPlan memory{};
  int64_t student_parameters = 0;
  uint64_t output_bytes = 0, job_bytes = 0;  // planned
  std::optional<TeacherCacheUse> cache{};
  std::optional<TrainingOutcome> outcome{};
  std::optional<PrivacySpent> privacy{};
  double privacy_delta = 0.0;
};

// done: null for --dry-run.
Json distill_json(const DistillSummary& summary, const FinishedJob* done);
void print_distill_plan(const DistillSummary& summary);
void print_distill_outcome(const DistillSummary& summary, const FinishedJob& done);

}  // namespace pare::cli
