// cli/compress_job.h: the steps of a recipe as one job: each writes a model into the job's folder, the next
// one reads it, and the last one becomes the output, with one manifest over all.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/job_calibration.h"
#include "cli/job_finish.h"
#include "cli/recipe_step.h"

namespace pare::cli {

// What a finished step did; read from what it left in the job's folder.
struct StepSummary {
  std::string verb;
  double seconds = 0.0;
  uint64_t weight_bytes_before = 0, weight_bytes_after = 0;
  int64_t fallbacks = 0;
  std::optional<TrainingCurve> training{};
};

struct CompressJob {
  const JobArguments& arguments;  // of the whole: MODEL, OUT, report, job
  const CommonOptions& common;    // with the recipe's seed
  const Recipe& recipe;
  std::shared_ptr<const WeightSource> source;
  std::vector<BoundStep> steps;
  Json resolved = Json::array();  // as in Manifest::recipe
  Json options = Json::object();  // that decide the bytes of the output besides the recipe
  uint64_t output_bytes = 0;      // of all weights, planned
};

// Runs what is not done yet and writes the output. Fills `done` but for damage and times; what the commands
// say is printed as they end, unless with --json. Exit 75 after a stop signal, keeping what is committed; 8
// when an input, the recipe or the data differs from those of the job; 3 when the work of a finished step was
// damaged.
Result<std::vector<StepSummary>> run_steps(CompressJob& job, JobFolder& folder, const Json& calibration,
                                           FinishedJob& done);

}  // namespace pare::cli
