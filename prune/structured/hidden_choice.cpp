#include "prune/structured/hidden_choice.h"

#include <fmt/core.h>

#include <cmath>

#include "calibrate/observer.h"
#include "calibrate/second_moment.h"
#include "engine/core/assert.h"
#include "engine/tensor/ops.h"
#include "prune/structured/importance.h"

namespace pare {
namespace {

bool is_gain(Role role) {
  return role == Role::input_norm || role == Role::post_attention_norm || role == Role::final_norm;
}

Result<Tensor> floats(const WeightSource& source, const TensorSpec& spec) {
  PARE_TRY(const WeightData data, source.load(spec.name));
  PARE_TRY(Tensor values, converted(data.dense(), DType::f32));
  source.release(spec.name);
  return values;
}

class HiddenScorer {
 public:
  HiddenScorer(const BlockJob& job, UnitScore score, double damping)
      : job_(job), score_(score), damping_(damping) {
    result_.scores.assign(size_t(job.model.config.hidden_size), 0.0);
    wanted_ = statistics_for(score);
    wanted_.add(Statistic::square);
  }

  StatisticSet wanted() const { return wanted_; }

  // One site whose inputs are the outputs of the norm `gain`.
  Status add(const SiteStatistics& statistics, const TensorSpec& gain_spec,
             std::vector<const TensorSpec*> linears, const std::string& where) {
    std::vector<Tensor> consumers;
    if (score_ == UnitScore::obs || score_ == UnitScore::weighted) {
      for (const TensorSpec* spec : linears) {
        PARE_TRY(Tensor weight, floats(*job_.source, *spec));
        if (spec->transposed) {
          PARE_TRY(weight, transposed(weight));
        }
        consumers.push_back(std::move(weight));
      }
    }
    PARE_TRY(const auto scores, unit_scores(score_, statistics, consumers, 1, damping_, where));
    for (size_t i = 0; i < scores.size(); ++i) {
      if (!std::isfinite(scores[i]))
        return Error{.exit = Exit::numeric,
                     .rule = "NU14",
                     .path = job_.source->path(),
                     .where = where,
                     .what = "score of a dimension is not finite"};
      result_.scores[i] += scores[i];
    }
    // Outputs are n * gain; a dimension with gain 0 says nothing about n and counts with its share of the
    // rest.
    PARE_TRY(const Tensor gain, floats(*job_.source, gain_spec));
    const double shift = job_.model.config.norm == ModelConfig::Norm::rms_plus_one ? 1.0 : 0.0;
    std::vector<double> energy(scores.size(), 0.0);
    for (size_t i = 0; i < energy.size(); ++i) {
      const double factor = double(gain.data<float>()[i]) + shift;
      energy[i] = factor == 0.0 ? double(statistics.tokens) : statistics.square_sum[i] / (factor * factor);
    }
    result_.energy.push_back(std::move(energy));
    result_.tokens = statistics.tokens;
    return {};
  }

  HiddenScores take() { return std::move(result_); }

