// formats/dialects/awq_order.h: the order of 4-bit codes in the words of AWQ (GEMM version); internal to
// formats.
//
// Bits 4n to 4n+3 of word c hold column 8c + kAwqOrder[n].
#pragma once

#include <array>

#include "engine/tensor/tensor.h"

namespace pare {

inline constexpr int kAwqPerWord = 8;
inline constexpr std::array<int, kAwqPerWord> kAwqOrder{0, 2, 4, 6, 1, 3, 5, 7};

// u8 [8 * columns, rows] from i32 [rows, columns]: one code per byte, transposed.
Result<Tensor> unpack_awq(const Tensor& words);
// The inverse: i32 [columns / 8, rows] turned, that is [rows, columns / 8], from u8 [columns, rows] with
// codes below 16.
Result<Tensor> pack_awq(const Tensor& codes);

}  // namespace pare
