// The GPUs that the CUDA runtime sees.
#include <cuda_runtime.h>

#include "engine/backends/cuda/device_info.h"

namespace pare {
namespace {

// CUDA writes 13.0 as 13000.
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

Error device_error(const std::string& device, cudaError_t status) {
  cudaGetLastError();  // errors of queries are not sticky; do not leave this one for the next caller
  return Error{.exit = Exit::resource,
               .rule = "RL06",
               .path = device,
               .where = {},
               .what = "device does not answer",
               .got = cudaGetErrorName(status),
               .limit = {}};
}

// Number of GPUs, 0 with a reason, or an error.
struct DeviceCount {
  int count = 0;
  std::string reason;
  cudaError_t status = cudaSuccess;
};

DeviceCount count_devices() {
  DeviceCount result;
  result.status = cudaGetDeviceCount(&result.count);
  if (result.status == cudaSuccess && result.count > 0) return result;
  result.count = 0;
  switch (result.status) {
    case cudaSuccess:
    case cudaErrorNoDevice:
      result.reason = "no CUDA-capable device";
      break;
    // also what the runtime says when there is no driver library at all
    case cudaErrorInsufficientDriver: {
      int version = 0;
      cudaDriverGetVersion(&version);
      result.reason =
          version == 0 ? "no CUDA driver" : "CUDA driver " + version_text(version) + " is too old";
      break;
    }
    case cudaErrorStubLibrary:
      result.reason = "no CUDA driver";
      break;
    default:
      return result;
  }
  cudaGetLastError();
  result.status = cudaSuccess;
  return result;
}

Result<GpuInfo> describe(int index, const std::string& driver, const std::string& runtime) {
  const std::string device = "cuda:" + std::to_string(index);
  cudaDeviceProp properties;
  if (const cudaError_t status = cudaGetDeviceProperties(&properties, index); status != cudaSuccess) {
    return device_error(device, status);
  }
  int previous = 0;
  cudaGetDevice(&previous);
  size_t free_bytes = 0, total_bytes = 0;
  cudaError_t status = cudaSetDevice(index);
  if (status == cudaSuccess) status = cudaMemGetInfo(&free_bytes, &total_bytes);
  cudaSetDevice(previous);
  if (status != cudaSuccess) return device_error(device, status);
  return GpuInfo{.name = properties.name,
                 .compute_capability = properties.major * 10 + properties.minor,
                 .total_bytes = total_bytes,
                 .free_bytes = free_bytes,
                 .driver = driver,
                 .runtime = runtime};
}

}  // namespace

Result<std::vector<GpuInfo>> list_gpus() {
  const DeviceCount devices = count_devices();
  if (devices.status != cudaSuccess) return device_error("cuda", devices.status);
  std::vector<GpuInfo> result;
  if (devices.count == 0) return result;
  int driver = 0;
  if (const cudaError_t status = cudaDriverGetVersion(&driver); status != cudaSuccess) {
    return device_error("cuda", status);
  }
  for (int index = 0; index < devices.count; ++index) {
    PARE_TRY(GpuInfo info, describe(index, version_text(driver), version_text(CUDART_VERSION)));
    result.push_back(std::move(info));
  }
  return result;
}

std::string why_no_gpu() {
  return count_devices().reason;
}

bool built_with_cuda() {
  return true;
}

}  // namespace pare
