// calibrate/held_zeros.h: zeros that an earlier pruning made, which must survive what is done next.
#pragma once

#include <optional>

#include "engine/core/result.h"
#include "engine/tensor/mask.h"
#include "engine/tensor/tensor.h"

namespace pare {

// Which weights of a matrix (f32, bf16 or f16, [out, in]) are not zero, when at least one in ten is: fewer
// zeros are an accident and are not held.
Result<std::optional<Mask>> held_zeros(const Tensor& weight);

}  // namespace pare
