// quantize/sparse_codes.h: the codes of a weight that was sparse before it was rounded.
#pragma once

#include <optional>
#include <string_view>

#include "engine/core/manifest.h"
#include "engine/models/architecture.h"
#include "engine/models/weight_source.h"
#include "engine/tensor/mask.h"

namespace pare {

// Where the source's weight is sparse and every removed weight came out as a code of exactly 0, `data`
// becomes the sparse form of the same codes if that is smaller, and `record` says so. Values never change:
// codes that are not 0 where the source has removed (error was moved there) stay as they are. Anything but
// codes is left alone.
Status keep_sparse(const WeightSource& source, const TensorSpec& spec, WeightData& data,
                   TensorRecord& record);

// The held zeros of a weight (calibrate/held_zeros.h) that is about to be rounded. Exit 4 (RC14) for a scheme
// without an exact zero: what was pruned would come back.
Result<std::optional<Mask>> zeros_to_hold(const Tensor& weight, const QuantScheme& scheme,
                                          std::string_view name);

// Bytes of a weight that will be rounded to `scheme`, before it is.
uint64_t planned_codes_bytes(const StoredTensor& stored, const QuantScheme& scheme, const TensorSpec& spec);

}  // namespace pare
