// formats/config_edit.h: config.json changed in place, everything else byte for byte as it was; internal to
// formats.
#pragma once

#include <string>
#include <string_view>

#include "engine/core/result.h"

namespace pare {

// `text` must be a JSON object that parse_json accepts. The value of the top-level `key` becomes `value`
// (JSON text); an absent key stays absent.
std::string with_value(std::string_view text, std::string_view key, std::string_view value);

// The same, but an absent key is added at the end. `value` may have several lines.
std::string with_member(std::string_view text, std::string_view key, std::string_view value);

// The same without the top-level `key` and its value.
std::string without_key(std::string_view text, std::string_view key);

}  // namespace pare
