// engine/backends/cuda/memory_pool.h: device memory of one context: counted, limited, and able to fail in a
// test.
#pragma once

#include <cuda_runtime.h>

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
  MemoryUse use() const;

 private:
  struct State;
  explicit MemoryPool(std::shared_ptr<State> state) : state_(std::move(state)) {}
  std::shared_ptr<State> state_;  // blocks keep it, and with it the stream, alive
};

}  // namespace pare::cuda
