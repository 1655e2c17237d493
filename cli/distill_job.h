// cli/distill_job.h: the whole of `pare distill` and `pare finetune`, for the command line and for recipes.
#pragma once

#include "cli/distill_options.h"

namespace pare::cli {

// The engine is started here. Exit 9 when a gate holds; 75 with the command that continues.
Result<Exit> run_distill(const DistillArguments& arguments, const CommonOptions& common);

}  // namespace pare::cli
