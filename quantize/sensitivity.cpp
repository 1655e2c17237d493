#include "quantize/sensitivity.h"

#include <fmt/core.h>

#include <algorithm>

#include "calibrate/divergence_probe.h"
#include "calibrate/input_check.h"
#include "calibrate/output_error.h"
#include "quantize/quantizer.h"

namespace pare {
namespace {

// Squared output error of plain rounding with the range that the inputs favour.
Result<double> candidate_error(const Tensor& weight, const QuantScheme& scheme, const Tensor& moment,
                               std::span<const float> importance, const std::string& name) {
  PARE_TRY(const QuantizeMethod* rtn, find_quantize_method("rtn"));
  QuantizeOptions options;
  options.clip_search = scheme.bits < 8;
  options.clip.power = 2.0;
  options.clip.steps = 30;  // enough to rank formats
  options.importance = importance;
  options.clamp_scales = true;
  PARE_TRY(const QuantizeOutput rounded, rtn->quantize(weight, scheme, options, name));
  PARE_TRY(Tensor difference, rounded.tensor.dequantize());
  float* d = difference.mutable_data<float>();
  const float* w = weight.data<float>();
  for (int64_t i = 0; i < difference.numel(); ++i) d[i] = w[i] - d[i];
  return output_energy(difference, moment);
}

// Walks the original model and measures the errors of all candidates at each site; changes nothing.
class ErrorStep final : public Step {
 public:
  ErrorStep(const std::function<bool(const TensorSpec&)>& selected, const SensitivityOptions& options)
      : selected_(selected), options_(options) {}

  bool takes_experts() const override { return true; }
  StatisticSet wanted(int, Site) const override { return {Statistic::second_moment}; }

  Status compress(BlockEdit& block, const StageInput& input) override {
    UnitSensitivity unit;
    unit.name = fmt::format("block {} {}", block.index(), site_text(input.site, input.expert));
    unit.choices.name = unit.name;
    unit.choices.choices.resize(options_.candidates.size() + 1);
    std::vector<float> importance;
    const Tensor& moment = input.statistics.second_moment;
    for (int64_t j = 0; j < moment.size(0); ++j)
      importance.push_back(moment.data<float>()[j * moment.size(0) + j]);
    double energy = 0.0;
    for (const TensorSpec* spec : block.linears(input.site, input.expert)) {
      if (!selected_(*spec)) continue;
      unit.tensors.push_back(spec->name);
      PARE_TRY(const Tensor weight, block.values(*spec));
      PARE_TRY(const double own_energy, output_energy(weight, moment));
      energy += own_energy;
      for (size_t i = 0; i < options_.candidates.size(); ++i) {
        AllocationChoice& choice = unit.choices.choices[i];
        choice.scheme = options_.candidates[i];
        choice.bytes += options_.candidates[i].stored_bytes(spec->out(), spec->in());
        PARE_TRY(const double error,
                 candidate_error(weight, options_.candidates[i], moment, importance, spec->name));
        choice.cost += error;
      }
      unit.choices.choices.back().bytes += block.source().find(spec->name)->bytes;
    }
    if (unit.tensors.empty()) return {};
    // Without tokens nothing would seem to matter, and the expert would get the fewest bits.
    if (input.expert >= 0 && input.statistics.tokens < kStarvedTokens)
      return Error{
          .exit = Exit::numeric,
          .rule = "NU10",
          .path = block.source().path(),
          .where = unit.name,
          .what = "too few tokens chose this expert to tell how many bits it needs; give more --samples",
          .got = fmt::format("{} tokens", input.statistics.tokens),
          .limit = fmt::format("at least {}", kStarvedTokens)};
    for (AllocationChoice& choice : unit.choices.choices) choice.cost /= energy > 0.0 ? energy : 1.0;
    units_.push_back(std::move(unit));
    return {};
  }

  std::vector<UnitSensitivity>& units() { return units_; }

