// engine/tensor/sparse_walk.h: the slots of a sparse matrix row by row; internal to engine/tensor and the
// backends. The one place that knows where a kept weight lies.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "engine/tensor/sparse_tensor.h"

namespace pare {

// `bits` (1 to 8) bits from bit `position` on.
inline uint32_t read_bits(const uint8_t* bytes, int64_t position, int bits) {
  const int64_t byte = position >> 3;
  const int shift = int(position & 7);
  uint32_t word = bytes[byte];
  if (shift + bits > 8) word |= uint32_t{bytes[byte + 1]} << 8;
  return (word >> shift) & ((1u << bits) - 1);
}

// body(column) for every set bit of a row of `count` bits, rising.
template <typename Body>
void for_set_bits(const uint8_t* row, int64_t count, Body&& body) {
  for (int64_t byte = 0; byte * 8 < count; ++byte) {
    for (uint32_t bits = row[byte]; bits != 0; bits &= bits - 1) body(byte * 8 + std::countr_zero(bits));
  }
}

// body(column, slot) for every kept weight of row `row` of the matrix, columns rising. The tensor must be
// structurally sound (validate()).
template <typename Body>
void for_row_slots(const SparseTensor& tensor, int64_t row, Body&& body) {
  const int64_t in = tensor.in();
  switch (tensor.pattern.kind) {
    case SparsityPattern::Kind::unstructured: {
      int64_t slot = tensor.row_begin(row);
      const uint8_t* bits = tensor.mask.data<uint8_t>() + row * ((in + 7) / 8);
      for_set_bits(bits, in, [&](int64_t column) { body(column, slot++); });
      return;
    }
    case SparsityPattern::Kind::n_of_m: {
      const int64_t n = tensor.pattern.n, m = tensor.pattern.m;
      const int bits = index_bits(tensor.pattern.m);
      const int64_t kept = kept_per_row(tensor.pattern, in), full = in / m * n;
      const uint8_t* indices = tensor.indices.data<uint8_t>() + row * tensor.indices.size(1);
      const int64_t begin = tensor.row_begin(row);
      int64_t left = 0, in_group = 0;  // first column of the group, slots of it seen
      for (int64_t i = 0; i < kept; ++i) {
        body(left + int64_t{read_bits(indices, i * bits, bits)}, begin + i);
        if (i < full && ++in_group == n) left += m, in_group = 0;
      }
      return;
    }
    case SparsityPattern::Kind::block: {
      const int64_t height = tensor.pattern.block_rows, width = tensor.pattern.block_columns;
      const int64_t block_row = row / height, inner = row % height;
      const int64_t rows = std::min(height, tensor.out() - block_row * height);
      const int64_t blocks = (in + width - 1) / width;
      int64_t slot = tensor.row_begin(block_row);
      const uint8_t* bits = tensor.mask.data<uint8_t>() + block_row * ((blocks + 7) / 8);
      for_set_bits(bits, blocks, [&](int64_t block) {
        const int64_t left = block * width, columns = std::min(width, in - left);
        for (int64_t i = 0; i < columns; ++i) body(left + i, slot + inner * columns + i);
        slot += rows * columns;
      });
      return;
    }
  }
}

}  // namespace pare
