// Stands in for this folder in a build without CUDA.
#include "engine/backends/cuda/device_info.h"

namespace pare {

Result<std::vector<GpuInfo>> list_gpus() {
  return std::vector<GpuInfo>{};
}
std::string why_no_gpu() {
  return "built without CUDA";
}
bool built_with_cuda() {
  return false;
}

}  // namespace pare
