// prune/low_rank_step.h: the step that writes the linears of a block as products of two thin factors.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "calibrate/block_job.h"
#include "prune/rank_rule.h"

namespace pare {

using RankTable = std::map<std::string, std::optional<int64_t>, std::less<>>;  // none: stays dense

struct LowRankOptions {
  RankRule rule;
  // Weigh by the inputs that are seen; else by the weights alone, which needs no data.
  bool is_weighted = true;
  uint64_t seed = 0;
  // Plain factors where too few tokens chose an expert.
  bool allow_fallback = false;
};

class LowRankStep final : public JobStep {
 public:
  // chosen: per tensor of `model`; only linears inside blocks are looked at. ranks: of a budget, by tensor.
  LowRankStep(const ModelDescription& model, const std::vector<bool>& chosen, LowRankOptions options,
              RankTable ranks = {});

  StatisticSet wanted(int block, Site site) const override;
  // Without statistics everything happens here.
  Status edit(BlockEdit& block, const std::map<Site, SiteStatistics>& survey) override;
  Status compress(BlockEdit& block, const StageInput& input) override;
  bool takes_experts() const override { return true; }
  std::vector<TensorRecord> take_records() override { return std::exchange(records_, {}); }

 private:
  bool has_work(int block, Site site) const;
  Status factorize(BlockEdit& block, const TensorSpec& spec, const Tensor& moment, int64_t tokens,
                   const std::string& fallback);

  const ModelDescription& model_;
  std::map<std::string, bool, std::less<>> chosen_;
  LowRankOptions options_;
  RankTable ranks_;
  std::vector<TensorRecord> records_;
};

// Type of the factors of a tensor: that of its values where it is f32, bf16 or f16, else bf16.
DType factor_type(const StoredTensor& stored);
// The largest rank that makes a matrix smaller than it is stored now.
int64_t largest_saving_rank(const TensorSpec& spec, const StoredTensor& stored);

// The ranks that a budget gives: spectra of all chosen matrices from one walk over the unchanged model, or
// from the saved statistics of the job, or (not weighted) from the weights alone.
Result<RankTable> budget_ranks(const BlockJob& job, const std::vector<bool>& chosen,
                               const LowRankOptions& options, const std::string& spill_folder);

}  // namespace pare