 private:
  const BlockJob& job_;
  UnitScore score_;
  double damping_;
  StatisticSet wanted_;
  HiddenScores result_;
};

std::vector<const TensorSpec*> linears_at(const ModelDescription& model, int block, Site site) {
  std::vector<const TensorSpec*> found;
  for (const TensorSpec& spec : model.tensors)
    if (spec.block == block && spec.is_linear && spec.site == site) found.push_back(&spec);
  return found;
}

// The last norm, from the states that leave the last block.
Result<SiteStatistics> final_site(const BlockJob& job, BlockPipeline& pipeline, StatisticSet wanted) {
  const ModelConfig& config = job.model.config;
  const int end = int(config.block_count());
  SiteStatistics statistics = start_site(wanted, config.hidden_size);
  if (wanted.has(Statistic::second_moment)) {
    PARE_TRY(statistics.second_moment,
             Tensor::allocate(DType::f32, {config.hidden_size, config.hidden_size}));
  }
  PARE_TRY(const Tensor gain, floats(*job.source, *job.model.find(Role::final_norm, end)));
  PARE_ASSERT(config.norm != ModelConfig::Norm::layer, "[structured] hidden size under {}", "LayerNorm");
  PARE_TRY(Workspace workspace,
           Workspace::reserve(second_moment_workspace_bytes(kMomentTokens, config.hidden_size, Device::cpu()),
                              Device::cpu()));
  for (int64_t chunk = 0; chunk < pipeline.state_chunks(); ++chunk) {
    PARE_TRY(const Tensor state, pipeline.state_chunk(chunk));
    PARE_TRY(Tensor normed, Tensor::allocate(DType::f32, state.shape()));
    ops::rms_norm(state, gain, float(config.norm_eps), config.norm == ModelConfig::Norm::rms_plus_one,
                  normed);
    auto seen = observe(statistics, wanted, normed, job.windows.context);
    if (!seen) {
      seen.error().path = job.source->path();
      seen.error().where = "final norm " + seen.error().where;
      return seen.error();
    }
    for (int64_t begin = 0; wanted.has(Statistic::second_moment) && begin < normed.size(0);
         begin += kMomentTokens)
      add_second_moment(normed.rows(begin, std::min(normed.size(0), begin + kMomentTokens)),
                        statistics.second_moment, workspace);
  }
  if (wanted.has(Statistic::second_moment)) finish_second_moment(statistics.second_moment);
  return statistics;
}

}  // namespace

Result<HiddenScores> score_hidden(const BlockJob& job, UnitScore score, double damping,
                                  PipelineOptions options) {
  const ModelDescription& model = job.model;
  if (score == UnitScore::influence || score == UnitScore::loss)
    return Error{.exit = Exit::unsupported,
                 .rule = {},
                 .path = "--importance",
                 .where = "hidden",
                 .what = "not a score of dimensions",
                 .got = std::string(unit_score_name(score))};
  if (score == UnitScore::weight) {
    HiddenScores result;
    PARE_TRY(result.scores, squared_norms(*job.source, model, -1, UnitKind::hidden));
    for (double& value : result.scores) value = std::sqrt(value);
    return result;
  }
  const int blocks = int(model.config.block_count());
  HiddenScorer scorer(job, score, damping);
  std::unique_ptr<BlockPipeline> pipeline;
  if (!job.saved_statistics) {
    const auto edited = std::make_shared<EditedSource>(job.source);
    PARE_TRY(pipeline, BlockPipeline::create(edited, job.source, job.windows, std::move(options)));
    PARE_CHECK(pipeline->embed());
  }
  for (int block = 0; block < blocks; ++block) {
    std::map<Site, SiteStatistics> statistics;
    if (pipeline != nullptr) {
      const auto wanted = [&](Site site) {
        return site == Site::attention_in || site == Site::mlp_in ? scorer.wanted() : StatisticSet();
      };
      PARE_CHECK(pipeline->observe_block(block, wanted, statistics));
    }
    for (const Site site : {Site::attention_in, Site::mlp_in}) {
      if (pipeline == nullptr) {
        PARE_TRY(statistics[site], job.saved_statistics(block, site, scorer.wanted()));
      }
      const Role gain = site == Site::attention_in ? Role::input_norm : Role::post_attention_norm;
      PARE_CHECK(scorer.add(statistics[site], *model.find(gain, block), linears_at(model, block, site),
                            fmt::format("block {} {}", block, site_name(site))));
    }
  }
  // Scores by outgoing columns leave the last norm out: its consumer, the head, is as large as the
  // vocabulary.
  if (pipeline != nullptr && (score == UnitScore::activation || score == UnitScore::eigen)) {
    PARE_TRY(const SiteStatistics statistics, final_site(job, *pipeline, scorer.wanted()));
    PARE_CHECK(scorer.add(statistics, *model.find(Role::final_norm, blocks), {}, "final norm"));
  }
  return scorer.take();
}

std::vector<double> norm_corrections(const HiddenScores& hidden, const std::vector<int64_t>& kept) {
  std::vector<double> factors;
  for (const std::vector<double>& energy : hidden.energy) {
    double all = 0.0, left = 0.0;
    for (const double value : energy) all += value;
    for (const int64_t dimension : kept) left += energy[size_t(dimension)];
    const double share = all > 0.0 ? (left / double(kept.size())) / (all / double(energy.size())) : 1.0;
    factors.push_back(share > 0.0 ? std::sqrt(share) : 1.0);
  }
  return factors;
}

Status scale_norms(EditedSource& source, const ModelDescription& model, const std::vector<double>& factors) {
  size_t next = 0;
  for (const TensorSpec& spec : model.tensors) {
    if (!is_gain(spec.role) || next >= factors.size()) continue;
    PARE_TRY(const WeightData data, source.load(spec.name));
    PARE_TRY(Tensor values, converted(data.dense(), DType::f32));
    const bool plus_one = model.config.norm == ModelConfig::Norm::rms_plus_one;
    for (int64_t i = 0; i < values.numel(); ++i) {
      float& gain = values.mutable_data<float>()[i];
      gain =
          plus_one ? float((1.0 + double(gain)) * factors[next] - 1.0) : float(double(gain) * factors[next]);
    }
    PARE_TRY(Tensor stored, converted(values, data.dense().dtype()));
    source.set(spec.name, WeightData{.form = std::move(stored)});
    ++next;
  }
  return {};
}

}  // namespace pare
