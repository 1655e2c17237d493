// engine/backends/cuda/staging.h: host memory that the copy engine reads directly, as a ring of buffers.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>

namespace pare::cuda {

// Large uploads go through here: the host's threads copy a piece into a pinned buffer (taking the page faults of mapped
// files in parallel) while the copy engine empties the one before. From pageable memory the driver would do the same
// with one thread.
class Staging {
 public:
  static constexpr size_t kPiece = size_t{16} << 20;    // long enough for full rate, short enough to overlap soon
  static constexpr size_t kWorthwhile = size_t{1} << 20;  // smaller uploads are left to the driver

  Staging() = default;
  ~Staging();
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  // Copies in the order of the stream; `from` may change when it returns. The first call pins the buffers.
  cudaError_t upload(void* to, const void* from, size_t bytes, cudaStream_t stream);

 private:
  struct Buffer {
    void* pinned = nullptr;
    cudaEvent_t emptied = nullptr;
    bool in_use = false;
  };
  cudaError_t open();
  std::array<Buffer, 3> ring_;
  size_t next_ = 0;
};

}  // namespace pare::cuda
