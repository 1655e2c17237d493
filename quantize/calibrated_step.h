// quantize/calibrated_step.h: the step that quantizes one block with the statistics of its inputs.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "calibrate/activation_range.h"
#include "calibrate/block_job.h"
#include "calibrate/hessian.h"
#include "engine/core/manifest.h"
#include "engine/tensor/activation_quant.h"
#include "quantize/awq.h"
#include "quantize/gptq.h"
#include "quantize/method_plan.h"

namespace pare {

struct CalibratedOptions {
  MethodPlan method;
  QuantizeOptions quantize;  // importance is set per linear
  HessianOptions hessian;
  GptqOptions gptq;
  AwqOptions awq;
  std::optional<double> smooth_alpha;  // unset: searched per site
  // Target the original model's outputs: corrects each weight for what the inputs lost in earlier blocks.
  bool match_original = false;
  double match_damping = 0.05;                       // of the correction, as a share of the mean diagonal
  std::optional<ActivationQuant::Mode> activations;  // of INT8 activations; unset: activations stay floats
  RangeOptions activation_range;                     // of static ones
  bool allow_fallback = false;
  int64_t repair_rank = 0;  // two factors of this rank beside each rounded matrix; 0: none
};

class CalibratedStep final : public JobStep {
 public:
  // schemes: per tensor of `model`, in its order; tensors outside blocks are ignored.
  CalibratedStep(const ModelDescription& model, std::vector<std::optional<QuantScheme>> schemes,
                 CalibratedOptions options);

  bool takes_experts() const override { return true; }
  bool takes_device_moments() const override { return !options_.match_original && options_.repair_rank == 0; }
  bool takes_device_surveys() const override { return true; }
  StatisticSet survey(int block, Site site) const override;
  Status edit(BlockEdit& block, const std::map<Site, SiteStatistics>& survey) override;
  StatisticSet wanted(int block, Site site) const override;
  bool wants_cross_moment() const override { return options_.match_original; }
  Status compress(BlockEdit& block, const StageInput& input) override;

  // Divides statistics of the original inputs by the scale that edit() folded into this site's producer; for
  // statistics that were collected before. Ranges and histograms of a scaled site cannot be adapted: exit 4.
  Status adapt(Site site, SiteStatistics& statistics) const override;

  std::vector<TensorRecord> take_records() override { return std::exchange(records_, {}); }

 private:
  std::optional<QuantScheme> scheme_of(const TensorSpec& spec) const;
  bool has_work(int block, Site site) const;
  Status scale_site(BlockEdit& block, Site site, const SiteStatistics& statistics);
  Status scale_by_awq(BlockEdit& block, Site site, const SiteStatistics& statistics);
  Status smooth(BlockEdit& block, Site site, const SiteStatistics& statistics);
  void note_where(Json& note, const Tensor& moment, const std::string& host_reason);
  Result<std::optional<ActivationQuant>> activation_quant(const StageInput& input);
  bool is_starved(const StageInput& input) const;
  Status quantize_linear(BlockEdit& block, const TensorSpec& spec, const StageInput& input,
                         const HessianFactor* factor, const HessianFactor* match_factor,
                         const std::vector<float>& importance,
                         const std::optional<ActivationQuant>& activation);

  const ModelDescription& model_;
  std::map<std::string, QuantScheme, std::less<>> schemes_;  // by tensor
  CalibratedOptions options_;
  std::map<Site, Json> scale_notes_;                // of the current block
  std::map<Site, std::vector<float>> site_scales_;  // of the current block
  std::set<std::string> host_reasons_;              // that were told
  std::vector<TensorRecord> records_;
};

}  // namespace pare
