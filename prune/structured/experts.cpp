#include "prune/structured/experts.h"

#include <fmt/core.h>

#include <cmath>
#include <utility>

#include "engine/core/parallel.h"
#include "prune/structured/select.h"

namespace pare {
namespace {

std::vector<ExpertScores> empty_scores(const ModelConfig& config, bool has_tokens) {
  std::vector<ExpertScores> layers;
  for (const BlockConfig& block : config.blocks) {
    ExpertScores layer;
    layer.scores.assign(size_t(block.experts), 0.0);
    if (has_tokens) layer.tokens.assign(size_t(block.experts), 0);
    layers.push_back(std::move(layer));
  }
  return layers;
}

double squared_norm(std::span<const float> values) {
  double sum = 0.0;
  for (const float value : values) sum += double(value) * double(value);
  return sum;
}

Result<std::vector<ExpertScores>> weight_scores(const WeightSource& source, const ModelDescription& model) {
  std::vector<ExpertScores> layers = empty_scores(model.config, false);
  for (const TensorSpec& spec : model.tensors) {
    const bool is_router = spec.role == Role::router;
    if (spec.expert < 0 && !is_router) continue;
    PARE_TRY(const WeightData data, source.load(spec.name));
    PARE_TRY(const Tensor values, converted(data.dense(), DType::f32));
    std::vector<double>& scores = layers[size_t(spec.block)].scores;
    const std::span<const float> all(values.data<float>(), size_t(values.numel()));
    if (is_router) {
      const size_t columns = size_t(values.size(1));
      for (size_t e = 0; e < scores.size(); ++e) scores[e] += squared_norm(all.subspan(e * columns, columns));
    } else {
      scores[size_t(spec.expert)] += squared_norm(all);
    }
    source.release(spec.name);
  }
  for (ExpertScores& layer : layers)
    for (double& score : layer.scores) score = std::sqrt(score);
  return layers;
}

// Sum over the rows, in their order, of share * |row|.
double weighted_norms(std::span<const float> shares, const Tensor& outputs) {
  const int64_t columns = outputs.size(1);
  std::vector<double> norms(shares.size());
  parallel_ranges(outputs.size(0), 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      norms[size_t(row)] =
          std::sqrt(squared_norm({outputs.data<float>() + row * outputs.row_stride(), size_t(columns)}));
  });
  double sum = 0.0;
  for (size_t row = 0; row < norms.size(); ++row) sum += double(shares[row]) * norms[row];
  return sum;
}

Result<std::vector<ExpertScores>> activation_scores(std::shared_ptr<const WeightSource> source,
                                                    const ModelDescription& model, CalibrationWindows windows,
                                                    PipelineOptions options) {
  const std::string path = source->path();
  const auto edited = std::make_shared<EditedSource>(source);
  PARE_TRY(const auto pipeline,
           BlockPipeline::create(edited, std::move(source), std::move(windows), std::move(options)));
  PARE_CHECK(pipeline->embed());
  std::vector<ExpertScores> layers = empty_scores(model.config, true);
  for (int block = 0; block < pipeline->block_count(); ++block) {
    ExpertScores& layer = layers[size_t(block)];
    PARE_CHECK(pipeline->pass_experts(block, [&](const BlockPipeline::ExpertOutputs& seen) -> Status {
      layer.scores[size_t(seen.expert)] += weighted_norms(seen.shares, seen.outputs);
      layer.tokens[size_t(seen.expert)] += int64_t(seen.shares.size());
      return {};
    }));
    for (size_t e = 0; e < layer.scores.size(); ++e) {
      if (!std::isfinite(layer.scores[e]))
        return Error{.exit = Exit::numeric,
                     .rule = "NU06",
                     .path = path,
                     .where = fmt::format("block {} expert {}", block, e),
                     .what = "outputs are not finite"};
      if (layer.tokens[e] > 0) layer.scores[e] /= double(layer.tokens[e]);
    }
  }
  return layers;
}

template <typename T>
Json list_of(const std::vector<T>& values) {
  Json list = Json::array();
  for (const T value : values) list.push_back(Json(value));
  return list;
}

}  // namespace

Result<std::vector<ExpertScores>> score_experts(std::shared_ptr<const WeightSource> source,
                                                const ModelDescription& model, UnitScore score,
                                                CalibrationWindows windows, PipelineOptions options) {
  if (score == UnitScore::weight) return weight_scores(*source, model);
  if (score == UnitScore::activation)
    return activation_scores(std::move(source), model, std::move(windows), std::move(options));
  return Error{.exit = Exit::unsupported,
               .rule = {},
               .path = "--importance",
               .where = "experts",
               .what = "not a score of experts",
               .got = std::string(unit_score_name(score)),
               .limit = "activation, weight",
               .limit_label = "expected"};
}

std::vector<std::vector<int64_t>> keep_experts(const std::vector<ExpertScores>& scores, int64_t keep) {
  std::vector<std::vector<int64_t>> kept;
  for (const ExpertScores& layer : scores)
    kept.push_back(layer.scores.empty() ? std::vector<int64_t>() : best_units(layer.scores, keep));
  return kept;
}

Json expert_summary(const std::vector<ExpertScores>& scores) {
  Json layers = Json::array();
  for (const ExpertScores& layer : scores) {
    Json json = Json::object();
    json["scores"] = list_of(layer.scores);
    if (!layer.tokens.empty()) {
      json["tokens"] = list_of(layer.tokens);
      Json unused = Json::array();
      for (size_t e = 0; e < layer.tokens.size(); ++e)
        if (layer.tokens[e] == 0) unused.push_back(Json(int64_t(e)));
      json["unused"] = std::move(unused);
    }
    layers.push_back(std::move(json));
  }
  return layers;
}

}  // namespace pare
