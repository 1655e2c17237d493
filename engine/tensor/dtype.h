// engine/tensor/dtype.h: element types of tensors, with the names and widths of safetensors.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace pare {

enum class DType : uint8_t {
  // in ascending order of alignment, the reference order of safetensors headers
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64,
};

int dtype_bits(DType dtype);  // 4, 6, 8, 16, 32 or 64
inline int64_t dtype_bytes(DType dtype) {
  return dtype_bits(dtype) / 8;
}  // 0 for sub-byte types
std::string_view dtype_name(DType dtype);                       // "BF16", as in safetensors
std::optional<DType> dtype_from_name(std::string_view name);    // by safetensors name
std::optional<DType> dtype_from_config(std::string_view name);  // "bfloat16", "float16", "float32"
bool is_floating(DType dtype);                                  // every F* and BF16
// Floating types that models may be stored in and that convert exactly to float: f32, bf16, f16, f8_e4m3,
// f8_e5m2.
bool is_weight_dtype(DType dtype);
// Distance from 1 to the next value; floating types only.
double dtype_epsilon(DType dtype);

}  // namespace pare
