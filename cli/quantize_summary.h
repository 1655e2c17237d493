// cli/quantize_summary.h: what `pare quantize` says about a run, as text and as JSON.
#pragma once

#include "cli/quantize_options.h"
#include "engine/core/manifest.h"
#include "quantize/stream.h"

namespace pare::cli {

struct QuantizeOutcome {
  QuantizePlan plan;
  uint64_t output_bytes = 0;
  double seconds = 0.0;
  std::optional<uint64_t> spilled_bytes;  // of jobs
  std::optional<int> resumed_at;          // block
};

Json quantize_json(const QuantizeArguments& arguments, const WeightSource& source,
                   const QuantizeOutcome& outcome, const Manifest& manifest);
void print_quantize_plan(const QuantizeArguments& arguments, const QuantizeSettings& settings,
                         const QuantizePlan& plan);
// A line per quantized matrix: scheme, bits per weight, error, method.
void print_matrices(const Manifest& manifest);
// Size, time, the worst tensor, and the last line with its counts.
void print_quantize_outcome(const QuantizeOutcome& outcome, const Manifest& manifest);

}  // namespace pare::cli
