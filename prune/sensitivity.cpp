#include "prune/sensitivity.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <tuple>

#include "calibrate/divergence_probe.h"
#include "prune/scores.h"
#include "prune/select.h"

namespace pare {
namespace {

// Norms of the inputs of every site of the original model.
class NormStep final : public Step {
 public:
  StatisticSet wanted(int, Site) const override { return {Statistic::square}; }
  Status compress(BlockEdit& block, const StageInput& input) override {
    std::vector<float>& norms = norms_[{block.index(), input.site, input.expert}];
    for (const double sum : input.statistics.square_sum) norms.push_back(float(std::sqrt(sum)));
    return {};
  }
  bool takes_experts() const override { return true; }
  // Of the inputs of a linear.
  const std::vector<float>& norms(const TensorSpec& spec) const {
    return norms_.at({spec.block, spec.site, spec.site == Site::mlp_out ? spec.expert : -1});
  }

 private:
  std::map<std::tuple<int, Site, int>, std::vector<float>> norms_;  // block, site, expert
};

Result<NormStep> collect_norms(const std::shared_ptr<const WeightSource>& source,
                               const CalibrationWindows& windows, PipelineOptions options) {
  NormStep step;
  const auto edited = std::make_shared<EditedSource>(source);
  PARE_TRY(const auto pipeline, BlockPipeline::create(edited, source, windows, std::move(options)));
  PARE_CHECK(pipeline->embed());
  for (int block = 0; block < pipeline->block_count(); ++block) PARE_CHECK(pipeline->run_block(block, step));
  return step;
}

Result<Tensor> matrix_of(const WeightSource& source, const TensorSpec& spec) {
  PARE_TRY(const WeightData data, source.load(spec.name));
  PARE_TRY(Tensor weight, data.to_dense_tensor());
  PARE_TRY(weight, converted(weight, DType::f32));
  if (!spec.transposed) return weight;
  return transposed(weight);
}

// Every try is a walk through the rest of the model, so that there are few: below, at, and twice above.
std::vector<double> levels_around(double share) {
  std::vector<double> levels;
  for (const double step : {-0.2, 0.0, 0.15, 0.3}) {
    const double level = std::clamp(share + step, 0.0, kMostSparse);
    if (level > (levels.empty() ? 0.0 : levels.back())) levels.push_back(level);
  }
  return levels;
}

bool is_part(const TensorSpec& spec, const std::optional<PruneTarget>& target) {
  return target && spec.is_linear && spec.block >= 0;
}

}  // namespace

Result<SparsityList> owl_targets(std::shared_ptr<const WeightSource> source, const ModelDescription& model,
                                 const CalibrationWindows& windows, const SparsityList& targets,
                                 Sparsity sparsity, const OwlOptions& options, PipelineOptions pipeline) {
  PARE_TRY(const NormStep norms, collect_norms(source, windows, std::move(pipeline)));
  const int blocks = int(model.config.block_count());
  std::vector<double> ratios;
  std::vector<int64_t> weights;
  std::vector<int> places(size_t(blocks), -1);
  for (int block = 0; block < blocks; ++block) {
    OutlierCount count;
    double sum = 0.0;
    // Two walks over the block's matrices: the mean of all scores, then what is above it.
    for (const bool counts : {false, true}) {
      const double mean = count.weights > 0 ? sum / double(count.weights) : 0.0;
      for (size_t i = 0; i < model.tensors.size(); ++i) {
        const TensorSpec& spec = model.tensors[i];
        if (spec.block != block || !is_part(spec, targets[i])) continue;
        PARE_TRY(const Tensor weight, matrix_of(*source, spec));
        PARE_TRY(const Tensor scores, wanda_scores(weight, norms.norms(spec)));
        if (counts) {
          count.outliers += count_outliers(scores, options.threshold, mean).outliers;
        } else {
          sum += score_sum(scores);
          count.weights += scores.numel();
        }
      }
    }
    if (count.weights == 0) continue;
    places[size_t(block)] = int(ratios.size());
    ratios.push_back(count.share());
    weights.push_back(count.weights);
  }
  SparsityList result = targets;
  if (ratios.empty()) return result;
  const std::vector<double> plain = owl_allocation(ratios, sparsity.share(), options.lambda);
  const std::vector<double> shares = shifted_to(plain, weights, sparsity.share());
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    if (!is_part(model.tensors[i], targets[i])) continue;
    const int place = places[size_t(model.tensors[i].block)];
    if (result[i]->sparsity == sparsity) result[i]->sparsity = Sparsity::of(shares[size_t(place)]);
  }
  return result;
}

Result<SparsityList> measured_targets(std::shared_ptr<const WeightSource> source,
                                      const ModelDescription& model, const CalibrationWindows& windows,
                                      const SparsityList& targets, Sparsity sparsity,
                                      const MeasuredOptions& options, PipelineOptions pipeline) {
  const auto advance = pipeline.advance;
  const Device device = pipeline.device;
  const uint64_t limit = device.is_host() ? options.memory_limit : pipeline.device_limit;
  PARE_TRY(const NormStep norms, collect_norms(source, windows, std::move(pipeline)));
  PARE_TRY(const auto probe, DivergenceProbe::create(source, windows, options.probe_windows,
                                                     options.probe_rows, limit, device));
  struct Unit {
    int block;
    Site site;
    std::vector<size_t> tensors;
  };
  const std::vector<double> levels =
      options.levels.empty() ? levels_around(sparsity.share()) : options.levels;
  std::vector<Unit> units;
  std::vector<CostCurve> curves;
  for (int block = 0; block < int(model.config.block_count()); ++block) {
    for (const Site site : {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out}) {
      Unit unit{.block = block, .site = site, .tensors = {}};
      std::vector<const TensorSpec*> linears;
      CostCurve curve{.weights = 0, .sparsity = {0.0}, .cost = {0.0}};
      for (size_t i = 0; i < model.tensors.size(); ++i) {
        const TensorSpec& spec = model.tensors[i];
        if (spec.block != block || spec.site != site || !is_part(spec, targets[i])) continue;
        if (targets[i]->sparsity != sparsity) continue;  // given by hand
        unit.tensors.push_back(i);
        linears.push_back(&spec);
        curve.weights += spec.shape.numel();
      }
      if (linears.empty()) continue;
      for (const double level : levels) {
        const PruneTarget target{.pattern = targets[unit.tensors.front()]->pattern,
                                 .sparsity = Sparsity::of(level)};
        const auto prune = [&](const TensorSpec& spec, const Tensor& weight) -> Result<WeightData> {
          PARE_TRY(const Tensor scores, wanda_scores(weight, norms.norms(spec)));
          PARE_TRY(const Mask mask, select_weights(scores, target, Scope::row, spec.name));
          PARE_TRY(Tensor pruned, Tensor::allocate(DType::f32, weight.shape()));
          std::memcpy(pruned.mutable_raw(), weight.raw(), weight.size_bytes());
          mask.apply(pruned);
          return WeightData{.form = std::move(pruned)};
        };
        PARE_TRY(const double divergence, probe->divergence(block, linears, prune));
        curve.sparsity.push_back(level);
        curve.cost.push_back(divergence);
        PARE_CHECK(advance(windows.context));
      }
      units.push_back(std::move(unit));
      curves.push_back(std::move(curve));
    }
  }
  SparsityList result = targets;
  const std::vector<double> shares = cheapest_allocation(curves, sparsity.share());
  for (size_t i = 0; i < units.size(); ++i)
    for (const size_t tensor : units[i].tensors) result[tensor]->sparsity = Sparsity::of(shares[i]);
  return result;
}

}  // namespace pare
