// engine/backends/cuda/columns_class.h: the column loops of GPTQ and SparseGPT on a GPU (column_*.cu,
// grid_fit.cu).
#pragma once

#include "engine/backends/cuda/context.h"
#include "engine/tensor/column_solver.h"

namespace pare::cuda {

class CudaColumnSolver final : public ColumnSolver {
 public:
  explicit CudaColumnSolver(Context& context) : context_(context) {}

  void fit_grids(const FitGridsArgs& a) override;  // grid_fit.cu
  void round_to_grids(const RoundToGridsArgs& a) override;
  void permute_columns(const PermuteColumnsArgs& a) override;
  void row_errors(const RowErrorsArgs& a) override;
  void count_magnitudes(const CountMagnitudesArgs& a) override;
  size_t choose_kept_workspace_bytes(int64_t rows) const override;  // column_choice.cu
  void choose_kept(const ChooseKeptArgs& a) override;
  void sweep_block(const SweepBlockArgs& a) override;  // column_sweep.cu
  void update_rest(const UpdateRestArgs& a) override;  // column_update.cu
  size_t output_energy_workspace_bytes(int64_t rows, int64_t columns) const override;
  void output_energy(const OutputEnergyArgs& a) override;

 private:
  Context& context_;
};

}  // namespace pare::cuda
