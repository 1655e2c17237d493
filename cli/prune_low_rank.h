// cli/prune_low_rank.h: `pare prune --low-rank RULE`: two thin factors in place of each matrix, as a job.
#pragma once

#include "cli/prune_options.h"

namespace pare::cli {

// After the engine was started. Exit 9 when a gate holds.
Result<Exit> run_low_rank(const PruneArguments& arguments, const CommonOptions& common);

}  // namespace pare::cli
