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

Result<std::shared_ptr<void>> MemoryPool::allocate(size_t bytes) {
  constexpr size_t kAlignment = 256;
  if (bytes > SIZE_MAX - kAlignment) return out_of_memory(state_->index, bytes, use(), "no such size");
  const size_t taken = std::max((bytes + kAlignment - 1) / kAlignment * kAlignment, kAlignment);
  {
    const std::lock_guard lock(state_->mutex);
    MemoryUse& use = state_->use;
    if (fails_in_a_test()) return out_of_memory(state_->index, bytes, use, "test");
    if (taken > use.ceiling_bytes - std::min(use.held_bytes, use.ceiling_bytes))
      return out_of_memory(state_->index, bytes, use, "ceiling");
    use.held_bytes += taken;
  }
  const auto give_back = [](State& state, size_t count) {
    const std::lock_guard lock(state.mutex);
    state.use.held_bytes -= count;
  };
  void* block = nullptr;
  cudaError_t status = cudaMallocAsync(&block, taken, state_->stream);
  if (status == cudaErrorMemoryAllocation) {
    // Freed blocks that stay with the process may be cut too small: give them back, and ask once more.
    cudaGetLastError();
    cudaMemPool_t pool = nullptr;
    status = cudaStreamSynchronize(state_->stream);
    if (status == cudaSuccess) status = cudaDeviceGetDefaultMemPool(&pool, state_->index);
    if (status == cudaSuccess) status = cudaMemPoolTrimTo(pool, 0);
    if (status == cudaSuccess) status = cudaMallocAsync(&block, taken, state_->stream);
  }
  if (status != cudaSuccess) {
    cudaGetLastError();
    give_back(*state_, taken);
    return out_of_memory(state_->index, bytes, use(), cudaGetErrorName(status));
  }
  {
    const std::lock_guard lock(state_->mutex);
    state_->use.peak_bytes = std::max(state_->use.peak_bytes, state_->use.held_bytes);
  }
  return std::shared_ptr<void>(block, [state = state_, taken, give_back](void* pointer) {
    // at the end of the process the driver may be gone already: nothing to be done about it then
    if (cudaFreeAsync(pointer, state->stream) != cudaSuccess) cudaGetLastError();
    give_back(*state, taken);
  });
}

MemoryUse MemoryPool::use() const {
  const std::lock_guard lock(state_->mutex);
  return state_->use;
}

}  // namespace pare::cuda
