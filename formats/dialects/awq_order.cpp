#include "formats/dialects/awq_order.h"

#include "engine/core/parallel.h"

namespace pare {
namespace {

constexpr int64_t kWordsPerItem = 16;  // of one row: a cache line

}  // namespace

Result<Tensor> unpack_awq(const Tensor& words) {
  const int64_t rows = words.size(0), columns = words.size(1);
  PARE_TRY(Tensor codes, Tensor::allocate(DType::u8, {columns * kAwqPerWord, rows}));
  const auto* from = words.data<uint32_t>();
  auto* to = codes.mutable_data<uint8_t>();
  parallel_ranges(columns, kWordsPerItem, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = begin; column < end; ++column) {
        const uint32_t word = from[row * columns + column];
        for (int n = 0; n < kAwqPerWord; ++n)
          to[(column * kAwqPerWord + kAwqOrder[size_t(n)]) * rows + row] = uint8_t((word >> (4 * n)) & 15u);
      }
    }
  });
  return codes;
}

Result<Tensor> pack_awq(const Tensor& codes) {
  const int64_t columns = codes.size(0) / kAwqPerWord, rows = codes.size(1);
  PARE_TRY(Tensor words, Tensor::allocate(DType::i32, {rows, columns}));
  const auto* from = codes.data<uint8_t>();
  auto* to = words.mutable_data<uint32_t>();
  parallel_ranges(columns, kWordsPerItem, [&](int64_t begin, int64_t end) {
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = begin; column < end; ++column) {
        uint32_t word = 0;
        for (int n = 0; n < kAwqPerWord; ++n)
          word |= uint32_t{from[(column * kAwqPerWord + kAwqOrder[size_t(n)]) * rows + row]} << (4 * n);
        to[row * columns + column] = word;
      }
    }
  });
  return words;
}

}  // namespace pare
