#include "formats/dialects/words.h"

#include <algorithm>
#include <cstring>

#include "engine/core/parallel.h"

namespace pare {

int64_t stream_words(int64_t count, int bits, WordOrder order) {
  if (order == WordOrder::dense) return (count * bits + 31) / 32;
  const int64_t per_word = 32 / bits;
  return (count + per_word - 1) / per_word;
}

void unpack_stream(const uint32_t* words, int64_t word_stride, int64_t count, int bits, WordOrder order,
                   uint8_t* codes, int64_t code_stride) {
  const uint32_t mask = (1u << bits) - 1;
  const int64_t per_word = 32 / bits;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t word = order == WordOrder::dense ? k * bits / 32 : k / per_word;
    const int64_t shift = order == WordOrder::dense ? k * bits % 32 : k % per_word * bits;
    uint64_t pair = words[word * word_stride];
    if (shift + bits > 32) pair |= uint64_t{words[(word + 1) * word_stride]} << 32;
    codes[k * code_stride] = uint8_t((pair >> shift) & mask);
  }
}

void pack_stream(const uint8_t* codes, int64_t code_stride, int64_t count, int bits, uint32_t* words,
                 int64_t word_stride) {
  uint64_t pending = 0;
  int used = 0;
  int64_t word = 0;
  for (int64_t k = 0; k < count; ++k) {
    pending |= uint64_t{codes[k * code_stride]} << used;
    used += bits;
    if (used < 32) continue;
    words[word++ * word_stride] = uint32_t(pending);
    pending >>= 32;
    used -= 32;
  }
  if (used > 0) words[word * word_stride] = uint32_t(pending);
}

Tensor as_bytes(const Tensor& tensor, int64_t rows) {
  const auto bytes = static_cast<int64_t>(tensor.size_bytes());
  const auto offset = static_cast<size_t>(tensor.raw() - tensor.storage()->data());
  return {tensor.storage(), offset, DType::u8, {rows, rows == 0 ? 0 : bytes / rows}};
}

Result<Tensor> as_words(const Tensor& bytes) {
  const int64_t rows = bytes.size(0), words = bytes.size(1) / 4;
  PARE_ASSERT(bytes.size(1) % 4 == 0, "[words] rows of {} bytes", bytes.size(1));
  if (reinterpret_cast<uintptr_t>(bytes.raw()) % alignof(uint32_t) == 0) {
    const auto offset = static_cast<size_t>(bytes.raw() - bytes.storage()->data());
    return Tensor(bytes.storage(), offset, DType::i32, {rows, words});
  }
  PARE_TRY(Tensor copy, Tensor::allocate(DType::i32, {rows, words}));
  std::memcpy(copy.mutable_raw(), bytes.raw(), bytes.size_bytes());
  return copy;
}

Result<Tensor> canonical_rows(const Tensor& words, int64_t in, int bits) {
  const int64_t rows = words.size(0), row_bytes = (in * bits + 7) / 8;
  Tensor bytes = as_bytes(words, rows);
  if (in * bits % 32 == 0) return bytes;
  PARE_TRY(Tensor codes, Tensor::allocate(DType::u8, {rows, row_bytes}));
  const int used_bits = int(in * bits % 8);
  for (int64_t row = 0; row < rows; ++row) {
    uint8_t* to = codes.mutable_data<uint8_t>() + row * row_bytes;
    std::memcpy(to, bytes.data<uint8_t>() + row * bytes.size(1), size_t(row_bytes));
    if (used_bits != 0) to[row_bytes - 1] = uint8_t(to[row_bytes - 1] & ((1 << used_bits) - 1));
  }
  return codes;
}

Result<Tensor> transposed_words(const Tensor& matrix) {
  const int64_t rows = matrix.size(0), columns = matrix.size(1);
  PARE_TRY(Tensor result, Tensor::allocate(DType::i32, {columns, rows}));
  const uint32_t* from = matrix.data<uint32_t>();
  uint32_t* to = result.mutable_data<uint32_t>();
  constexpr int64_t kTile = 16;  // words of a cache line
  parallel_ranges(columns, kTile, [&](int64_t begin, int64_t end) {
    for (int64_t top = 0; top < rows; top += kTile) {
      const int64_t bottom = std::min(rows, top + kTile);
      for (int64_t column = begin; column < end; ++column) {
        for (int64_t row = top; row < bottom; ++row) to[column * rows + row] = from[row * columns + column];
      }
    }
  });
  return result;
}

}  // namespace pare
