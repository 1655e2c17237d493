#include "engine/backends/cuda/prefetcher.h"

#include <signal.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <system_error>
#include <utility>

#include "engine/backends/cuda/memory_pool.h"
#include "engine/core/file.h"

namespace pare::cuda {

// One range. The main thread makes and ends items; while one is being read it is the thread's.
struct Prefetcher::Item {
  enum class State { waiting, reading, ready, given_up };

  explicit Item(HostRange named) : range(std::move(named)) {}
  ~Item() {
    if (arrived != nullptr) cudaEventDestroy(arrived);
  }
  Item(const Item&) = delete;
  Item& operator=(const Item&) = delete;

  const HostRange range;
  std::shared_ptr<void> block;  // of the device; null: the pages are read ahead, no more
  cudaEvent_t arrived = nullptr;
  State state = State::waiting;
  size_t served = 0;  // bytes
};

Prefetcher::Prefetcher(int index, cudaStream_t stream, MemoryPool& pool)
    : index_(index), stream_(stream), pool_(pool) {}

Prefetcher::~Prefetcher() {
  forget();
  if (thread_.joinable()) {
    {
      const std::lock_guard lock(mutex_);
      stops_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  if (copies_ != nullptr) cudaStreamSynchronize(copies_);
  for (Buffer& buffer : buffers_) {
    if (buffer.emptied != nullptr) cudaEventDestroy(buffer.emptied);
    if (buffer.pinned != nullptr) cudaFreeHost(buffer.pinned);
  }
  if (order_ != nullptr) cudaEventDestroy(order_);
  if (copies_ != nullptr) cudaStreamDestroy(copies_);
}

// Keeps the first failure, to be told at the next take_failure().
bool Prefetcher::succeeds(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return true;
  cudaGetLastError();
  const std::lock_guard lock(mutex_);
  if (failure_.status == cudaSuccess) failure_ = {status, call};
  return false;
}

Prefetcher::Failure Prefetcher::take_failure() {
  const std::lock_guard lock(mutex_);
  return std::exchange(failure_, {});
}

bool Prefetcher::open() {
  if (thread_.joinable()) return true;
  if (!succeeds(cudaSetDevice(index_), "prefetch")) return false;  // another one may have been opened since
  if (copies_ == nullptr &&
      !succeeds(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "prefetch")) {
    copies_ = nullptr;
    return false;
  }
  if (order_ == nullptr && !succeeds(cudaEventCreateWithFlags(&order_, cudaEventDisableTiming), "prefetch")) {
    order_ = nullptr;
    return false;
  }
  // The thread inherits this mask: signals of the user arrive at the main thread, faults where they happen.
  sigset_t blocked, before;
  ::sigfillset(&blocked);
  for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) ::sigdelset(&blocked, fault);
  ::pthread_sigmask(SIG_SETMASK, &blocked, &before);
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error&) {
    // Without a thread nothing is prefetched.
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread_.joinable();
}

void Prefetcher::start(std::span<const HostRange> ranges) {
  forget();
  if (ranges.empty() || !open()) return;
  std::vector<std::unique_ptr<Item>> items;
  bool has_room = true;
  uint64_t taken = 0;
  for (const HostRange& range : ranges) {
    if (range.bytes.empty()) continue;
    items.push_back(std::make_unique<Item>(range));
    Item& item = *items.back();
    if (!range.is_uploaded || !has_room) continue;
    item.block = pool_.try_allocate(range.bytes.size());
    has_room = item.block != nullptr;
    if (!has_room) continue;
    if (!succeeds(cudaEventCreateWithFlags(&item.arrived, cudaEventDisableTiming), "prefetch")) {
      item.arrived = nullptr;
      return;
    }
    ++taken;
  }
  // The blocks may have belonged to operations that are still under way.
  if (taken > 0 && (!succeeds(cudaEventRecord(order_, stream_), "prefetch") ||
                    !succeeds(cudaStreamWaitEvent(copies_, order_, 0), "prefetch")))
    return;
  const std::lock_guard lock(mutex_);
  items_ = std::move(items);
  use_.ranges += taken;
  changed_.notify_all();
}

bool Prefetcher::forget() {
  std::vector<std::unique_ptr<Item>> dropped;
  {
    std::unique_lock lock(mutex_);
    if (items_.empty()) return false;
    cancels_ = true;
    changed_.wait(lock, [this] { return !is_reading(); });
    cancels_ = false;
    dropped.swap(items_);
  }
  const bool holds =
      std::any_of(dropped.begin(), dropped.end(), [](const auto& item) { return item->block != nullptr; });
  // Nothing more is asked of the copies now; the blocks are freed behind them.
  if (holds && succeeds(cudaEventRecord(order_, copies_), "prefetch"))
    succeeds(cudaStreamWaitEvent(stream_, order_, 0), "prefetch");
  return holds;
}

bool Prefetcher::serve(void* to, const void* from, size_t bytes) {
  std::unique_lock lock(mutex_);
  Item* const item = find(from, bytes);
  if (item == nullptr) return false;
  if (item->state == Item::State::waiting) {
    drop(item);  // no copy was asked: its block is the main stream's alone
    return false;
  }
  changed_.wait(lock, [item] { return item->state != Item::State::reading; });
  if (item->state != Item::State::ready) return false;
  lock.unlock();
  const auto offset = static_cast<const std::byte*>(from) - item->range.bytes.data();
  const auto* source = static_cast<const std::byte*>(item->block.get()) + offset;
  if (!succeeds(cudaStreamWaitEvent(stream_, item->arrived, 0), "upload")) return false;
  if (!succeeds(cudaMemcpyAsync(to, source, bytes, cudaMemcpyDeviceToDevice, stream_), "upload"))
    return false;
  lock.lock();
  ++use_.served_uploads;
  use_.served_bytes += bytes;
  item->served += bytes;
  if (item->served >= item->range.bytes.size()) drop(item);  // freed behind the copy
  return true;
}

void Prefetcher::settle() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !is_reading() && next_waiting() == nullptr; });
}

