#include "engine/tensor/storage.h"

#include <cstdint>
#include <cstdlib>

#include <fmt/core.h>

#include "engine/core/assert.h"
#include "engine/tensor/backend.h"

namespace pare {

Storage::~Storage() = default;

Result<std::shared_ptr<Storage>> Storage::allocate(size_t bytes, Device device) {
  if (!device.is_host()) {
    Backend& backend = backend_for(device);
    PARE_TRY(std::shared_ptr<Storage> storage, backend.allocate(bytes));
    backend.zero(storage->mutable_data(), bytes);
    return storage;
  }
  constexpr size_t kAlignment = 64;
  // calloc instead of an aligned allocation: large blocks come as untouched zero pages, so reserving memory
  // that is never used costs nothing.
  void* block = bytes > SIZE_MAX - kAlignment ? nullptr : std::calloc(bytes + kAlignment, 1);
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
  std::shared_ptr<void> owner(block, [](void* pointer) { std::free(pointer); });
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
