#include "engine/backends/cuda/memory_pool.h"

#include <algorithm>
#include <atomic>
#include <mutex>

#include <fmt/core.h>

#include "engine/core/text.h"

namespace pare::cuda {
namespace {

std::atomic<int64_t> allocations_before_failure{0};  // 0: none fails

bool fails_in_a_test() {
  return allocations_before_failure.load() > 0 && allocations_before_failure.fetch_sub(1) == 1;
}

Error out_of_memory(int index, size_t bytes, const MemoryUse& use, const char* why) {
  return Error{
      .exit = Exit::resource,
      .rule = "RL01",
      .path = "cuda:" + std::to_string(index),
      .where = {},
      .what = fmt::format("out of device memory ({}); raise --max-vram, or free memory on the card", why),
      .got = fmt::format("{} beside {} in use", format_bytes(bytes), format_bytes(use.held_bytes)),
      .limit = format_bytes(use.ceiling_bytes),
      .limit_label = "ceiling"};
}

}  // namespace

void fail_allocation(int64_t n) {
  allocations_before_failure.store(n);
}

struct MemoryPool::State {
  int index = 0;
  cudaStream_t stream = nullptr;
  std::mutex mutex;
  MemoryUse use;

  // Counts bytes that are about to be taken; false above the ceiling.
  bool count(size_t bytes) {
    const std::lock_guard lock(mutex);
    if (bytes > use.ceiling_bytes - std::min(use.held_bytes, use.ceiling_bytes)) return false;
    use.held_bytes += bytes;
    return true;
  }
  void discount(size_t bytes) {
    const std::lock_guard lock(mutex);
    use.held_bytes -= bytes;
  }
};

Result<std::unique_ptr<MemoryPool>> MemoryPool::open(int index, cudaStream_t stream, uint64_t ceiling) {
  auto state = std::make_shared<State>();
  state->index = index;
  state->stream = stream;
  size_t free_bytes = 0, total_bytes = 0;
  cudaMemPool_t pool = nullptr;
  cudaError_t status = cudaMemGetInfo(&free_bytes, &total_bytes);
  if (status == cudaSuccess) status = cudaDeviceGetDefaultMemPool(&pool, index);
  if (status == cudaSuccess) {
    uint64_t keep = UINT64_MAX;  // freed memory stays with the process: asking the driver takes milliseconds
    status = cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep);
  }
  if (status != cudaSuccess) {
    return Error{.exit = Exit::resource,
                 .rule = "RL06",
                 .path = "cuda:" + std::to_string(index),
                 .where = {},
                 .what = "device does not answer",
                 .got = cudaGetErrorName(status),
                 .limit = {}};
  }
  // Modules, graphs and the handles of libraries take memory too, past this pool.
  state->use.ceiling_bytes = ceiling > 0 ? ceiling : free_bytes - free_bytes / 20;
  return std::unique_ptr<MemoryPool>(new MemoryPool(std::move(state)));
}

MemoryPool::~MemoryPool() = default;

namespace {

// What is taken for so many bytes; 0 where the sum would overflow.
size_t taken_for(size_t bytes) {
  constexpr size_t kAlignment = 256;
  if (bytes > SIZE_MAX - kAlignment) return 0;
  return std::max((bytes + kAlignment - 1) / kAlignment * kAlignment, kAlignment);
}

}  // namespace

std::shared_ptr<void> MemoryPool::owned(void* block, size_t taken) {
  {
    const std::lock_guard lock(state_->mutex);
    state_->use.peak_bytes = std::max(state_->use.peak_bytes, state_->use.held_bytes);
  }
  return std::shared_ptr<void>(block, [state = state_, taken](void* pointer) {
    // at the end of the process the driver may be gone already: nothing to be done about it then
    if (cudaFreeAsync(pointer, state->stream) != cudaSuccess) cudaGetLastError();
    state->discount(taken);
  });
}

Result<std::shared_ptr<void>> MemoryPool::allocate(size_t bytes) {
  const size_t taken = taken_for(bytes);
  if (taken == 0) return out_of_memory(state_->index, bytes, use(), "no such size");
  if (fails_in_a_test()) return out_of_memory(state_->index, bytes, use(), "test");
  if (!state_->count(taken) && !(reclaim_ && reclaim_() && state_->count(taken)))
    return out_of_memory(state_->index, bytes, use(), "ceiling");
  void* block = nullptr;
  cudaError_t status = cudaMallocAsync(&block, taken, state_->stream);
  if (status == cudaErrorMemoryAllocation) {
    // Freed blocks that stay with the process may be cut too small: give them back, and ask once more.
    cudaGetLastError();
    if (reclaim_) reclaim_();
    cudaMemPool_t pool = nullptr;
    status = cudaStreamSynchronize(state_->stream);
    if (status == cudaSuccess) status = cudaDeviceGetDefaultMemPool(&pool, state_->index);
    if (status == cudaSuccess) status = cudaMemPoolTrimTo(pool, 0);
    if (status == cudaSuccess) status = cudaMallocAsync(&block, taken, state_->stream);
  }
  if (status != cudaSuccess) {
    cudaGetLastError();
    state_->discount(taken);
    return out_of_memory(state_->index, bytes, use(), cudaGetErrorName(status));
  }
  return owned(block, taken);
}

std::shared_ptr<void> MemoryPool::try_allocate(size_t bytes) {
  const size_t taken = taken_for(bytes);
  if (taken == 0 || fails_in_a_test() || !state_->count(taken)) return nullptr;
  void* block = nullptr;
  if (cudaMallocAsync(&block, taken, state_->stream) != cudaSuccess) {
    cudaGetLastError();
    state_->discount(taken);
    return nullptr;
  }
  return owned(block, taken);
}

MemoryUse MemoryPool::use() const {
  const std::lock_guard lock(state_->mutex);
  return state_->use;
}

}  // namespace pare::cuda
