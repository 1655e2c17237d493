// formats/tensor_name.h: which tensor names a file may use, and sizes computed from shapes; internal to
// formats.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "engine/core/checked.h"
#include "engine/core/limits.h"
#include "engine/tensor/dtype.h"

namespace pare {

// What is wrong with a name, or an empty text. Names end up in paths of other tools, in logs and on
// terminals.
inline std::string_view fault_of_tensor_name(std::string_view name) {
  if (name.empty()) return "empty tensor name";
  if (name.size() > limits::kTensorNameBytes) return "tensor name is too long";
  for (size_t i = 0; i < name.size(); ++i) {
    const auto byte = static_cast<unsigned char>(name[i]);
    if (byte < 0x20 || byte == 0x7f) return "tensor name with a control character";
    // U+0080 to U+009F, the second set of control characters, as UTF-8
    const bool last = i + 1 == name.size();
    if (byte == 0xc2 && !last && static_cast<unsigned char>(name[i + 1]) < 0xa0)
      return "tensor name with a control character";
  }
  if (name.find("../") != std::string_view::npos) return "tensor name that climbs folders";
  return {};
}

// Product of extents, each already below limits::kDimension; nothing when it overflows even though another
// extent is 0.
inline std::optional<uint64_t> checked_elements(std::span<const int64_t> extents) {
  Checked product = 1;
  bool has_zero = false;
  for (const int64_t extent : extents) {
    if (extent == 0)
      has_zero = true;
    else
      product *= static_cast<uint64_t>(extent);
  }
  if (!product.valid() || product.value() > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return has_zero ? 0 : product.value();
}

// Bits of that many elements; nothing when it overflows.
inline std::optional<uint64_t> checked_bits(uint64_t elements, DType dtype) {
  const Checked bits = Checked(elements) * static_cast<uint64_t>(dtype_bits(dtype));
  if (!bits.valid() || bits.value() > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
  return bits.value();
}

}  // namespace pare
