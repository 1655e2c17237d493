// formats/self_check.h: what every sink makes sure of before it publishes; internal to formats.
#pragma once

#include <string>
#include <string_view>

#include "engine/core/hash.h"
#include "engine/core/result.h"
#include "engine/models/weight_source.h"
#include "engine/tensor/quantized_tensor.h"

namespace pare {

// NU12, exit 7: every value that the codes stand for is finite. In pieces of rows; never a whole matrix.
Status check_dequantized_finite(const QuantizedTensor& tensor, std::string_view name, std::string_view path);

// The same for every form whose values are computed: codes, sparse codes, products of factors.
Status check_weight_finite(const WeightData& weight, std::string_view name, std::string_view path);

// Sum of the values that the codes stand for, bit by bit; equal tensors have equal sums, however they are
// stored.
Hash128 dequantized_sum(const QuantizedTensor& tensor);

}  // namespace pare
