// cli/recipe_step.h: a step of a recipe bound to its command: the settings go through the options of the
// command line and the checks that flags go through, so that there is no second set of rules.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/recipe.h"
#include "engine/models/architecture.h"

namespace CLI {
class App;
}

namespace pare::cli {

// What a command gives to recipes. It owns the arguments that its options fill.
class StepCommand {
 public:
  virtual ~StepCommand() = default;
  // MODEL, --output and all others; those that make no sense in a recipe are hidden by is_step_option().
  virtual void add_options(CLI::App& app) = 0;
  // Of the common options; before check().
  virtual void set_data(const std::string& path) = 0;
  // The check of the flags: errors have the option as path. Exit 2.
  virtual Status check() = 0;
  virtual bool needs_data() const = 0;  // after check()
  // Exceptions for some tensors, PATTERN=VALUE, the last that matches wins; nullptr when there are none.
  virtual std::vector<std::string>* overrides() = 0;
};

// One exception for some tensors.
struct RecipeOverride {
  std::string pattern, value;
  bool optional = false;  // may match nothing
  int line = 0, column = 0;
};

struct BoundStep {
  RecipeStep place;  // for messages
  std::unique_ptr<StepCommand> command;
  std::vector<RecipeOverride> overrides;
  // {"step": "quantize", ...} with the defaults filled in, in the order of the options. Without data and
  // paths.
  Json resolved;
};

// True for options that a recipe may set; the others name files, the output, the machine or the job.
bool is_step_option(const std::string& long_name);

// data: of --data or the recipe, empty when there is none; dropped where the command does not need it.
// Errors: RC02 (3) a key that is no option of the command, RC07 (3) a value that the option refuses or
// settings that contradict each other, RC08 (4) an unknown method or scheme, RC11 (4, 6) a pattern.
Result<BoundStep> bind_step(const Recipe& recipe, const RecipeStep& step,
                            std::unique_ptr<StepCommand> command, const std::string& data);

// Which overrides hold for this model: RC09 (3) for one that matches no tensor and is not optional, RC10 (3)
// for two that claim a tensor with different values and are equally specific. Gives the command those that
// match.
Status match_overrides(const Recipe& recipe, BoundStep& step, const ModelDescription& model);

// An error of a check or of the work, told at the line of the setting that caused it; any other as it is.
Error at_setting(const Recipe& recipe, const BoundStep& step, Error error);

}  // namespace pare::cli
