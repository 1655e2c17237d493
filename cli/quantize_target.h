// cli/quantize_target.h: `--target-bpw` and `--target-size`: measures what each part loses in each format and
// chooses.
#pragma once

#include <memory>
#include <vector>

#include "cli/quantize_options.h"
#include "engine/core/job_folder.h"
#include "evaluate/run_report.h"
#include "quantize/quantize_job.h"
#include "quantize/stream.h"

namespace pare::cli {

struct ChosenBits {
  std::vector<CurvePoint> curve;  // for the report
  std::string unit;
  double predicted = 0.0;  // sum of costs
};

// Replaces the schemes of the linears that `schemes` selects. The decision is committed to the job, so that a
// resumed job does not measure again. Exit 2 when the target is below what is possible, naming that.
Result<ChosenBits> choose_bits(const QuantizeArguments& arguments, const QuantizeJob& job, JobFolder& folder,
                               std::vector<std::optional<QuantScheme>>& schemes);

// The curve as a small table: bits per weight and cost, the chosen point marked.
void print_chosen_bits(const ChosenBits& chosen, const ModelDescription& model,
                       const std::vector<std::optional<QuantScheme>>& schemes);

}  // namespace pare::cli
