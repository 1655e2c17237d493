// formats/dialects/manifest_records.h: a manifest names matrices, the files of a dialect hold their parts;
// internal to formats.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "engine/core/manifest.h"
#include "formats/dialects/dialect.h"

namespace pare {

// The record of each matrix moves to the first of its parts (by matrix name), with what it was in its extra
// members.
Manifest records_of_parts(const Manifest& manifest, const std::map<std::string, std::string>& first_parts);

// The inverse, for a folder read again: records of parts give way to those of their matrices.
Manifest records_of_matrices(const Manifest& manifest, const Translation& translation);

}  // namespace pare
