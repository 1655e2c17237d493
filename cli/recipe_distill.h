// cli/recipe_distill.h: training as a step of a recipe.
//
// The student is the model that the step before has left, or MODEL; the teacher of `distill` is MODEL, or
// --teacher of `pare compress`; the text is the data of the recipe.
#pragma once

#include <memory>

#include "cli/recipe_step.h"

namespace pare::cli {

std::unique_ptr<StepCommand> make_training_step(bool is_distill);

}  // namespace pare::cli
