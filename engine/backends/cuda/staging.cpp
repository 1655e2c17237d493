#include "engine/backends/cuda/staging.h"

#include <algorithm>
#include <cstring>

#include "engine/core/parallel.h"

namespace pare::cuda {

Staging::~Staging() {
  for (Buffer& buffer : ring_) {
    if (buffer.emptied != nullptr) cudaEventDestroy(buffer.emptied);
    if (buffer.pinned != nullptr) cudaFreeHost(buffer.pinned);
  }
}

cudaError_t Staging::open() {
  for (Buffer& buffer : ring_) {
    if (buffer.pinned == nullptr) {
      if (const cudaError_t status = cudaHostAlloc(&buffer.pinned, kPiece, cudaHostAllocDefault);
          status != cudaSuccess) {
        buffer.pinned = nullptr;
        return status;
      }
    }
    if (buffer.emptied != nullptr) continue;
    if (const cudaError_t status = cudaEventCreateWithFlags(&buffer.emptied, cudaEventDisableTiming);
        status != cudaSuccess) {
      buffer.emptied = nullptr;
      return status;
    }
  }
  return cudaSuccess;
}

cudaError_t Staging::upload(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t status = open(); status != cudaSuccess) return status;
  const auto* source = static_cast<const std::byte*>(from);
  auto* target = static_cast<std::byte*>(to);
  for (size_t begin = 0; begin < bytes; begin += kPiece) {
    const size_t count = std::min(kPiece, bytes - begin);
    Buffer& buffer = ring_[next_];
    next_ = (next_ + 1) % ring_.size();
    if (buffer.in_use) {
      if (const cudaError_t status = cudaEventSynchronize(buffer.emptied); status != cudaSuccess) return status;
    }
    constexpr int64_t kGrain = 256 * 1024;
    parallel_ranges(int64_t(count), kGrain, [&](int64_t first, int64_t last) {
      std::memcpy(static_cast<std::byte*>(buffer.pinned) + first, source + begin + size_t(first), size_t(last - first));
    });
    cudaError_t status = cudaMemcpyAsync(target + begin, buffer.pinned, count, cudaMemcpyHostToDevice, stream);
    if (status == cudaSuccess) status = cudaEventRecord(buffer.emptied, stream);
    if (status != cudaSuccess) return status;
    buffer.in_use = true;
  }
  return cudaSuccess;
}

}  // namespace pare::cuda
