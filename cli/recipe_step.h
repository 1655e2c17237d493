// cli/recipe_step.h: a step of a recipe bound to its command: the settings go through the options of the
// command line and the checks that flags go through, so that there is no second set of rules.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "calibrate/block_pipeline.h"
#include "cli/job_arguments.h"
#include "cli/recipe.h"
#include "engine/models/architecture.h"

namespace CLI {
class App;
}

namespace pare::cli {

// What a step will do, from shapes alone.
struct StepPlan {
  std::string what;  // "210 matrices to int4-g64-sym by gptq"
  uint64_t weight_bytes_before = 0, weight_bytes_after = 0;
  uint64_t peak_memory_bytes = 0;  // beyond what is resident; 0: not known before the work
  // The model after the step, as shapes and forms: for plans, its tensors are not there yet.
  std::shared_ptr<const WeightSource> result;
};

// What damage is measured on, and where that is from, for people.
struct ReportWindows {
  CalibrationWindows windows;
  std::string source;
};

// A step that rounds, removes or trains weights needs them as floats: exit 4 (CF12).
Error already_quantized(const WeightSource& source, const StoredTensor& stored);

// What a command gives to recipes. It owns the arguments that its options fill.
class StepCommand {
 public:
  virtual ~StepCommand() = default;
  // MODEL, --output and all others; those that make no sense in a recipe are hidden by is_step_option().
  virtual void add_options(CLI::App& app) = 0;
  virtual JobArguments& arguments() = 0;
  // The check of the flags: errors have the option as path. Exit 2.
  virtual Status check() = 0;
  // After check(): keeps a job folder, so that it can be resumed.
  virtual bool has_job() const = 0;
  // Words that mean the same made equal: "int4-g64" is "int4-g64-sym". options: by their long names.
  virtual void canonicalize(Json& options) const = 0;
  // Exceptions for some tensors, PATTERN=VALUE, the last that matches wins; nullptr when there are none.
  virtual std::vector<std::string>* overrides() = 0;
  virtual Result<StepPlan> plan(const std::shared_ptr<const WeightSource>& source) = 0;
  // Whether the step imitates another model, and which: a name as for MODEL.
  virtual bool has_teacher() const { return false; }
  virtual void use_teacher(const std::string& model) { static_cast<void>(model); }
  // Of a step that learns from its data: windows that it does not learn from, for the report of the whole.
  // report: what was asked of it; source and config: of MODEL.
  virtual Result<std::optional<ReportWindows>> report_windows(const JobArguments& report,
                                                              const WeightSource& source,
                                                              const ModelConfig& config, uint64_t seed) {
    static_cast<void>(report), static_cast<void>(source), static_cast<void>(config), static_cast<void>(seed);
    return std::optional<ReportWindows>();
  }
  // The whole command, with the paths that stand in arguments().
  virtual Result<Exit> run(const CommonOptions& common) = 0;
};

// By the name of the step; nullptr for one that is not in this version.
std::unique_ptr<StepCommand> make_step_command(const std::string& verb);

// One exception for some tensors.
struct RecipeOverride {
  std::string pattern, value;
  bool optional = false;  // may match nothing
  int line = 0, column = 0;
};

struct BoundStep {
  RecipeStep place;  // for messages
  std::unique_ptr<StepCommand> command;
  bool uses_data = false;  // the checks of the command ask for calibration data
  std::vector<RecipeOverride> overrides;
  // {"step": "quantize", "options": {...}} with the defaults filled in, in the order of the options. Without
  // data and paths.
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
