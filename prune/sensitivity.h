// prune/sensitivity.h: what each part of a model loses at each sparsity, and how many outliers it has; for
// allocation.h. Both walk the original model over the calibration data.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "calibrate/block_pipeline.h"
#include "prune/allocation.h"
#include "prune/target.h"

namespace pare {

// Per tensor of a model, in its order; nothing where there is no target.
using SparsityList = std::vector<std::optional<PruneTarget>>;

struct OwlOptions {
  double threshold = 5.0;  // an outlier's score is above that many times the mean of its block
  double lambda = 0.08;    // half the width of the range of sparsities
};
// OWL over blocks, by the scores |W| ||x||. Targets with a pattern that fixes how many weights stay are
// refused by the caller.
Result<SparsityList> owl_targets(std::shared_ptr<const WeightSource> source, const ModelDescription& model,
                                 const CalibrationWindows& windows, const SparsityList& targets,
                                 Sparsity sparsity, const OwlOptions& options, PipelineOptions pipeline);

struct MeasuredOptions {
  // Sparsities that each part is tried at, rising, besides none; empty: four around the wanted one.
  std::vector<double> levels{};
  int64_t probe_windows = 2;
  int64_t probe_rows = 384;  // positions whose divergence is measured
  uint64_t memory_limit = 0;
};
// By the KL divergence of the model's output when one site of one block is pruned (Wanda's choice) to each
// level, the others whole. The unit is a site: linears that share an input share a sparsity.
Result<SparsityList> measured_targets(std::shared_ptr<const WeightSource> source,
                                      const ModelDescription& model, const CalibrationWindows& windows,
                                      const SparsityList& targets, Sparsity sparsity,
                                      const MeasuredOptions& options, PipelineOptions pipeline);

}  // namespace pare
