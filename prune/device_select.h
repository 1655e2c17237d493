// prune/device_select.h: the same selection as select.h, made by the device that a command runs on.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "engine/core/result.h"
#include "engine/tensor/device.h"
#include "prune/select.h"

namespace pare {

// What select_weights() (or, with `count`, select_matrix()) gives for the scores |w|, times `norms` where
// there are any: the matrix goes to the device, the mask comes back. Nothing on a device without a
// SelectionBackend, the host among them. weight: f32, bf16 or f16 [out, in] in host memory, contiguous,
// finite. Exit 6.
Result<std::optional<Mask>> select_on_device(Device device, const Tensor& weight,
                                             std::span<const float> norms, const PruneTarget& target,
                                             Scope scope, std::optional<int64_t> count,
                                             std::string_view name);

}  // namespace pare
