// formats/dialects/module_names.h: which modules an entry of a quantization config means; internal to
// formats.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/regex.h"
#include "formats/dialects/dialect.h"

namespace pare {

// A pattern that must match from the start of a module path, not to its end (re.match of Python).
class ModulePattern {
 public:
  // QC07: exit 4 for a construct that pare refuses, 3 for one that no engine reads. `where` names the key.
  static Result<ModulePattern> compile(std::string_view pattern, const std::string& path,
                                       const std::string& where);
  // Exit 6 when the pattern runs wild.
  Result<bool> matches(std::string_view module) const;

 private:
  std::shared_ptr<const Regex> regex_;
};

// An entry of `targets` or `ignore` of compressed-tensors: class name, exact path, or "re:" and a pattern.
class ModuleEntry {
 public:
  static Result<ModuleEntry> parse(const std::string& text, const std::string& path,
                                   const std::string& where);

  enum class Match { none, by_class, by_pattern, by_path };  // ascending precedence
  Result<Match> match(const ModelMatrix& matrix) const;
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::vector<ModulePattern> pattern_;  // one, or none for names
};

// The matrices of a model, in execution order, as modules with the class that transformers gives them.
Result<std::vector<ModelMatrix>> model_matrices(const WeightSource& stored);

// "model.layers.0.mlp.up_proj" of "model.layers.0.mlp.up_proj.weight".
std::string module_of(std::string_view weight_name);

}  // namespace pare
