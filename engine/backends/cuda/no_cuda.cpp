// Stands in for this folder in a build without CUDA.
#include "engine/backends/cuda/cuda_backend.h"
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

Result<std::unique_ptr<Backend>> make_cuda_backend(int index, const CudaOptions&) {
  return Error{.exit = Exit::unsupported,
               .rule = "CL11",
               .path = "cuda:" + std::to_string(index),
               .where = {},
               .what = "this build has no CUDA",
               .got = {},
               .limit = {}};
}

namespace cuda {

MemoryUse memory_use(const Backend&) {
  return {};
}
Status open_libraries(Backend&) {
  return {};
}
std::string describe_libraries() {
  return {};
}
void fail_allocation(int64_t) {}
void* allocate_pinned(size_t) {
  return nullptr;
}
void free_pinned(void*) {}

}  // namespace cuda

}  // namespace pare
