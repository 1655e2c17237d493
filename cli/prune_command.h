// cli/prune_command.h: the whole of `pare prune`, for the command line and for recipes.
#pragma once

#include "cli/prune_options.h"

namespace pare::cli {

// The engine is started here. Exit 9 when a gate holds.
Result<Exit> run_prune(const PruneArguments& arguments, const CommonOptions& common);

}  // namespace pare::cli
