// formats/gguf/tensor_type.h: the element types of GGUF tensors: ids, names, block sizes; internal to
// formats.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "engine/tensor/block_codes.h"
#include "engine/tensor/dtype.h"

namespace pare {

// Types that pare reads. The values are those of the file.
enum class GgufType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  bf16 = 30,
};

struct GgufTypeInfo {
  GgufType type;
  std::string_view name;    // "Q4_K"
  uint64_t block_elements;  // 1 for plain types
  uint64_t block_bytes;
  std::optional<DType> dtype;         // of plain types
  std::optional<BlockScheme> blocks;  // of the others
};

std::span<const GgufTypeInfo> gguf_types();
const GgufTypeInfo& gguf_type_info(GgufType type);
// nullptr when pare does not read the type.
const GgufTypeInfo* find_gguf_type(uint32_t id);
const GgufTypeInfo* find_gguf_type(std::string_view name);
// Name of a type that exists, or existed, but is not read here; empty when the id never meant anything.
std::string_view unread_gguf_type(uint32_t id);

}  // namespace pare
