// engine/tensor/selection_backend.h: choosing which weights go, on one device.
//
// The rules of backend.h hold here too: arguments arrive checked, nothing is empty, pointers belong to the
// device. The definition of each operation is the host's own code in prune/select.h, whose masks these give
// bit for bit: lowest scores first, equal ones by row, then by column. Scores are finite.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/tensor/dtype.h"

namespace pare {

// score[r, c] = |weight[r, c]|, times norms[c] where there are norms; in float
struct SelectionScores {
  const void* weight;  // [rows, columns], row stride `stride`
  DType dtype;         // f32, bf16 or f16
  const float* norms;  // [columns], >= 0, or null
  int64_t rows, columns, stride;
};

// The masks are those of mask.h: u8 [rows, ceil(columns / 8)], low bit first, 1 = kept, unused bits zero.

// Removes the `count` lowest of each row.
struct SelectRowsArgs {
  SelectionScores scores;
  int64_t count;
  uint8_t* mask;
};

// Removes the `count` lowest of the matrix.
struct SelectMatrixArgs {
  SelectionScores scores;
  int64_t count;
  uint8_t* mask;
  void* workspace;  // select_matrix_workspace_bytes(rows) bytes, 64-byte aligned
};

// Keeps the n highest of each m neighbours of a row; a last group of width w loses floor((m - n) w / m).
struct SelectNOfMArgs {
  SelectionScores scores;
  int n, m;  // 1 <= n < m <= 16
  uint8_t* mask;
  uint8_t* indices;  // 2:4 only, or null: as in SparseTensor, [rows, ceil(kept per row / 4)]
};

// Removes the `count` blocks of each row of blocks (balanced), or of the matrix, whose mean score is lowest.
struct SelectBlocksArgs {
  SelectionScores scores;
  int64_t block_rows, block_columns, count;
  bool is_balanced;
  uint8_t* mask;
  void* workspace;  // select_blocks_workspace_bytes(...) bytes, 64-byte aligned
};

// out = weight where kept, else +0; may alias
struct ApplyMaskArgs {
  const void* weight;  // [rows, columns]
  void* out;
  DType dtype;  // f32, bf16 or f16
  const uint8_t* mask;
  int64_t rows, columns, weight_stride, out_stride;
};

class SelectionBackend {
 public:
  virtual ~SelectionBackend() = default;

  virtual void select_rows(const SelectRowsArgs&) = 0;
  virtual size_t select_matrix_workspace_bytes(int64_t rows) const = 0;
  virtual void select_matrix(const SelectMatrixArgs&) = 0;
  virtual void select_n_of_m(const SelectNOfMArgs&) = 0;
  virtual size_t select_blocks_workspace_bytes(int64_t rows, int64_t columns, int64_t block_rows,
                                               int64_t block_columns) const = 0;
  virtual void select_blocks(const SelectBlocksArgs&) = 0;
  virtual void apply_mask(const ApplyMaskArgs&) = 0;
};

}  // namespace pare
