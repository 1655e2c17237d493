// cli/job_speed.h: after a job: how fast the output generates beside the original, on this machine.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "cli/command.h"
#include "engine/models/weight_source.h"
#include "evaluate/generation_speed.h"

namespace pare::cli {

struct JobSpeed {
  std::optional<SpeedComparison> speed;
  std::string reason;  // why there is none: "needs 3.1 GB, --max-memory allows 2.0 GB"
};

// Both models are loaded whole; what does not fit --max-memory, or has too short a context, is not measured
// and says so. `advance` as in SpeedOptions.
Result<JobSpeed> measure_job_speed(const CommonOptions& common,
                                   const std::shared_ptr<const WeightSource>& original,
                                   const std::string& output, const std::function<Status()>& advance);

// "  speed: one token 41.2 -> 57.9 tokens/s (1.41x), ..." or "  speed not measured: ...".
void print_job_speed(const JobSpeed& speed);

}  // namespace pare::cli
