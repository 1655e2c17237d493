// formats/gguf/tensor_records.h: the records of tensors in a GGUF header, and where their data lies; internal
// to formats.
#pragma once

#include "formats/gguf/cursor.h"
#include "formats/gguf/header.h"

namespace pare {

// `count` records, each checked on its own: GG24 to GG28, GG30. GgufTensor::offset still counts from the
// data.
Status read_gguf_tensors(GgufCursor& cursor, uint64_t count, std::string_view path,
                         std::vector<GgufTensor>& tensors);

// Checks that the tensors follow each other without gap or overlap, in declaration order, each padded to the
// alignment, up to the end of the file (GG26, GG29, GG31, GG32). Fills in data_begin and absolute offsets.
Status place_gguf_tensors(GgufHeader& header, uint64_t header_end, uint64_t file_bytes,
                          std::string_view path);

}  // namespace pare
