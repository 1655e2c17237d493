// cli/distill_ranges.h: where the learned scales of static activations start.
#pragma once

#include <map>
#include <string>

#include "cli/distill_run.h"
#include "engine/tensor/activation_quant.h"

namespace pare::cli {

// Grids of the inputs of every matrix of a block, by its name: symmetric, 8 bits, by the largest magnitude
// that the first windows of the training data bring about in the student before it is trained. The same for
// every process. Exit 4 for a mixture of experts, 7 for activations that are not finite.
Result<std::map<std::string, ActivationQuant>> static_input_grids(const DistillRun& run);

}  // namespace pare::cli
