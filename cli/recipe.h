// cli/recipe.h: a recipe: ordered steps with their parameters, from a YAML or JSON file.
//
//   schema: 1
//   seed: 7                 # of everything random in all steps
//   data: text.txt          # beside the recipe; or --data on the command line
//   samples: 64             # settings of calibration that all steps share,
//   context: 512            # unless a step has its own
//   steps:
//     - prune: {method: wanda, sparsity: 0.5}
//     - quantize:
//         method: gptq
//         scheme: int4-g64
//         overrides:
//           - {pattern: "layers.*.down_proj", value: int8-ch}
//
// The settings of a step are the long options of its command; recipe_step.h gives them to the same checks.
// Every key: docs/recipes.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cli/yaml_document.h"
#include "engine/core/json.h"
#include "engine/core/result.h"

namespace pare::cli {

struct RecipeStep {
  std::string verb;          // "quantize"
  int line = 0, column = 0;  // of the verb
  std::vector<YamlMember> settings{};
};

struct Recipe {
  std::string path;  // of the file; for messages
  uint64_t seed = 0;
  std::string data;       // calibration data as the user can open it; empty: not named
  std::string data_name;  // the same as the recipe names it
  std::string data_hash;  // what the data must hash to (CalibrationData's text_hash); empty: anything
  YamlNode data_place, data_hash_place, seed_place;  // where they stand, line 0 where they do not
  std::vector<YamlMember> shared;  // samples, context, ...: for every step that has such an option
  std::vector<RecipeStep> steps;

  // The setting of a step, its own or the shared one; nullptr when there is none.
  const YamlMember* setting(const RecipeStep& step, std::string_view key) const;
};

// Errors name "line:column: key". RC01 to RC06 of the document; RC02 (3) unknown key, with the nearest one;
// RC07 (3) wrong type or range; RC08 (4) unknown step or schema version; RC12 (3) a data path that leaves the
// folder of the recipe, also by a symlink; RC06 (6) too many steps or rules. 5 when a file cannot be read.
Result<Recipe> read_recipe(const std::string& path, bool follow_symlinks);
// The same from memory. folder: that relative paths are looked for in.
Result<Recipe> parse_recipe(std::string_view text, const std::string& path, const std::string& folder);

// Names of steps that a recipe may hold, in the order of docs/recipes.md.
const std::vector<std::string>& recipe_verbs();

// An error of a recipe at a line; where becomes "12:3: key".
Error recipe_error(Exit exit, const char* rule, const std::string& path, int line, int column,
                   const std::string& key, std::string what, std::string got = {}, std::string limit = {},
                   const char* label = "expected");

// A recipe as YAML that parse_recipe() reads back. `steps`: as in Manifest::recipe, a list of
// {"step": "quantize", "options": {...}}.
std::string recipe_yaml(uint64_t seed, const std::string& data_hash, const Json& steps);

}  // namespace pare::cli
