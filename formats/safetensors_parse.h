// formats/safetensors_parse.h: the text of a safetensors header -> entries; internal to formats.
#pragma once

#include <string_view>

#include "formats/safetensors.h"

namespace pare {

// Reads the JSON of a header. The grammar is fixed and three levels deep, so this is a plain scanner without
// recursion and without a document in memory: a header of 100 MB costs what its tensors cost. Rules ST07 to
// ST18, ST20, ST25, ST26; the ranges are not compared with each other here.
Result<SafetensorsHeader> parse_safetensors_json(std::string_view json, std::string_view path);

}  // namespace pare
