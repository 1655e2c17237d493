// formats/gguf/cursor.h: reading numbers and strings off a span, never past its end; internal to formats.
#pragma once

#include <cstring>
#include <optional>
#include <span>
#include <string_view>

namespace pare {

class GgufCursor {
 public:
  explicit GgufCursor(std::span<const std::byte> bytes) : bytes_(bytes) {}

  size_t position() const { return position_; }
  size_t remaining() const { return bytes_.size() - position_; }

  // Nothing when too few bytes remain; the position then stays.
  template <typename T>
  std::optional<T> number() {
    if (remaining() < sizeof(T)) return std::nullopt;
    T value;
    std::memcpy(&value, bytes_.data() + position_, sizeof value);
    position_ += sizeof value;
    return value;
  }
  std::optional<std::span<const std::byte>> take(uint64_t count) {
    if (count > remaining()) return std::nullopt;
    const auto taken = bytes_.subspan(position_, static_cast<size_t>(count));
    position_ += static_cast<size_t>(count);
    return taken;
  }

 private:
  std::span<const std::byte> bytes_;
  size_t position_ = 0;
};

inline std::string_view gguf_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace pare
