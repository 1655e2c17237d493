// engine/backends/cuda/memory_pool.h: device memory of one context: counted, limited, and able to fail in a
// test.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <memory>

#include "engine/backends/cuda/cuda_backend.h"
#include "engine/core/result.h"

namespace pare::cuda {

class MemoryPool {
 public:
  // ceiling 0: as much as is free now.
  static Result<std::unique_ptr<MemoryPool>> open(int index, cudaStream_t stream, uint64_t ceiling);
  ~MemoryPool();

  // Uninitialised bytes aligned to 256, freed in the order of the stream when the owner goes. Exit 6.
  Result<std::shared_ptr<void>> allocate(size_t bytes);
  // The same for what is not needed: null where there is no room, and nothing else gives way to it.
  std::shared_ptr<void> try_allocate(size_t bytes);
  // Called by allocate() when there is no room, to give back what is not needed; true when something was.
  void set_reclaim(std::function<bool()> reclaim) { reclaim_ = std::move(reclaim); }
  MemoryUse use() const;

 private:
  struct State;
  explicit MemoryPool(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<void> owned(void* block, size_t taken);
  std::function<bool()> reclaim_;
  std::shared_ptr<State> state_;  // blocks keep it, and with it the stream, alive
};

}  // namespace pare::cuda
