#include "engine/tensor/dtype.h"

#include <array>

#include "engine/core/assert.h"

namespace pare {
namespace {

struct DTypeRow {
  DType dtype;
  std::string_view name;
  int bits;
  int fraction_bits;  // explicit mantissa bits of floating types, else -1
};

// Widths from the safetensors format description; order as in the enum.
constexpr std::array kRows{
    DTypeRow{DType::boolean, "BOOL", 8, -1},
    DTypeRow{DType::f4, "F4", 4, 1},
    DTypeRow{DType::f6_e2m3, "F6_E2M3", 6, 3},
    DTypeRow{DType::f6_e3m2, "F6_E3M2", 6, 2},
    DTypeRow{DType::u8, "U8", 8, -1},
    DTypeRow{DType::i8, "I8", 8, -1},
    DTypeRow{DType::f8_e5m2, "F8_E5M2", 8, 2},
    DTypeRow{DType::f8_e4m3, "F8_E4M3", 8, 3},
    DTypeRow{DType::f8_e8m0, "F8_E8M0", 8, 0},
    DTypeRow{DType::f8_e4m3fnuz, "F8_E4M3FNUZ", 8, 3},
    DTypeRow{DType::f8_e5m2fnuz, "F8_E5M2FNUZ", 8, 2},
    DTypeRow{DType::i16, "I16", 16, -1},
    DTypeRow{DType::u16, "U16", 16, -1},
    DTypeRow{DType::f16, "F16", 16, 10},
    DTypeRow{DType::bf16, "BF16", 16, 7},
    DTypeRow{DType::i32, "I32", 32, -1},
    DTypeRow{DType::u32, "U32", 32, -1},
    DTypeRow{DType::f32, "F32", 32, 23},
    DTypeRow{DType::c64, "C64", 64, -1},
    DTypeRow{DType::f64, "F64", 64, 52},
    DTypeRow{DType::i64, "I64", 64, -1},
    DTypeRow{DType::u64, "U64", 64, -1},
};

const DTypeRow& row_of(DType dtype) {
  const auto index = static_cast<size_t>(dtype);
  PARE_ASSERT(index < kRows.size() && kRows[index].dtype == dtype, "[dtype] unknown value {}", index);
  return kRows[index];
}

}  // namespace

int dtype_bits(DType dtype) {
  return row_of(dtype).bits;
}
std::string_view dtype_name(DType dtype) {
  return row_of(dtype).name;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const DTypeRow& row : kRows) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

std::optional<DType> dtype_from_config(std::string_view name) {
  if (name == "bfloat16") return DType::bf16;
  if (name == "float16") return DType::f16;
  if (name == "float32") return DType::f32;
  return std::nullopt;
}

bool is_floating(DType dtype) {
  return row_of(dtype).fraction_bits >= 0;
}

bool is_weight_dtype(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16 || dtype == DType::f8_e4m3 ||
         dtype == DType::f8_e5m2;
}

double dtype_epsilon(DType dtype) {
  const int fraction_bits = row_of(dtype).fraction_bits;
  PARE_ASSERT(fraction_bits >= 0, "[dtype] {} has no epsilon", dtype_name(dtype));
  return 1.0 / static_cast<double>(int64_t{1} << fraction_bits);
}

}  // namespace pare
