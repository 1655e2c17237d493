// prune/structured/step.h: chooses the units of one block after the other, each on what the blocks cut before
// it produce.
//
// Shapes stay while the model is walked: the columns that read a removed unit become zero, so that the model
// that runs is the one that SlicedSource cuts out afterwards. Which units stay is a note of each block.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "calibrate/block_job.h"
#include "prune/structured/structure.h"
#include "prune/structured/unit_gradients.h"
#include "prune/structured/units.h"

namespace pare {

struct StepOptions {
  // Sizes that are left; nothing: all stay.
  std::optional<int64_t> channels;
  std::optional<int64_t> kv_heads, queries_per_group;  // both or none
  UnitScore mlp_score = UnitScore::activation, head_score = UnitScore::activation;
  bool repair = false;
  bool match_original = false;  // repair towards what the original model's linears gave
  double damping = 0.01;
  // Scores that were measured on the whole model, for taylor and fisher.
  std::function<std::vector<double>(UnitSum kind, int block)> measured;
  bool has_data = true;  // false: scores by weight alone, nothing is collected
  // The model before its hidden size was cut: linears that read the residual stream are fitted again to what
  // they gave there. Names are the same.
  std::shared_ptr<const WeightSource> wide;
  std::vector<int64_t> hidden;  // kept dimensions of it
};

class StructuredStep final : public JobStep {
 public:
  StructuredStep(const ModelDescription& model, std::shared_ptr<const WeightSource> original,
                 StepOptions options);

  // Nothing inside experts is cut (check_structures()), so there is nothing to tell apart.
  bool takes_experts() const override { return true; }
  StatisticSet wanted(int block, Site site) const override;
  bool wants_cross_moment() const override;
  Status edit(BlockEdit& block, const std::map<Site, SiteStatistics>& survey) override;
  Status compress(BlockEdit& block, const StageInput& input) override;
  std::vector<TensorRecord> take_records() override { return {}; }
  Json take_note() override;

 private:
  bool cuts(int block, Site site) const;
  bool has_bias(int block, Site site) const;
  Status choose(BlockEdit& block, Site site, const SiteStatistics* statistics);
  Status shrink(BlockEdit& block, const StageInput& input);
  Status drop(BlockEdit& block, Site site);
  Status refit(BlockEdit& block, const StageInput& input);
  std::vector<int64_t> kept_columns(int block, Site site) const;
  Status put(BlockEdit& block, const TensorSpec& spec, const Tensor& weight, const Tensor& bias_change);
  Json& note_of(const TensorSpec& spec);

  const ModelDescription& model_;
  std::shared_ptr<const WeightSource> original_;
  StepOptions options_;
  BlockUnits units_;
  Json tensors_ = Json::object();
  Json scores_ = Json::object();
};

// Notes are {units: {channels, query_heads, kv_heads as bit masks}, scores, tensors: {name: numbers}}.
Result<BlockUnits> units_of_note(const Json& note, const BlockConfig& block, const std::string& path);

// Bit i of digit i / 4 tells whether unit i stays.
std::string mask_text(const std::vector<int64_t>& kept, int64_t count);
std::optional<std::vector<int64_t>> units_of_mask(std::string_view text, int64_t count);

}  // namespace pare
