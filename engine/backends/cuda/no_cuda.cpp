// Stands in for this folder in a build without CUDA.
#include "engine/backends/cuda/cuda_backend.h"
#include "engine/backends/cuda/device_info.h"
#include "engine/backends/cuda/measure.h"
#include "engine/core/assert.h"

namespace pare {
namespace {

Error without_cuda(std::string path) {
  return Error{.exit = Exit::unsupported,
               .rule = "CL11",
               .path = std::move(path),
               .where = {},
               .what = "this build has no CUDA",
               .got = {},
               .limit = {}};
}

}  // namespace

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
  return without_cuda("cuda:" + std::to_string(index));
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
PrefetchUse prefetch_use(const Backend&) {
  return {};
}
void settle_prefetch(Backend&) {}
void* allocate_pinned(size_t) {
  return nullptr;
}
void free_pinned(void*) {}

struct GpuProbes::State {};
GpuProbes::GpuProbes(Backend&) {}
GpuProbes::~GpuProbes() = default;
double GpuProbes::work(GpuProbe) {
  return 0.0;
}
Status GpuProbes::run(GpuProbe) {
  return without_cuda("cuda");
}
void cublas_bf16(Backend&, const void*, const void*, float*, int64_t, int64_t, int64_t) {
  PARE_ASSERT(false, "[measure] a product on a GPU without CUDA");
}

}  // namespace cuda

}  // namespace pare
