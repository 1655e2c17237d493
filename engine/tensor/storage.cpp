#include "engine/tensor/storage.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include <fmt/core.h>

#include "engine/core/assert.h"
#include "engine/tensor/backend.h"

namespace pare {

namespace {

// Pinned memory is not zero and costs a call of the driver: only where it was asked for.
struct HostMemory {
  void* (*allocate)(size_t bytes) = nullptr;
  void (*free)(void* block) = nullptr;
};
HostMemory host_memory;

void* allocate_zeros(const HostMemory& memory, size_t bytes) {
  // calloc instead of an aligned allocation: large blocks come as untouched zero pages, so reserving memory
  // that is never used costs nothing.
  if (memory.allocate == nullptr) return std::calloc(bytes, 1);
  void* block = memory.allocate(bytes);
  if (block != nullptr) std::memset(block, 0, bytes);
  return block;
}

}  // namespace

Storage::~Storage() = default;

void Storage::set_host_memory(void* (*allocate)(size_t bytes), void (*free)(void* block)) {
  PARE_ASSERT((allocate == nullptr) == (free == nullptr), "[storage] half of a source of memory");
  host_memory = {allocate, free};
}

Result<std::shared_ptr<Storage>> Storage::allocate(size_t bytes, Device device) {
  if (!device.is_host()) {
    Backend& backend = backend_for(device);
    PARE_TRY(std::shared_ptr<Storage> storage, backend.allocate(bytes));
    backend.zero(storage->mutable_data(), bytes);
    return storage;
  }
  constexpr size_t kAlignment = 64;
  const HostMemory memory = host_memory;
  void* block = bytes > SIZE_MAX - kAlignment ? nullptr : allocate_zeros(memory, bytes + kAlignment);
  if (block == nullptr) {
    return Error{.exit = Exit::resource,
                 .rule = "RL01",
                 .path = device.name(),
                 .where = {},
                 .what = "out of memory",
                 .got = {},
                 .limit = fmt::format("{} bytes", bytes),
                 .limit_label = "need"};
  }
  std::shared_ptr<void> owner(block, [memory](void* pointer) {
    memory.free != nullptr ? memory.free(pointer) : std::free(pointer);
  });
  const auto address = reinterpret_cast<uintptr_t>(block);
  const size_t skipped = (kAlignment - address % kAlignment) % kAlignment;
  return adopt(static_cast<std::byte*>(block) + skipped, bytes, std::move(owner), device);
}

std::shared_ptr<Storage> Storage::borrow(const void* data, size_t bytes, std::shared_ptr<const void> owner,
                                         Device device) {
  std::shared_ptr<Storage> storage(new Storage);
  // written through only after the read_only_ check of mutable_data()
  storage->data_ = const_cast<std::byte*>(static_cast<const std::byte*>(data));
  storage->size_bytes_ = bytes;
  storage->read_only_ = true;
  storage->device_ = device;
  storage->owner_ = std::move(owner);
  return storage;
}

std::shared_ptr<Storage> Storage::adopt(void* data, size_t bytes, std::shared_ptr<void> owner,
                                        Device device) {
  std::shared_ptr<Storage> storage(new Storage);
  storage->data_ = static_cast<std::byte*>(data);
  storage->size_bytes_ = bytes;
  storage->device_ = device;
  storage->owner_ = std::move(owner);
  return storage;
}

std::byte* Storage::mutable_data() {
  PARE_ASSERT(!read_only_, "[storage] write to read-only bytes");
  return data_;
}

}  // namespace pare
