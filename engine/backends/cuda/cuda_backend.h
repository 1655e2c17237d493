// engine/backends/cuda/cuda_backend.h: the backend of one GPU. Includes nothing of CUDA.
#pragma once

#include <cstdint>
#include <memory>

#include "engine/backends/cuda/math_mode.h"
#include "engine/tensor/backend.h"

namespace pare {

struct CudaOptions {
  cuda::MathMode math = cuda::MathMode::bf16;
  uint64_t max_bytes = 0;  // ceiling of device memory (--max-vram); 0: 95 % of what is free
};

// Opens GPU `index`. Exit 4 in a build without CUDA; exit 6 when the device is missing, too old (below
// compute capability 8.0) or does not answer.
Result<std::unique_ptr<Backend>> make_cuda_backend(int index, const CudaOptions& options);

namespace cuda {

struct MemoryUse {
  uint64_t held_bytes = 0, peak_bytes = 0, ceiling_bytes = 0;
};
// Of a backend that make_cuda_backend() made.
MemoryUse memory_use(const Backend& backend);

// Opens cuBLASLt and cuSOLVER now, not when an operation first needs them: exit 6 names the one that is
// missing.
Status open_libraries(Backend& backend);
// "cuBLASLt 13.0.2, cuSOLVER 12.0.4", of each whether it can be opened; empty in a build without CUDA.
std::string describe_libraries();

struct PrefetchUse {
  uint64_t ranges = 0;          // that room was found for
  uint64_t served_uploads = 0;  // that came from them
  uint64_t served_bytes = 0;
};
PrefetchUse prefetch_use(const Backend& backend);
// Waits until what was named to prefetch() is there, or was given up; for tests.
void settle_prefetch(Backend& backend);

// Host memory that the GPU can read and write too; null when there is none.
void* allocate_pinned(size_t bytes);
void free_pinned(void* block);

// Test seam: the n-th allocation from now on fails (0: none does).
void fail_allocation(int64_t n);

}  // namespace cuda
}  // namespace pare
