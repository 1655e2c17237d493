// engine/tensor/host_range.h: bytes in host memory that somebody will read soon.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace pare {

struct HostRange {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> keeper;  // while it is held, the bytes stay where and what they are
  // Backend::upload() will read them as they are. Otherwise the host makes something else of them first, and
  // only that they are in memory by then is of use.
  bool is_uploaded = true;
};

}  // namespace pare
