// budget_ranks(): spectra of all matrices, before any of them is changed.
#include <algorithm>
#include <array>
#include <utility>

#include "calibrate/rank_choice.h"
#include "engine/core/text.h"
#include "prune/low_rank_step.h"

namespace pare {
namespace {

constexpr std::array kSites = {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out};

// Looks at the linears of each site and changes nothing.
class SpectrumStep final : public Step {
 public:
  SpectrumStep(const WeightSource& source, const ModelDescription& model, const std::vector<bool>& chosen,
               uint64_t seed)
      : source_(source), model_(model), chosen_(chosen), seed_(seed) {}

  StatisticSet wanted(int block, Site site) const override {
    for (size_t i = 0; i < chosen_.size(); ++i)
      if (chosen_[i] && model_.tensors[i].block == block && model_.tensors[i].site == site)
        return {Statistic::second_moment};
    return {};
  }
  bool takes_experts() const override { return true; }
  Status compress(BlockEdit& block, const StageInput& input) override {
    return look(block.index(), input.site, input.expert, input.statistics);
  }

  // The linears of one site; expert -1: of all experts.
  Status look(int block, Site site, int expert, const SiteStatistics& statistics) {
    const bool is_starved = expert >= 0 && statistics.tokens < kStarvedTokens;
    for (size_t i = 0; i < chosen_.size(); ++i) {
      const TensorSpec& spec = model_.tensors[i];
      if (!chosen_[i] || spec.block != block || spec.site != site || (expert >= 0 && spec.expert != expert))
        continue;
      PARE_TRY(const Tensor weight, float_values(source_, spec));
      ComponentOptions options;
      options.seed = seed_;
      auto components =
          output_components(weight, is_starved ? Tensor() : statistics.second_moment, options, spec.name);
      if (!components) {
        Error error = components.error();
        if (error.path.empty()) error.path = source_.path();
        return error;
      }
      names_.push_back(spec.name);
      candidates_.push_back({.out = spec.out(),
                             .in = spec.in(),
                             .spectrum = std::move(components->spectrum),
                             .energy = components->energy,
                             .largest_rank = largest_saving_rank(spec, *source_.find(spec.name))});
    }
    return {};
  }

  Result<RankTable> ranks(double share) const {
    PARE_TRY(const auto chosen, ranks_by_budget(candidates_, share));
    RankTable table;
    for (size_t i = 0; i < names_.size(); ++i) table[names_[i]] = chosen[i];
    return table;
  }

 private:
  const WeightSource& source_;
  const ModelDescription& model_;
  const std::vector<bool>& chosen_;
  uint64_t seed_;
  std::vector<std::string> names_;
  std::vector<RankCandidate> candidates_;
};

}  // namespace

Result<RankTable> budget_ranks(const BlockJob& job, const std::vector<bool>& chosen,
                               const LowRankOptions& options, const std::string& spill_folder) {
  PARE_ASSERT(options.rule.kind == RankRule::Kind::budget, "[low_rank] {}", options.rule.text());
  SpectrumStep step(*job.source, job.model, chosen, options.seed);
  const int blocks = int(job.model.config.block_count());
  if (options.is_weighted && !job.saved_statistics) {
    PipelineOptions pipeline_options;
    pipeline_options.memory_limit = job.memory_limit;
    pipeline_options.device = job.device;
    pipeline_options.device_limit = job.device_limit;
    pipeline_options.spill_folder = spill_folder;
    pipeline_options.advance = job.advance;
    const auto edited = std::make_shared<EditedSource>(job.source);
    PARE_TRY(const auto pipeline,
             BlockPipeline::create(edited, job.source, job.windows, std::move(pipeline_options)));
    PARE_CHECK(pipeline->embed());
    for (int block = 0; block < blocks; ++block) PARE_CHECK(pipeline->run_block(block, step));
  } else {
    for (int block = 0; block < blocks; ++block) {
      for (const Site site : kSites) {
        const StatisticSet wanted = step.wanted(block, site);
        if (wanted.empty()) continue;
        SiteStatistics statistics;
        if (options.is_weighted) {
          PARE_TRY(statistics, job.saved_statistics(block, site, wanted));
        }
        PARE_CHECK(step.look(block, site, -1, statistics));
        PARE_CHECK(job.advance(0));
      }
    }
  }
  return step.ranks(options.rule.value);
}

}  // namespace pare
