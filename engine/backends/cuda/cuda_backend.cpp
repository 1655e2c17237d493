#include "engine/backends/cuda/cuda_backend.h"

#include <fmt/core.h>

#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/libraries.h"
#include "engine/backends/cuda/memory_pool.h"
#include "engine/backends/cuda/packed_table.h"
#include "engine/backends/cuda/prefetcher.h"

namespace pare {

Result<std::unique_ptr<Backend>> make_cuda_backend(int index, const CudaOptions& options) {
  PARE_CHECK(cuda::force_requested_kernel());
  PARE_TRY(std::unique_ptr<cuda::Context> context, cuda::Context::open(index, options));
  return std::unique_ptr<Backend>(std::make_unique<cuda::CudaBackend>(std::move(context)));
}

namespace cuda {

namespace {

Context& context_of(const Backend& backend) {
  PARE_ASSERT(backend.device().kind == Device::Kind::cuda, "[cuda] {} is none", backend.device().name());
  return const_cast<CudaBackend&>(static_cast<const CudaBackend&>(backend)).context();
}

}  // namespace

MemoryUse memory_use(const Backend& backend) {
  return context_of(backend).pool().use();
}

PrefetchUse prefetch_use(const Backend& backend) {
  return context_of(backend).prefetcher().use();
}

void settle_prefetch(Backend& backend) {
  context_of(backend).prefetcher().settle();
}

Status open_libraries(Backend& backend) {
  PARE_ASSERT(backend.device().kind == Device::Kind::cuda, "[cuda] libraries of {}", backend.device().name());
  Libraries& libraries = static_cast<CudaBackend&>(backend).context().libraries();
  PARE_CHECK(libraries.open_products());
  return libraries.open_solver();
}

void* allocate_pinned(size_t bytes) {
  void* block = nullptr;
  return cudaHostAlloc(&block, bytes, cudaHostAllocPortable) == cudaSuccess ? block : nullptr;
}

void free_pinned(void* block) {
  cudaFreeHost(block);
}

CudaBackend::~CudaBackend() {
  cudaStreamSynchronize(context_->stream());  // uploads under way read the staging buffers
}

std::string CudaBackend::description() const {
  const cudaDeviceProp& properties = context_->properties();
  int driver = 0;
  cudaDriverGetVersion(&driver);
  return fmt::format("cuda: {}, compute capability {}.{}, {} products, driver {}.{}, {}", properties.name,
                     properties.major, properties.minor, context_->math() == MathMode::f32 ? "f32" : "bf16",
                     driver / 1000, driver % 1000 / 10, describe_libraries());
}

Result<std::shared_ptr<Storage>> CudaBackend::allocate(size_t bytes) {
  PARE_TRY(std::shared_ptr<void> block, context_->pool().allocate(bytes));
  void* data = block.get();
  return Storage::adopt(data, bytes, std::move(block), device());
}

void CudaBackend::prefetch(std::span<const HostRange> ranges) {
  if (!context_->is_capturing()) context_->prefetcher().start(ranges);
}

Status CudaBackend::upload(void* to, const void* from, size_t bytes) {
  if (bytes > 0 && context_->prefetcher().serve(to, from, bytes)) return context_->take_error();
  context_->upload(to, from, bytes, "upload");
  return context_->take_error();
}

Status CudaBackend::download(void* to, const void* from, size_t bytes) {
  if (bytes > 0)
    context_->note(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, context_->stream()), "download");
  return finish();
}

Status CudaBackend::finish() {
  context_->note(cudaStreamSynchronize(context_->stream()), "an operation before");
  return context_->take_error();
}

void CudaBackend::zero(void* to, size_t bytes) {
  if (bytes > 0) context_->note(cudaMemsetAsync(to, 0, bytes, context_->stream()), "zero");
}

void CudaBackend::copy_rows(const CopyRowsArgs& a) {
  if (a.rows == 0 || a.width == 0) return;
  const cudaError_t status =
      a.rows == 1 ? cudaMemcpyAsync(a.out, a.x, size_t(a.width), cudaMemcpyDeviceToDevice, context_->stream())
                  : cudaMemcpy2DAsync(a.out, size_t(a.out_stride), a.x, size_t(a.x_stride), size_t(a.width),
                                      size_t(a.rows), cudaMemcpyDeviceToDevice, context_->stream());
  context_->note(status, "copy_rows");
}

}  // namespace cuda
}  // namespace pare
