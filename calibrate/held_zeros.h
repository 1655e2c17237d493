// calibrate/held_zeros.h: zeros that an earlier pruning made, which must survive what is done next.
#pragma once

#include <optional>
#include <string_view>

#include "engine/core/result.h"
#include "engine/models/weight_source.h"
#include "engine/tensor/mask.h"

namespace pare {

// The weights of a matrix f32 [out, in] that are not zero, when at least one in ten is: fewer zeros are an accident
// and are not held.
Result<std::optional<Mask>> held_zeros(const Tensor& weight);

// Codes of a matrix whose held zeros must stay exact. The smallest sparse form where that takes fewer bytes than the
// codes; else the codes, and `lost` counts the zeros that they cannot hold. pattern: of the matrix before ("" when
// it was dense): tried first.
Result<WeightData> codes_with_zeros(QuantizedTensor codes, const Mask& kept, std::string_view pattern,
                                    int64_t* lost);

}  // namespace pare