PrefetchUse Prefetcher::use() const {
  const std::lock_guard lock(mutex_);
  return use_;
}

Prefetcher::Item* Prefetcher::next_waiting() {
  for (const auto& item : items_)
    if (item->state == Item::State::waiting) return item.get();
  return nullptr;
}

Prefetcher::Item* Prefetcher::find(const void* from, size_t bytes) {
  const auto* first = static_cast<const std::byte*>(from);
  const std::less_equal<const std::byte*> is_before;
  for (const auto& item : items_) {
    const auto range = item->range.bytes;
    if (item->block != nullptr && is_before(range.data(), first) &&
        is_before(first, range.data() + range.size()) && bytes <= size_t(range.data() + range.size() - first))
      return item.get();
  }
  return nullptr;
}

bool Prefetcher::is_reading() const {
  return std::any_of(items_.begin(), items_.end(),
                     [](const auto& item) { return item->state == Item::State::reading; });
}

void Prefetcher::drop(Item* item) {
  std::erase_if(items_, [item](const auto& other) { return other.get() == item; });
}

void Prefetcher::run() {
  succeeds(cudaSetDevice(index_), "prefetch");  // else all that follows fails, and gives up
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stops_ || (!cancels_ && next_waiting() != nullptr); });
    if (stops_) return;
    Item& item = *next_waiting();
    item.state = Item::State::reading;
    lock.unlock();
    const bool has_arrived = read(item);
    lock.lock();
    item.state = has_arrived ? Item::State::ready : Item::State::given_up;
    changed_.notify_all();
  }
}

bool Prefetcher::open_buffers() {
  for (Buffer& buffer : buffers_) {
    if (buffer.pinned == nullptr &&
        cudaHostAlloc(&buffer.pinned, kPiece, cudaHostAllocDefault) != cudaSuccess) {
      cudaGetLastError();
      buffer.pinned = nullptr;
      return false;
    }
    // The thread sleeps while it waits: the cores are for who computes.
    constexpr unsigned kFlags = cudaEventDisableTiming | cudaEventBlockingSync;
    if (buffer.emptied == nullptr &&
        !succeeds(cudaEventCreateWithFlags(&buffer.emptied, kFlags), "prefetch")) {
      buffer.emptied = nullptr;
      return false;
    }
  }
  return true;
}

bool Prefetcher::read(const Item& item) {
  const std::span<const std::byte> bytes = item.range.bytes;
  read_ahead(bytes);
  if (item.block == nullptr || !open_buffers()) return false;
  auto* const to = static_cast<std::byte*>(item.block.get());
  for (size_t begin = 0; begin < bytes.size(); begin += kPiece) {
    {
      const std::lock_guard lock(mutex_);
      if (cancels_) return false;
    }
    const size_t count = std::min(kPiece, bytes.size() - begin);
    Buffer& buffer = buffers_[next_buffer_];
    if (buffer.in_use && !succeeds(cudaEventSynchronize(buffer.emptied), "prefetch")) return false;
    std::memcpy(buffer.pinned, bytes.data() + begin, count);
    if (!succeeds(cudaMemcpyAsync(to + begin, buffer.pinned, count, cudaMemcpyHostToDevice, copies_),
                  "prefetch"))
      return false;
    buffer.in_use = true;
    next_buffer_ = (next_buffer_ + 1) % buffers_.size();
    if (!succeeds(cudaEventRecord(buffer.emptied, copies_), "prefetch")) return false;
  }
  return succeeds(cudaEventRecord(item.arrived, copies_), "prefetch");
}

}  // namespace pare::cuda
