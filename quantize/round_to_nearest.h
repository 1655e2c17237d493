// quantize/round_to_nearest.h: every weight takes the nearest code of its group's grid (RTN). Data free.
#pragma once

#include "quantize/quantizer.h"

namespace pare {

Result<QuantizeOutput> round_to_nearest(const Tensor& weight, const QuantScheme& scheme,
                                        const QuantizeOptions& options, std::string_view name);

}  // namespace pare
