// engine/tensor/storage.h: bytes with one lifetime, owned or mapped.
#pragma once

#include <cstddef>
#include <memory>

#include "engine/core/result.h"
#include "engine/tensor/device.h"

namespace pare {

class Storage {
 public:
  // Zero-filled memory aligned to 64 bytes; exit 6 when there is none. That of a GPU comes from its backend.
  static Result<std::shared_ptr<Storage>> allocate(size_t bytes, Device device);
  // Read-only bytes that stay valid as long as `owner` (a mapped file).
  static std::shared_ptr<Storage> borrow(const void* data, size_t bytes, std::shared_ptr<const void> owner,
                                         Device device);
  // Memory that `owner` frees; for backends with memory of their own.
  static std::shared_ptr<Storage> adopt(void* data, size_t bytes, std::shared_ptr<void> owner, Device device);

  // Where host memory comes from, from now on: the C library's, or pinned memory, so that a GPU may read tensors of
  // the host. allocate() gives null when there is none; both null: the C library again.
  static void set_host_memory(void* (*allocate)(size_t bytes), void (*free)(void* block));

  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  const std::byte* data() const { return data_; }
  std::byte* mutable_data();  // asserts that the storage is not read-only
  size_t size_bytes() const { return size_bytes_; }
  bool is_read_only() const { return read_only_; }
  Device device() const { return device_; }

 private:
  Storage() = default;
  std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
  bool read_only_ = false;
  Device device_;
  std::shared_ptr<const void> owner_;
};

}  // namespace pare
