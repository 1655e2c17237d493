// cli/quantize_calibrated.h: `pare quantize` with calibration data: a job with a folder, a walk over the
// blocks, the output, and a report of the damage.
#pragma once

#include <memory>

#include "cli/quantize_options.h"
#include "evaluate/gate.h"
#include "quantize/stream.h"

namespace pare::cli {

Result<Exit> run_calibrated(const QuantizeArguments& arguments, const QuantizeSettings& settings,
                            const CommonOptions& common, std::shared_ptr<const WeightSource> source,
                            const ModelDescription& model,
                            const std::vector<std::optional<QuantScheme>>& schemes, const QuantizePlan& plan,
                            std::vector<Gate> gates);

}  // namespace pare::cli
