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

cudaError_t Staging::next_buffer(cudaStream_t stream) {
  if (const cudaError_t status = cudaEventRecord(ring_[current_].emptied, stream); status != cudaSuccess)
    return status;
  ring_[current_].in_use = true;
  current_ = (current_ + 1) % ring_.size();
  filled_ = 0;
  Buffer& buffer = ring_[current_];
  if (!buffer.in_use) return cudaSuccess;
  buffer.in_use = false;
  return cudaEventSynchronize(buffer.emptied);
}

cudaError_t Staging::upload(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t status = open(); status != cudaSuccess) return status;
  const auto* source = static_cast<const std::byte*>(from);
  auto* target = static_cast<std::byte*>(to);
  for (size_t begin = 0; begin < bytes;) {
    if (filled_ == kPiece) {
      if (const cudaError_t status = next_buffer(stream); status != cudaSuccess) return status;
    }
    const size_t count = std::min(kPiece - filled_, bytes - begin);
    std::byte* pinned = static_cast<std::byte*>(ring_[current_].pinned) + filled_;
    constexpr int64_t kGrain = 256 * 1024;
    parallel_ranges(int64_t(count), kGrain, [&](int64_t first, int64_t last) {
      std::memcpy(pinned + first, source + begin + size_t(first), size_t(last - first));
    });
    if (const cudaError_t status =
            cudaMemcpyAsync(target + begin, pinned, count, cudaMemcpyHostToDevice, stream);
        status != cudaSuccess) {
      return status;
    }
    constexpr size_t kAlignment = 256;
    filled_ = std::min(kPiece, (filled_ + count + kAlignment - 1) / kAlignment * kAlignment);
    begin += count;
  }
  return cudaSuccess;
}

}  // namespace pare::cuda
