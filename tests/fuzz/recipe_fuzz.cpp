// libFuzzer target: bytes as a recipe. What is read and bound to its commands must come back as the same
// recipe when it is written and read again.
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "cli/recipe.h"
#include "cli/recipe_step.h"

namespace {

// Every step of the recipe with its defaults filled in; false when a step is refused.
bool resolve(const pare::cli::Recipe& recipe, pare::Json& steps) {
  for (const pare::cli::RecipeStep& step : recipe.steps) {
    auto command = pare::cli::make_step_command(step.verb);
    if (command == nullptr) return false;
    const auto bound = pare::cli::bind_step(recipe, step, std::move(command), "data.txt");
    if (!bound) return false;
    steps.push_back(bound->resolved);
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto recipe = pare::cli::parse_recipe(text, "recipe.yaml", "");
  pare::Json steps = pare::Json::array();
  if (!recipe || !resolve(*recipe, steps)) return 0;
  const auto again = pare::cli::parse_recipe(pare::cli::recipe_yaml(recipe->seed, recipe->data_hash, steps),
                                             "again.yaml", "");
  if (!again || again->seed != recipe->seed || again->data_hash != recipe->data_hash) __builtin_trap();
  pare::Json repeated = pare::Json::array();
  if (!resolve(*again, repeated) || repeated.dump() != steps.dump()) __builtin_trap();
  return 0;
}
