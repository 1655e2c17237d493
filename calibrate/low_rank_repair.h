// calibrate/low_rank_repair.h: two thin factors beside a pruned or rounded matrix that give back most of what
// its output lost.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "engine/core/manifest.h"
#include "engine/models/weight_source.h"

namespace pare {

struct RepairedWeight {
  std::shared_ptr<const LowRankTensor> tensor;   // the compressed weight is its base
  double error_before = 0.0, error_after = 0.0;  // relative output error; of the weights without a moment
  bool is_weighted = false;                      // by a moment
  uint64_t factor_bytes = 0;

  // Writes both errors, rank and bytes into an entry, whose kind becomes low_rank and whose errors those of
  // the repaired weight.
  void describe(TensorRecord& record) const;
  double relative_error = 0.0, max_error = 0.0;  // of the weights
};

// The best factors of rank `rank` (at most min(out, in)) of what `compressed` lost against `weight`, in 16
// bits: f16 for `stored` f16, else bf16. weight: f32 [out, in]; moment: f32 [in, in] or undefined;
// compressed: any form but low-rank, dense ones [out, in]. Nothing when the output does not get better.
// Errors as output_components() and factors_of().
Result<std::optional<RepairedWeight>> repair_low_rank(const Tensor& weight, const WeightData& compressed,
                                                      const Tensor& moment, int64_t rank, DType stored,
                                                      std::string_view name);

}  // namespace pare
