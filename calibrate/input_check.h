// calibrate/input_check.h: what is looked at before a model is compressed, so that nothing is done half.
#pragma once

#include <optional>
#include <vector>

#include "engine/models/architecture.h"
#include "engine/tensor/quant_scheme.h"

namespace pare {

// Dense weights, and sparse values: what a method may round. Not codes, nor two factors.
bool can_be_quantized(const StoredTensor& stored);

// Exit 4 (CF12): the tensor is to be quantized and already is.
Error already_quantized(const WeightSource& source, const StoredTensor& stored);

// Reads every floating tensor of the model once. Exit 7 (NU01, NU02) with the first position in the first
// tensor that is not finite; 4 (CF12) for a tensor with a scheme that is already quantized. schemes: per
// tensor of `model`, or empty when nothing is rounded yet.
Status check_inputs(const WeightSource& source, const ModelDescription& model,
                    const std::vector<std::optional<QuantScheme>>& schemes);

}  // namespace pare
