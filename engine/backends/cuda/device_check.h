// engine/backends/cuda/device_check.h: whether this build has code for a GPU.
#pragma once

#include <cuda_runtime.h>

namespace pare::cuda {

// Runs a kernel that does nothing, on the current device. cudaErrorNoKernelImageForDevice and its like: the
// build's architectures (PARE_CUDA_ARCHITECTURES) leave this card out.
cudaError_t run_empty_kernel(cudaStream_t stream);

}  // namespace pare::cuda
