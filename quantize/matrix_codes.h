// quantize/matrix_codes.h: rows of a weight matrix in, rows of codes out; what all methods share.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "engine/core/result.h"
#include "engine/tensor/quantized_tensor.h"
#include "quantize/grid.h"

namespace pare {

// Row `row` of a matrix of f32, bf16 or f16 as floats, out [in].
void load_row(const Tensor& weight, int64_t row, float* out);
// The whole matrix as f32 [out, in], contiguous. Exit 6.
Result<Tensor> as_float_matrix(const Tensor& weight);

// Scale, zero point and minimum of group `index` (row * groups + group) in their storage types.
void store_grid(QuantizedTensor& tensor, int64_t index, const Grid& grid);
// One code per byte, [in], into row `row`.
void store_codes(QuantizedTensor& tensor, int64_t row, const uint8_t* codes);

// Weights more than half a step outside what the codes of the grid reach.
int64_t count_clipped(const QuantScheme& scheme, const Grid& grid, std::span<const float> group);

// The first group whose scale its type cannot hold (NU17, exit 7), as an error.
Error scale_error(const QuantScheme& scheme, std::string_view name, int64_t row, int64_t group,
                  ScaleFault fault);

}  // namespace pare
