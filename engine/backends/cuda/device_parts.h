// engine/backends/cuda/device_parts.h: packed matrices between host memory, where they are packed, and the
// device.
#pragma once

#include "engine/core/result.h"
#include "engine/tensor/backend.h"

namespace pare::cuda {

// A contiguous copy in memory of `backend`, or in host memory (waits). Undefined stays undefined. Exit 6.
Result<Tensor> to_device(Backend& backend, const Tensor& tensor);
Result<Tensor> to_host(Backend& backend, const Tensor& tensor);

// The same for all opaque parts of a matrix.
Result<PackedMatrix> parts_to_device(Backend& backend, PackedMatrix packed);
Result<PackedMatrix> parts_to_host(Backend& backend, PackedMatrix packed);

}  // namespace pare::cuda
