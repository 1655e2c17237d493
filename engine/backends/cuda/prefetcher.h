// engine/backends/cuda/prefetcher.h: weights of the next block on their way to the device while it computes.
//
// A thread of its own reads ranges of host memory (and takes the page faults of mapped files) into pinned
// buffers, a second stream brings them from there to memory of the pool. Everything of that memory goes by
// the order of the main stream: it is taken there before the copies begin, and freed after the main stream
// has been told to wait for them. Which bytes arrive by this way is a matter of time and room; the bytes are
// not.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <vector>

#include "engine/backends/cuda/cuda_backend.h"
#include "engine/tensor/host_range.h"

namespace pare::cuda {

class MemoryPool;

// Called from one thread, that of the backend.
class Prefetcher {
 public:
  static constexpr size_t kPiece = size_t{8}
                                   << 20;  // of one pinned buffer; two are filled and emptied in turn

  // `stream` is the main one.
  Prefetcher(int index, cudaStream_t stream, MemoryPool& pool);
  ~Prefetcher();  // waits for the thread, and for copies under way
  Prefetcher(const Prefetcher&) = delete;
  Prefetcher& operator=(const Prefetcher&) = delete;

  // Forgets what was asked before and begins with these, in their order, until the pool has no room left.
  void start(std::span<const HostRange> ranges);
  // Stops and gives all memory back; true when there was some.
  bool forget();
  // Copies on the device, in the order of the main stream, when the bytes lie in one range that is there or
  // about to be. A range that the thread has not come to is left to the caller, who is there already.
  bool serve(void* to, const void* from, size_t bytes);
  void settle();  // waits until the thread has nothing to do

  PrefetchUse use() const;
  struct Failure {
    cudaError_t status = cudaSuccess;
    const char* call = "";
  };
  Failure take_failure();  // the first since the last call

 private:
  struct Item;
  struct Buffer {
    void* pinned = nullptr;
    cudaEvent_t emptied = nullptr;
    bool in_use = false;
  };
  bool open();          // stream, event, thread
  bool open_buffers();  // by the thread; false: no pinned memory, nothing is prefetched
  void run();
  bool read(const Item& item);
  Item* next_waiting();  // these four hold the mutex
  Item* find(const void* from, size_t bytes);
  bool is_reading() const;
  void drop(Item* item);
  bool succeeds(cudaError_t status, const char* call);

  const int index_;
  const cudaStream_t stream_;
  MemoryPool& pool_;
  cudaStream_t copies_ = nullptr;
  cudaEvent_t order_ = nullptr;    // what one stream waits for on the other
  std::array<Buffer, 2> buffers_;  // the thread's
  size_t next_buffer_ = 0;
  std::thread thread_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Item>> items_;  // the thread touches none but the one that it reads
  bool cancels_ = false, stops_ = false;
  Failure failure_;
  PrefetchUse use_;
};

}  // namespace pare::cuda
