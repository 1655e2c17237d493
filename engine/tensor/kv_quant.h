// engine/tensor/kv_quant.h: keys and values of attention as codes, one grid per token and key/value head.
//
//   int8  symmetric: value = scale * (code - 128),  codes 1 .. 255,  scale = max|x| / 127
//   int4  asymmetric: value = scale * (code - zero), codes and zero 0 .. 15, scale = (max - min) / 15 with 0
//   in range
//
// Scales are f16 and rounded before the codes are computed. A head of zeros has scale 1; one with a NaN or an
// infinity has scale NaN. Keys are rounded after the rotation by position. Source: docs/methods.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "engine/tensor/tensor.h"

namespace pare {

inline constexpr int64_t kKvHeadDim = 512;  // largest head whose keys and values may be codes

struct KvQuant {
  enum class Kind : uint8_t { none, int8, int4 };  // none: f32
  Kind kind = Kind::none;

  bool operator==(const KvQuant&) const = default;
  bool is_none() const { return kind == Kind::none; }
  bool has_zeros() const { return kind == Kind::int4; }
  // Codes of one token and head; int4: byte i holds component i below and component i + ceil(d / 2) above.
  int64_t row_bytes(int64_t head_dim) const { return kind == Kind::int4 ? (head_dim + 1) / 2 : head_dim; }
  // Everything that is kept of one key or value of one token and head.
  uint64_t vector_bytes(int64_t head_dim) const;

  std::string_view name() const;  // "none", "int8", "int4"
  static std::optional<KvQuant> parse(std::string_view name);
};

// Rounded keys, or values, of a cache.
struct KvCodes {
  Tensor codes;   // u8 [sequences, kv_heads, capacity, row_bytes]
  Tensor scales;  // f16 [sequences, kv_heads, capacity]
  Tensor zeros;   // u8, the same; undefined for int8
};

// One key or value: x [head_dim] to codes [row_bytes], scale and (int4) zero.
void kv_encode(KvQuant quant, const float* x, int64_t head_dim, uint8_t* codes, uint16_t* scale,
               uint8_t* zero);
void kv_decode(KvQuant quant, const uint8_t* codes, uint16_t scale, uint8_t zero, int64_t head_dim, float* x);
// One component of it.
float kv_value(KvQuant quant, const uint8_t* codes, uint16_t scale, uint8_t zero, int64_t head_dim,
               int64_t d);

}  // namespace pare
