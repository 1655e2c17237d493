// formats/dialects/plan.h: what the writers of all dialects ask of a model; internal to formats.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "formats/dialects/dialect.h"

namespace pare {

// QC08, exit 4: the format cannot hold this tensor.
Error cannot_hold(const DialectTarget& target, std::string_view tensor, std::string what,
                  std::string got = {}, std::string expected = {});

// Calls `check` for every quantized tensor of the model in execution order. QC08 when there is none.
Status for_each_quantized(
    const DialectTarget& target,
    const std::function<Status(const TensorSpec& spec, const QuantizedTensor& tensor)>& check);

// QC08 unless the tensor is an integer linear without activation quantization, of constant or integer offset,
// whose groups divide its rows. What GPTQ and AWQ have in common.
Status check_plain_integer(const DialectTarget& target, const TensorSpec& spec,
                           const QuantizedTensor& tensor);

// Whether every scale keeps its value in `dtype`.
bool scales_fit(const QuantizedTensor& tensor, DType dtype);
// Scales in `dtype` as [out, groups]: a single one is repeated. Asserts nothing about their values.
Result<Tensor> scales_by_row(const QuantizedTensor& tensor, DType dtype);
// u8 [out, groups]: zero points, or the middle code where the scheme is symmetric.
Result<Tensor> zero_points_by_row(const QuantizedTensor& tensor);

// Paths of the linears that stay dense, lm_head included when the model has one; in execution order.
std::vector<std::string> dense_linears(const DialectTarget& target);

}  // namespace pare
