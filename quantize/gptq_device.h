// quantize/gptq_device.h: gptq() where the second moment and its factor lie on a GPU.
#pragma once

#include "engine/tensor/column_solver.h"
#include "quantize/gptq.h"

namespace pare {

// Whether kernels know the grids and their search: integer codes, the squared error or no search at all.
bool rounds_on_device(const QuantScheme& scheme, const QuantizeOptions& options);
// Its codes as kernels know them.
GridFormat grid_format(const QuantScheme& scheme);

// As gptq(), after its checks; factor.upper on the device of the moment, which has a column_solver(), unless
// all is dead. The grids are those of the host. Exit 6, 7.
Result<GptqOutput> gptq_on_device(const Tensor& weight, const Tensor& moment, const HessianFactor& factor,
                                  const QuantScheme& scheme, const QuantizeOptions& options,
                                  const GptqOptions& gptq, std::string_view name);

}  // namespace pare
