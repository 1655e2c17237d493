#include "formats/dialects/module_names.h"

namespace pare {
namespace {

constexpr std::string_view kPatternPrefix = "re:";
constexpr std::string_view kWeightSuffix = ".weight";

}  // namespace

Result<ModulePattern> ModulePattern::compile(std::string_view pattern, const std::string& path,
                                             const std::string& where) {
  auto regex = Regex::compile(pattern, path, where);
  if (!regex) {
    Error error = std::move(regex).error();
    error.rule = "QC07";
    return error;
  }
  ModulePattern result;
  result.regex_ = *std::move(regex);
  return result;
}

Result<bool> ModulePattern::matches(std::string_view module) const {
  std::vector<Piece> found;
  PARE_CHECK(regex_->find_all(module, found));
  // The leftmost match comes first, so one at the start can be no other.
  return !found.empty() && found.front().begin == 0;
}

Result<ModuleEntry> ModuleEntry::parse(const std::string& text, const std::string& path,
                                       const std::string& where) {
  ModuleEntry entry;
  entry.text_ = text;
  if (std::string_view(text).starts_with(kPatternPrefix)) {
    PARE_TRY(ModulePattern pattern,
             ModulePattern::compile(std::string_view(text).substr(kPatternPrefix.size()), path, where));
    entry.pattern_.push_back(std::move(pattern));
  }
  return entry;
}

Result<ModuleEntry::Match> ModuleEntry::match(const ModelMatrix& matrix) const {
  if (!pattern_.empty()) {
    PARE_TRY(const bool matched, pattern_.front().matches(matrix.module));
    return matched ? Match::by_pattern : Match::none;
  }
  if (text_ == matrix.module) return Match::by_path;
  // Every class derives from Module.
  return text_ == matrix.class_name || text_ == "Module" ? Match::by_class : Match::none;
}

std::string module_of(std::string_view weight_name) {
  if (weight_name.ends_with(kWeightSuffix)) weight_name.remove_suffix(kWeightSuffix.size());
  return std::string(weight_name);
}

Result<std::vector<ModelMatrix>> model_matrices(const WeightSource& stored) {
  PARE_TRY(const std::vector<TensorSpec> specs, expected_tensors(stored));
  std::vector<ModelMatrix> matrices;
  for (const TensorSpec& spec : specs) {
    const bool is_table = spec.role == Role::embedding || spec.role == Role::positions;
    const bool is_linear = spec.is_linear || spec.role == Role::lm_head || spec.role == Role::router;
    if (!is_table && !is_linear) continue;
    const std::string_view class_name = is_table ? "Embedding" : spec.transposed ? "Conv1D" : "Linear";
    matrices.push_back({module_of(spec.name), class_name, spec});
  }
  return matrices;
}

}  // namespace pare
