// formats/gguf/exact_blocks.h: codes that a GGUF type holds as they are; internal to formats.
#pragma once

#include "engine/tensor/quantized_tensor.h"
#include "formats/gguf/tensor_type.h"

namespace pare {

// Whether blocks of `type` hold the codes of such a matrix without a change: int8-g32-sym -> Q8_0,
// int4/5-g32-sym (full) and int4/5-g32-asym with the zero points of Q4_0, Q5_0 -> those, int4/5-g32-asymf ->
// Q4_1, Q5_1; all with f16 scales.
bool holds_exactly(GgufType type, const QuantizedTensor& tensor);

// One row of such a matrix as blocks: in / 32 * block_bytes bytes.
void exact_row(GgufType type, const QuantizedTensor& tensor, int64_t row, std::byte* bytes);

}  // namespace pare
