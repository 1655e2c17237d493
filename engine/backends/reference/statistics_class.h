// engine/backends/reference/statistics_class.h: statistics and solvers of calibration, scalar and in double:
// the definition that every other backend is compared with.
#pragma once

#include "engine/tensor/scale_search.h"
#include "engine/tensor/statistics_backend.h"

namespace pare::reference {

class ReferenceScaleSearch final : public ScaleSearch {
 public:
  // scale_search.cpp
  size_t workspace_bytes(int64_t, int64_t, int64_t) const override { return 0; }
  void losses(const ScaleLossesArgs& a) override;
};

class ReferenceStatistics final : public StatisticsBackend {
 public:
  // statistics.cpp
  size_t second_moment_workspace_bytes(int64_t, int64_t) const override { return 0; }
  void second_moment(const SecondMomentArgs& a) override;
  void mirror_moment(const MirrorMomentArgs& a) override;
  size_t cross_moment_workspace_bytes(int64_t, int64_t, int64_t) const override { return 0; }
  void cross_moment(const CrossMomentArgs& a) override;
  void column_statistics(const ColumnStatisticsArgs& a) override;
  Result<MomentSummary> summarize_moment(const float* moment, int64_t n, double slack) override;
  Result<InverseFactorReport> inverse_factor(const InverseFactorArgs& a) override;
  Result<bool> divide_by_symmetric(const DivideBySymmetricArgs& a) override;
  ScaleSearch* scales() override { return &scales_; }

 private:
  ReferenceScaleSearch scales_;
};

}  // namespace pare::reference
