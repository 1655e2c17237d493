// formats/pare_directory.h: the JSON directory of a .pare file <-> values; internal to formats.
#pragma once

#include <string>
#include <string_view>

#include "engine/core/result.h"
#include "formats/pare_format.h"

namespace pare {

// Deterministic text: no spaces, fixed order of keys, one record per tensor with its own checksum.
std::string pare_directory_text(const PareDirectory& directory);

// Parses and checks everything that does not need the payload: types, names, forms, record checksums, shapes
// against parts, manifest against tensors (PK04, PK05, PK09, PK11, PK20, PK22, PK23, PK28 to PK30, PK33,
// PK34). Ranges: pare_layout.h.
Result<PareDirectory> parse_pare_directory(std::string_view text, std::string_view path);

// The sum of a tensor's record: its JSON with sorted keys and without the member "xxh3". As the record holds
// the sums of its parts, it covers the bytes as well.
Hash128 record_sum(const Json& record);

}  // namespace pare
