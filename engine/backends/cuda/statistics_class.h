// engine/backends/cuda/statistics_class.h: statistics and solvers of calibration on a GPU.
#pragma once

#include "engine/backends/cuda/columns_class.h"
#include "engine/backends/cuda/context.h"
#include "engine/backends/cuda/scales_class.h"
#include "engine/tensor/statistics_backend.h"

namespace pare::cuda {

class CudaStatistics final : public StatisticsBackend {
 public:
  explicit CudaStatistics(Context& context)
      : context_(context), columns_(context), scales_(context, columns_) {}

  size_t second_moment_workspace_bytes(int64_t tokens, int64_t channels) const override;  // second_moment.cu
  void second_moment(const SecondMomentArgs& a) override;
  void mirror_moment(const MirrorMomentArgs& a) override;
  size_t cross_moment_workspace_bytes(int64_t tokens, int64_t rows, int64_t columns) const override;
  void cross_moment(const CrossMomentArgs& a) override;
  void column_statistics(const ColumnStatisticsArgs& a) override;  // column_statistics.cu
  Result<MomentSummary> summarize_moment(const float* moment, int64_t n,
                                         double slack) override;  // factors.cu
  Result<InverseFactorReport> inverse_factor(const InverseFactorArgs& a) override;
  Result<bool> divide_by_symmetric(const DivideBySymmetricArgs& a) override;

  ColumnSolver* columns() override { return &columns_; }
  ScaleSearch* scales() override { return &scales_; }

 private:
  Context& context_;
  CudaColumnSolver columns_;
  CudaScaleSearch scales_;
};

}  // namespace pare::cuda
