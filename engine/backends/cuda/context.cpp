#include "engine/backends/cuda/context.h"

#include <cstdlib>
#include <map>
#include <mutex>

#include <fmt/core.h>

#include "engine/backends/cuda/device_check.h"
#include "engine/backends/cuda/device_info.h"
#include "engine/backends/cuda/libraries.h"
#include "engine/backends/cuda/memory_pool.h"
#include "engine/backends/cuda/prefetcher.h"

#ifndef PARE_CUDA_ARCHITECTURES
#define PARE_CUDA_ARCHITECTURES "those of the emulator"
#endif

namespace pare::cuda {
namespace {

constexpr int kLeastCapability = 80;  // mma.sync with bf16, cp.async

// Backends that are never uninstalled go with the static objects of the process, after those of the libraries
// that were loaded later: their handles can no longer be closed then, and need not be.
bool& is_exiting() {
  static bool value = false;
  return value;
}
void watch_exit() {
#ifndef PARE_CUDA_EMULATOR  // whose handles are memory that is checked for leaks
  static const int registered = std::atexit([] { is_exiting() = true; });
  (void)registered;
#endif
}

Error device_error(int index, const char* what, std::string got, std::string expected = {}) {
  return Error{.exit = Exit::resource,
               .rule = "RL06",
               .path = "cuda:" + std::to_string(index),
               .where = {},
               .what = what,
               .got = std::move(got),
               .limit = std::move(expected),
               .limit_label = "expected"};
}

}  // namespace

Result<std::unique_ptr<Context>> Context::open(int index, const CudaOptions& options) {
  std::unique_ptr<Context> context(new Context);
  context->index_ = index;
  context->math_ = options.math;
  int count = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  watch_exit();
  if (status != cudaSuccess || index < 0 || index >= count) {
    cudaGetLastError();
    const std::string reason = why_no_gpu();
    return device_error(index, "no such GPU",
                        !reason.empty()         ? reason
                        : status != cudaSuccess ? cudaGetErrorString(status)
                                                : fmt::format("{} GPUs", count));
  }
  status = cudaSetDevice(index);
  if (status == cudaSuccess) status = cudaGetDeviceProperties(&context->properties_, index);
  if (status == cudaSuccess && context->compute_capability() < kLeastCapability) {
    return device_error(index, "GPU is too old",
                        fmt::format("{}, compute capability {}.{}", context->properties_.name,
                                    context->properties_.major, context->properties_.minor),
                        "8.0 or higher");
  }
  if (status == cudaSuccess) status = cudaStreamCreateWithFlags(&context->stream_, cudaStreamNonBlocking);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return device_error(index, "device does not answer", cudaGetErrorName(status));
  }
  status = run_empty_kernel(context->stream_);
  if (status != cudaSuccess) {
    cudaGetLastError();
    return device_error(
        index, "this build has no code that the GPU runs",
        fmt::format("{}, compute capability {}.{}: {}", context->properties_.name, context->properties_.major,
                    context->properties_.minor, cudaGetErrorName(status)),
        "an architecture of PARE_CUDA_ARCHITECTURES, " PARE_CUDA_ARCHITECTURES);
  }
  PARE_TRY(context->pool_, MemoryPool::open(index, context->stream_, options.max_bytes));
  context->prefetcher_ = std::make_unique<Prefetcher>(index, context->stream_, *context->pool_);
  context->pool_->set_reclaim([prefetcher = context->prefetcher_.get()] { return prefetcher->forget(); });
  context->libraries_ = std::make_unique<Libraries>(*context);
  return context;
}

Context::~Context() {
  if (pool_ != nullptr) pool_->set_reclaim({});
  prefetcher_.reset();
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  if (is_exiting() && libraries_ != nullptr) libraries_->abandon();
  libraries_.reset();
  scratch_.reset();
  // The stream stays: blocks of the pool that outlive the context are freed in its order.
}

void Context::note(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  if (failed()) return;
  first_error_ = status;
  failed_call_ = call;
}

void Context::note_failure(const char* call, Error error) {
  if (failed()) return;
  error.where = fmt::format("cuda:{} {}", index_, call);
  first_failure_ = std::move(error);
}

Status Context::take_error() {
  const Prefetcher::Failure failure = prefetcher_->take_failure();
  note(failure.status, failure.call);
  if (first_failure_) {
    Error error = *std::move(first_failure_);
    first_failure_.reset();
    return error;
  }
  if (first_error_ == cudaSuccess) return {};
  const cudaError_t status = std::exchange(first_error_, cudaSuccess);
  return device_error(index_, "the device broke off",
                      fmt::format("{} in {}", cudaGetErrorName(status), std::exchange(failed_call_, {})));
}

void* Context::scratch(size_t bytes) {
  if (bytes <= scratch_bytes_) return scratch_.get();
  PARE_ASSERT(!is_capturing_, "[cuda] scratch of {} bytes within a capture, {} are there", bytes,
              scratch_bytes_);
  scratch_.reset();
  scratch_bytes_ = 0;
  auto block = pool_->allocate(bytes);
  if (!block) {
    note(cudaErrorMemoryAllocation, "scratch");
    return nullptr;
  }
  scratch_ = *std::move(block);
  scratch_bytes_ = bytes;
  return scratch_.get();
}

bool Context::allow_shared(const char* name, const void* kernel, size_t bytes) {
  constexpr size_t kWithoutAsking = 16 * 1024;  // static arrays of a kernel count too, ours up to 32 KiB
  if (bytes <= kWithoutAsking) return true;
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, size_t> allowed;
  const std::lock_guard lock(mutex);
  size_t& known = allowed[{index_, kernel}];
  if (bytes <= known) return true;
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes));
  note(status, name);
  if (status == cudaSuccess) known = bytes;
  return status == cudaSuccess;
}

}  // namespace pare::cuda
