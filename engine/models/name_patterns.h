// engine/models/name_patterns.h: patterns of tensor names that a user gives to select what a method touches.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/models/architecture.h"

namespace pare {

bool any_matches(const std::vector<std::string>& patterns, std::string_view name);

// Exit 2 (RC09) for a pattern that names nothing, or only tensors that `can_change` refuses; `never` then
// says what those are: "pattern names only tensors that are never ...".
Status check_name_pattern(const ModelDescription& model, const std::string& pattern, const char* option,
                          bool (*can_change)(const TensorSpec& spec), std::string_view never);

}  // namespace pare
