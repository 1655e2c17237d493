// engine/backends/cuda/selection_class.h: choosing weights on a GPU. Nothing is sorted: a cut is found digit
// by digit of the scores' bits, by counting.
#pragma once

#include "engine/backends/cuda/context.h"
#include "engine/tensor/selection_backend.h"

namespace pare::cuda {

class CudaSelection final : public SelectionBackend {
 public:
  explicit CudaSelection(Context& context) : context_(context) {}

  void select_rows(const SelectRowsArgs& a) override;  // select_rows.cu
  size_t select_matrix_workspace_bytes(int64_t rows) const override;
  void select_matrix(const SelectMatrixArgs& a) override;  // select_matrix.cu
  void select_n_of_m(const SelectNOfMArgs& a) override;    // select_pattern.cu
  size_t select_blocks_workspace_bytes(int64_t rows, int64_t columns, int64_t block_rows,
                                       int64_t block_columns) const override;
  void select_blocks(const SelectBlocksArgs& a) override;
  void apply_mask(const ApplyMaskArgs& a) override;

 private:
  Context& context_;
};

}  // namespace pare::cuda
