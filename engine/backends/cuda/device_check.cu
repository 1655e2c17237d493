#include "engine/backends/cuda/device_check.h"

namespace pare::cuda {
namespace {

__global__ void empty_kernel(int) {}

}  // namespace

cudaError_t run_empty_kernel(cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1);
  config.blockDim = dim3(32);
  config.stream = stream;
  const cudaError_t status = cudaLaunchKernelEx(&config, empty_kernel, 0);
  return status == cudaSuccess ? cudaStreamSynchronize(stream) : status;
}

}  // namespace pare::cuda
