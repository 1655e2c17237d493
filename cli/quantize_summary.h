// cli/quantize_summary.h: what `pare quantize` says about a run, as text and as JSON.
#pragma once

#include "cli/job_finish.h"
#include "cli/quantize_options.h"
#include "engine/core/manifest.h"
#include "quantize/stream.h"

namespace pare::cli {

// done: null for a plan.
Json quantize_json(const QuantizeArguments& arguments, const WeightSource& source, const QuantizePlan& plan,
                   const FinishedJob* done);
void print_quantize_plan(const QuantizeArguments& arguments, const QuantizeSettings& settings,
                         const QuantizePlan& plan);
// A line per quantized matrix: scheme, bits per weight, error, method.
void print_matrices(const Manifest& manifest);
// Size, time, the worst tensor, and the last line with its counts.
void print_quantize_outcome(const FinishedJob& done);

}  // namespace pare::cli
