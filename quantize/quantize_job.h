// quantize/quantize_job.h: calibrated quantization of a whole model as a job that can be stopped and resumed.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "calibrate/block_pipeline.h"
#include "engine/core/job_folder.h"
#include "engine/core/manifest.h"
#include "engine/models/weight_sink.h"
#include "quantize/calibrated_step.h"

namespace pare {

struct QuantizeJob {
  std::shared_ptr<const WeightSource> source;
  ModelDescription model;
  std::vector<std::optional<QuantScheme>> schemes;  // per tensor of `model`
  CalibratedOptions options;
  CalibrationWindows windows;
  // When set, what the original model saw is read instead of collected: no activations are run, so blocks do
  // not see the errors of earlier ones. The second moment of the result may be changed.
  std::function<Result<SiteStatistics>(int block, Site site, StatisticSet wanted)> saved_statistics;
  uint64_t memory_limit = 0;
  std::function<void(int block)> block_done = [](int) {};
  // After each chunk of activations; an error ends the job at once, keeping the last commit.
  std::function<Status(int64_t tokens)> advance = [](int64_t) { return Status(); };
};

struct QuantizeJobResult {
  uint64_t spilled_bytes = 0;
  int first_block = 0;  // where the job was resumed
};

// What was decided before the first block (chosen bits); null when nothing was. Kept in every position.
Result<Json> job_decision(const JobFolder& folder);
Status commit_decision(JobFolder& folder, Json decision);

// The checksum of the output, committed just before it appears; empty before that. A resumed job knows by it
// that a file under the final name is its own.
Result<std::string> job_output(const JobFolder& folder);
Status commit_output(JobFolder& folder, std::string checksum);

// Compresses all blocks that the job has not done yet, with a commit after each. Weights are checked before
// the first one (exit 7 NU01, NU02; 4 CF12). Exit 75 after a commit when a stop signal came.
Result<QuantizeJobResult> compress_blocks(const QuantizeJob& job, JobFolder& folder);

// Writes the whole model in its order: changed tensors from the job, embedding and head rounded to nearest
// where they have a scheme, the rest as it is; records each in `manifest.tensors`.
Status write_compressed(const QuantizeJob& job, const JobFolder& folder, WeightSink& sink,
                        Manifest& manifest);

}  // namespace pare