 private:
  const std::function<bool(const TensorSpec&)>& selected_;
  const SensitivityOptions& options_;
  std::vector<UnitSensitivity> units_;
};

Status scale_by_divergence(std::shared_ptr<const WeightSource> source, const CalibrationWindows& windows,
                           const SensitivityOptions& options, const PipelineOptions& pipeline,
                           std::vector<UnitSensitivity>& units) {
  const bool on_host = pipeline.device.is_host();
  PARE_TRY(const auto probe,
           DivergenceProbe::create(source, windows, options.probe_windows, options.probe_rows,
                                   on_host ? options.memory_limit : pipeline.device_limit, pipeline.device));
  PARE_TRY(const ModelDescription model, describe_model(*source));
  const auto place = std::find(options.candidates.begin(), options.candidates.end(), options.probe);
  PARE_ASSERT(place != options.candidates.end(), "[sensitivity] the probe {} is no candidate",
              options.probe.text());
  const size_t index = size_t(place - options.candidates.begin());
  PARE_TRY(const QuantizeMethod* rtn, find_quantize_method("rtn"));
  const auto round = [&](const TensorSpec& spec, const Tensor& weight) -> Result<WeightData> {
    QuantizeOptions rounding;
    rounding.clip_search = true;
    rounding.clip.power = 2.0;
    rounding.clamp_scales = true;  // a probe; what is written is rounded later
    PARE_TRY(QuantizeOutput rounded, rtn->quantize(weight, options.probe, rounding, spec.name));
    return WeightData{.form = std::make_shared<const QuantizedTensor>(std::move(rounded.tensor))};
  };
  for (UnitSensitivity& unit : units) {
    std::vector<const TensorSpec*> linears;
    for (const std::string& name : unit.tensors) linears.push_back(model.find(name));
    PARE_TRY(unit.divergence, probe->divergence(linears.front()->block, linears, round));
    const double error = unit.choices.choices[index].cost;
    const double factor = error > 0.0 ? unit.divergence / error : 0.0;
    for (AllocationChoice& choice : unit.choices.choices) choice.cost *= factor;
    PARE_CHECK(pipeline.advance(windows.context));
  }
  return {};
}

}  // namespace

std::vector<QuantScheme> candidate_schemes(const QuantScheme& like, int64_t shortest_row) {
  std::vector<QuantScheme> schemes;
  for (const int bits : {2, 3, 4, 5, 6}) {
    for (const int64_t group : {128, 64, 32}) {
      if (group > shortest_row) continue;
      QuantScheme scheme;
      scheme.bits = bits;
      scheme.granularity = QuantScheme::Granularity::group;
      scheme.group_size = group;
      scheme.offset = like.offset;
      scheme.range = QuantScheme::Range::full;
      scheme.scale_dtype = like.scale_dtype;
      if (!scheme.is_symmetric()) scheme.range = QuantScheme().range;
      schemes.push_back(scheme);
    }
  }
  QuantScheme eight;
  eight.scale_dtype = like.scale_dtype;
  schemes.push_back(eight);
  return schemes;
}

Result<std::vector<UnitSensitivity>> measure_sensitivity(
    std::shared_ptr<const WeightSource> source, const CalibrationWindows& windows,
    const std::function<bool(const TensorSpec&)>& selected, const SensitivityOptions& options,
    const PipelineOptions& pipeline_options) {
  PARE_TRY(const ModelDescription model, describe_model(*source));
  PARE_CHECK(check_inputs(*source, model, {}));
  ErrorStep step(selected, options);
  {
    const auto edited = std::make_shared<EditedSource>(source);
    PARE_TRY(const auto pipeline, BlockPipeline::create(edited, source, windows, pipeline_options));
    PARE_CHECK(pipeline->embed());
    for (int block = 0; block < pipeline->block_count(); ++block)
      PARE_CHECK(pipeline->run_block(block, step));
  }
  std::vector<UnitSensitivity> units = std::move(step.units());
  if (options.measure_divergence)
    PARE_CHECK(scale_by_divergence(source, windows, options, pipeline_options, units));
  return units;
}

std::map<std::string, std::optional<QuantScheme>> chosen_schemes(const std::vector<UnitSensitivity>& units,
                                                                 const Allocation& allocation) {
  std::map<std::string, std::optional<QuantScheme>> schemes;
  for (size_t i = 0; i < units.size(); ++i)
    for (const std::string& tensor : units[i].tensors)
      schemes[tensor] = units[i].choices.choices[allocation.choice[i]].scheme;
  return schemes;
}

}  // namespace pare
