// engine/backends/cuda/context.h: one GPU as kernels and ops see it: stream, memory, scratch, the first
// error.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "engine/backends/cuda/cuda_backend.h"
#include "engine/backends/cuda/staging.h"
#include "engine/core/assert.h"
#include "engine/core/result.h"

namespace pare::cuda {

// One launch: blocks of threads and bytes of dynamic shared memory.
struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  bool is_dependent = false;  // may start before the one before it ends; the kernel waits itself (ptx.h)
};

// Every block size of ours divides into whole warps.
constexpr int kWarp = 32;
// Blocks of a one-dimensional grid; asserts that they fit.
inline unsigned blocks_for(int64_t items, int64_t per_block) {
  const int64_t blocks = (items + per_block - 1) / per_block;
  PARE_ASSERT(blocks <= 0x7fffffff, "[cuda] a grid of {} blocks", blocks);
  return unsigned(blocks);
}

class MemoryPool;
class Libraries;
class Prefetcher;

class Context {
 public:
  static Result<std::unique_ptr<Context>> open(int index, const CudaOptions& options);
  ~Context();
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  int index() const { return index_; }
  MathMode math() const { return math_; }
  const cudaDeviceProp& properties() const { return properties_; }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  int compute_capability() const { return properties_.major * 10 + properties_.minor; }
  // Whether kernels wait for the one before by themselves. Newer devices than 9.x run the PTX of 8.0, in
  // which ptx::wait_for_predecessor() is nothing: a kernel that starts early there would read what is not
  // written yet.
  bool has_dependent_launches() const { return properties_.major == 9; }
  cudaStream_t stream() const { return stream_; }

  // Launches on the stream, from any thread, one at a time. An error is kept under `name`, to be told at the
  // next take_error().
  template <typename... Params, typename... Args>
  void launch(const char* name, void (*kernel)(Params...), const LaunchShape& shape, Args&&... args) {
    if (!allow_shared(name, reinterpret_cast<const void*>(kernel), shape.shared_bytes)) return;
    cudaLaunchAttribute attribute{};
    cudaLaunchConfig_t config{};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = stream_;
    if (shape.is_dependent && has_dependent_launches()) {
      attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
      attribute.val.programmaticStreamSerializationAllowed = 1;
      config.attrs = &attribute;
      config.numAttrs = 1;
    }
    note(cudaSetDevice(index_),
         name);  // of this thread: another backend or a thread of the host may have changed it
#ifdef PARE_CUDA_EMULATOR
    ::emulator::name_next_launch(name);
#endif
    note(cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...), name);
  }
  // Host memory to the device, in the order of the stream; `from` may change when it returns.
  void upload(void* to, const void* from, size_t bytes, const char* call) {
    if (bytes > 0) note(staging_.upload(to, from, bytes, stream_), call);
  }
  // Keeps the first error, with the call that it came from.
  void note(cudaError_t status, const char* call);
  // The same for what is no CUDA error: a library that is missing or refuses.
  void note_failure(const char* call, Error error);
  bool failed() const {
    return first_error_ != cudaSuccess || first_failure_.has_value();
  }
  Status take_error();

  MemoryPool& pool() {
    return *pool_;
  }
  Prefetcher& prefetcher() {
    return *prefetcher_;
  }  // prefetcher.h
  Libraries& libraries() {
    return *libraries_;
  }  // libraries.h
  // Device memory for partial results of one operation: valid until the next operation that asks. Grows by
  // itself outside of a capture; null (and an error noted) when it cannot.
  void* scratch(size_t bytes);
  template <typename T>
  T* scratch_of(int64_t count) {
    return static_cast<T*>(scratch(size_t(count) * sizeof(T)));
  }
  // The block behind scratch(), for recordings: it stays where it is as long as somebody holds it.
  std::shared_ptr<void> scratch_block() const {
    return scratch_;
  }
  bool is_capturing() const {
    return is_capturing_;
  }
  void set_capturing(bool capturing) {
    is_capturing_ = capturing;
  }

 private:
  Context() = default;
  // More than 48 KiB of shared memory, static arrays included, must be asked for once per kernel.
  bool allow_shared(const char* name, const void* kernel, size_t bytes);

  int index_ = 0;
  MathMode math_ = MathMode::bf16;
  cudaDeviceProp properties_{};
  cudaStream_t stream_ = nullptr;
  cudaError_t first_error_ = cudaSuccess;
  std::string failed_call_;
  std::optional<Error> first_failure_;
  bool is_capturing_ = false;
  std::unique_ptr<MemoryPool> pool_;
  Staging staging_;
  std::unique_ptr<Prefetcher> prefetcher_;
  std::unique_ptr<Libraries> libraries_;
  std::shared_ptr<void> scratch_;
  size_t scratch_bytes_ = 0;
};

}  // namespace pare::cuda
