// prune/prune_step.h: the step that removes weights of one block with the statistics of its inputs.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "calibrate/block_job.h"
#include "calibrate/column_sweep.h"
#include "calibrate/hessian.h"
#include "prune/select.h"
#include "prune/sparsegpt.h"
#include "prune/target.h"

namespace pare {

enum class PruneMethod : uint8_t { magnitude, wanda, sparsegpt, taylor, fisher };
std::string_view prune_method_name(PruneMethod method);
// Scores come from gradients of the loss (gradient_scores.h).
bool uses_gradients(PruneMethod method);
// "obd" is another name of fisher. Exit 2 with the list.
Result<PruneMethod> parse_prune_method(std::string_view name);

struct PruneOptions {
  PruneMethod method = PruneMethod::wanda;
  Device device = Device::cpu();  // where weights are chosen by magnitude and wanda; the same masks everywhere
  Scope scope = Scope::row;
  HessianOptions hessian{.damping = 0.01, .max_retries = 5, .act_order = false};
  SparseGptOptions sparsegpt;
  // Of taylor and fisher: the scores of a matrix of the unchanged model; weight f32 [out, in].
  std::function<Result<Tensor>(const TensorSpec& spec, const Tensor& weight)> scores;
  // Weights that a cut over all matrices takes from each, by name; empty: what the targets say.
  std::map<std::string, int64_t, std::less<>> counts;
  // All statistics of a block from before its pruning, as the published code of Wanda and SparseGPT takes
  // them; else those of each site come from the pruned parts before it.
  bool whole_block = false;
  // Wanda and magnitude from channel norms alone: saved statistics may have nothing more. Output errors are
  // then not known.
  bool norms_only = false;
  bool allow_fallback = false;  // magnitude where the inputs say nothing
  bool allow_empty = false;     // matrices and heads may lose all weights
  // Rounds the survivors of sparsegpt in the same sweep; null: they stay floats.
  std::function<RounderFactory(const TensorSpec& spec)> rounder;
  // Two factors of this rank beside each pruned matrix, for what its output lost; 0: none. Then matrices take
  // their sparse form here, where that is smaller and `is_compact`.
  int64_t repair_rank = 0;
  bool is_compact = false;
};

class PruneStep final : public JobStep {
 public:
  // targets: per tensor of `model`, in its order; tensors outside blocks are ignored.
  PruneStep(const ModelDescription& model, std::vector<std::optional<PruneTarget>> targets,
            PruneOptions options);

  StatisticSet survey(int block, Site site) const override;
  Status edit(BlockEdit& block, const std::map<Site, SiteStatistics>& survey) override;
  StatisticSet wanted(int block, Site site) const override;
  Status compress(BlockEdit& block, const StageInput& input) override;
  bool takes_experts() const override { return true; }
  bool takes_device_moments() const override { return !options_.rounder && options_.repair_rank == 0; }
  std::vector<TensorRecord> take_records() override { return std::exchange(records_, {}); }

 private:
  const PruneTarget* target_of(const TensorSpec& spec) const;
  bool has_work(int block, Site site) const;
  Status prune_site(BlockEdit& block, const StageInput& input);
  Status prune_linear(BlockEdit& block, const TensorSpec& spec, const SiteStatistics& statistics,
                      const HessianFactor* factor, std::string fallback);
  // Of methods that only choose. `fallback`: why it is by magnitude, set where gradients say nothing.
  Result<Mask> chosen_mask(const BlockEdit& block, const TensorSpec& spec, const Tensor& weight,
                           const SiteStatistics& statistics, std::string& fallback) const;
  Status store(BlockEdit& block, const TensorSpec& spec, const Tensor& weight, const Tensor& moment,
               WeightData data, TensorRecord record);

  const ModelDescription& model_;
  std::map<std::string, PruneTarget, std::less<>> targets_;  // by tensor
  PruneOptions options_;
  std::vector<TensorRecord> records_;
};

// NU15: exit 7 when a matrix, or the rows or columns of a head, lose everything.
Status check_not_empty(const ModelDescription& model, const TensorSpec& spec, const Mask& mask,
                       const std::string& path);
Status check_not_empty(const ModelDescription& model, const TensorSpec& spec, const Tensor& weight,
                       const std::string& path);  // [out, in], f32, bf16 or f16

// How far the weights moved.
struct WeightChange {
  double relative_error = 0.0;  // ||W - What||_F / ||W||_F
  double max_error = 0.0;       // max |W - What|
};
WeightChange weight_change(const Tensor& weight, const Tensor& pruned);  // both f32, contiguous

// Manifest entry of a pruned matrix. kept: of the result.
TensorRecord pruned_record(const TensorSpec& spec, const PruneTarget& target, std::string_view method,
                           int64_t kept, const WeightChange& change);

}  // namespace pare
