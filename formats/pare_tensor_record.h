// formats/pare_tensor_record.h: one tensor of the directory; internal to formats.
#pragma once

#include <string>
#include <string_view>

#include "engine/core/result.h"
#include "formats/pare_format.h"

namespace pare {

Json tensor_record(const PareTensor& tensor);

// Reads a record: name, form, shape, scheme, parts, its checksum. PK09, PK20, PK27, PK34.
Result<PareTensor> parse_tensor_record(const Json& json, std::string_view path, size_t index);

// Parts are those that form, shape and scheme need, with those shapes and sizes. PK11, PK28.
Status check_parts(const PareTensor& tensor, std::string_view path);

Json part_record(const ParePart& part, bool is_tensor);
Result<ParePart> parse_part(const Json& json, std::string_view path, const std::string& where,
                            bool is_tensor);

}  // namespace pare
