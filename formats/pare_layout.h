// formats/pare_layout.h: where the parts of a .pare file lie; internal to formats.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"
#include "formats/pare_format.h"

namespace pare {

// A part with the name that messages use, in the order of the directory: assets, tensors, sections.
struct PlacedPart {
  std::string owner;  // `tensor "model.norm.weight"`, `asset "tokenizer.json"`
  const ParePart* part;
};
std::vector<PlacedPart> placed_parts(const PareDirectory& directory);

// Parts lie in order from the superblock to the directory, each on a 64-byte boundary, without overlap and
// without a gap beyond the padding. PK24 to PK27.
Status check_layout(const PareDirectory& directory, uint64_t payload_end, std::string_view path);

}  // namespace pare
