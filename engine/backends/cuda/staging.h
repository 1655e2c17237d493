// engine/backends/cuda/staging.h: host memory that the copy engine reads directly, as a ring of buffers.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>

namespace pare::cuda {

// Uploads go through here: the host's threads copy a piece into a pinned buffer (taking the page faults of
// mapped files in parallel) while the copy engine empties the one before. From pageable memory the driver
// would do the same with one thread, and it need not have read the source when it returns where the GPU reads
// pageable memory itself.
class Staging {
 public:
  static constexpr size_t kPiece = size_t{16}
                                   << 20;  // long enough for full rate, short enough to overlap soon

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
  cudaError_t next_buffer(cudaStream_t stream);
  std::array<Buffer, 3> ring_;
  size_t current_ = 0;
  size_t filled_ = 0;  // bytes of the current buffer; small uploads share one
};

}  // namespace pare::cuda
