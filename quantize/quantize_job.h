// quantize/quantize_job.h: calibrated quantization of a whole model as a job that can be stopped and resumed.
#pragma once

#include <optional>
#include <vector>

#include "calibrate/block_job.h"
#include "quantize/calibrated_step.h"

namespace pare {

struct QuantizeJob : BlockJob {
  std::vector<std::optional<QuantScheme>> schemes;  // per tensor of `model`
  CalibratedOptions options;
};

// Compresses all blocks that the job has not done yet, with a commit after each. Weights are checked before
// the first one (exit 7 NU01, NU02; 4 CF12). Exit 75 after a commit when a stop signal came.
Result<BlockJobResult> compress_blocks(const QuantizeJob& job, JobFolder& folder);

// Writes the whole model in its order: changed tensors from the job, embedding and head rounded to nearest
// where they have a scheme, the rest as it is; records each in `manifest.tensors`.
Status write_compressed(const QuantizeJob& job, const JobFolder& folder, WeightSink& sink,
                        Manifest& manifest);

}  // namespace pare
