// cli/quantize_command.h: the whole of `pare quantize`, for the command line and for recipes.
#pragma once

#include "cli/quantize_options.h"

namespace pare::cli {

// The engine is started here. Exit 9 when a gate holds.
Result<Exit> run_quantize(const QuantizeArguments& arguments, const CommonOptions& common);

}  // namespace pare::cli
