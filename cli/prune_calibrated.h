// cli/prune_calibrated.h: `pare prune` with calibration data, as a job.
#pragma once

#include <memory>

#include "cli/prune_options.h"
#include "evaluate/gate.h"

namespace pare::cli {

Result<Exit> run_calibrated(const PruneArguments& arguments, const PruneSettings& settings,
                            const CommonOptions& common, std::shared_ptr<const WeightSource> source,
                            const ModelDescription& model, SparsityList targets, std::vector<Gate> gates);

}  // namespace pare::cli
