// engine/core/sealed_json.h: small JSON files that carry a checksum of themselves; internal to core.
//
//   {"xxh3_128":"<32 hex>","body":{...}}
//
// The checksum is that of the bytes of the body, and everything around the body is fixed, so any changed,
// missing or added byte is found.
#pragma once

#include <string>
#include <string_view>

#include "engine/core/json.h"

namespace pare {

std::string seal_json(const Json& body);

// The body; exit 3 naming `path` when a byte is not as it was written.
Result<Json> unseal_json(std::string_view text, const std::string& path);

}  // namespace pare
