#include "engine/models/name_patterns.h"

#include "engine/core/text.h"

namespace pare {

bool any_matches(const std::vector<std::string>& patterns, std::string_view name) {
  for (const std::string& pattern : patterns)
    if (matches_pattern(pattern, name)) return true;
  return false;
}

Status check_name_pattern(const ModelDescription& model, const std::string& pattern, const char* option,
                          bool (*can_change)(const TensorSpec& spec), std::string_view never) {
  bool matched = false;
  for (const TensorSpec& spec : model.tensors) {
    if (!matches_pattern(pattern, spec.name)) continue;
    if (can_change(spec)) return {};
    matched = true;
  }
  return Error{.exit = Exit::usage,
               .rule = "RC09",
               .path = option,
               .where = {},
               .what = matched ? std::string(never) : "pattern matches no tensor",
               .got = quote(pattern),
               .limit = {}};
}

}  // namespace pare
