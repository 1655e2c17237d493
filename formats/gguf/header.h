// formats/gguf/header.h: the header of a GGUF file as values: key-value pairs and tensor records; internal to
// formats. Values are views of the file's bytes; nothing is allocated from a number that the file declares.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"
#include "engine/tensor/shape.h"
#include "formats/gguf/tensor_type.h"

namespace pare {

inline constexpr std::string_view kGgufMagic = "GGUF";
inline constexpr uint32_t kGgufVersion = 3;
inline constexpr uint64_t kGgufAlignment = 32;  // when general.alignment is absent

enum class GgufValueType : uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64
};
inline constexpr uint32_t kGgufValueTypes = 13;
std::string_view gguf_value_type_name(GgufValueType type);
uint64_t gguf_scalar_bytes(GgufValueType type);  // 0 for strings and arrays

struct GgufPair {
  std::string key;
  GgufValueType type = GgufValueType::u8;
  GgufValueType element = GgufValueType::u8;  // of arrays
  uint64_t count = 1;                         // of arrays
  std::span<const std::byte> bytes;           // scalar, text of the string, or all elements
};

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::f32;
  Shape shape;          // outermost first: [out, in]; the file counts the other way round
  uint64_t offset = 0;  // from the start of the file
  uint64_t bytes = 0;
};

struct GgufHeader {
  uint64_t alignment = kGgufAlignment;
  uint64_t data_begin = 0;
  std::vector<GgufPair> pairs;
  std::vector<GgufTensor> tensors;

  const GgufPair* find(std::string_view key) const;
};

// Checks everything that can be checked without the tensors' values: rules GG01 to GG32. `file`: all bytes.
Result<GgufHeader> parse_gguf(std::span<const std::byte> file, std::string_view path);

}  // namespace pare
