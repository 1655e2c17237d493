#include "prune/low_rank_step.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <utility>

#include "calibrate/output_error.h"
#include "calibrate/rank_choice.h"
#include "engine/core/text.h"
#include "prune/prune_step.h"

namespace pare {
namespace {

constexpr std::array kSites = {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out};

Error with_path(Error error, const WeightSource& source) {
  if (error.path.empty()) error.path = source.path();
  return error;
}

bool is_starved(const StageInput& input) {
  return input.expert >= 0 && input.statistics.tokens < kStarvedTokens;
}

ComponentOptions component_options(const LowRankOptions& options) {
  ComponentOptions components;
  components.seed = options.seed;
  if (options.rule.kind == RankRule::Kind::rank) components.rank = options.rule.rank;
  return components;
}

// Entry of a matrix that stays as it is.
TensorRecord kept_record(const TensorSpec& spec, const StoredTensor& stored, const char* method,
                         std::optional<int64_t> needed, int64_t most) {
  TensorRecord record = copied_record(stored);
  record.shape = {spec.out(), spec.in()};
  record.method_asked = method;
  if (needed) record.extra["rank_needed"] = Json(*needed);
  record.extra["largest_saving_rank"] = Json(most);
  record.extra["kept_dense"] = needed ? "factors of this rank would take more bytes" : "chosen by the budget";
  return record;
}

}  // namespace

DType factor_type(const StoredTensor& stored) {
  const DType dtype = stored.dtype;
  return dtype == DType::f32 || dtype == DType::f16 ? dtype : DType::bf16;
}

int64_t largest_saving_rank(const TensorSpec& spec, const StoredTensor& stored) {
  return largest_saving_rank(spec.out(), spec.in(), stored.bytes, dtype_bytes(factor_type(stored)));
}

LowRankStep::LowRankStep(const ModelDescription& model, const std::vector<bool>& chosen,
                         LowRankOptions options, RankTable ranks)
    : model_(model), options_(std::move(options)), ranks_(std::move(ranks)) {
  for (size_t i = 0; i < chosen.size(); ++i)
    if (chosen[i] && model_.tensors[i].is_linear) chosen_[model_.tensors[i].name] = true;
}

bool LowRankStep::has_work(int block, Site site) const {
  for (const TensorSpec& spec : model_.tensors)
    if (spec.block == block && spec.site == site && chosen_.count(spec.name) > 0) return true;
  return false;
}

StatisticSet LowRankStep::wanted(int block, Site site) const {
  if (!options_.is_weighted || !has_work(block, site)) return {};
  return {Statistic::second_moment};
}

Status LowRankStep::edit(BlockEdit& block, const std::map<Site, SiteStatistics>&) {
  if (options_.is_weighted) return {};
  for (const Site site : kSites)
    for (const TensorSpec* spec : block.linears(site))
      if (chosen_.count(spec->name) > 0) PARE_CHECK(factorize(block, *spec, Tensor(), 0, {}));
  return {};
}

Status LowRankStep::compress(BlockEdit& block, const StageInput& input) {
  if (!options_.is_weighted || !has_work(block.index(), input.site)) return {};
  Tensor moment = input.statistics.second_moment;
  std::string fallback;
  if (is_starved(input)) {
    fallback =
        fmt::format("{} tokens chose the expert, fewer than {}", input.statistics.tokens, kStarvedTokens);
    if (!options_.allow_fallback) {
      return Error{.exit = Exit::numeric,
                   .rule = "NU10",
                   .path = block.source().path(),
                   .where = fmt::format("block {} {}", block.index(), site_text(input.site, input.expert)),
                   .what =
                       "too few tokens chose this expert; give more --samples, or --allow-fallback for "
                       "factors by the weights alone",
                   .got = fmt::format("{} tokens", input.statistics.tokens),
                   .limit = fmt::format("at least {}", kStarvedTokens)};
    }
    moment = Tensor();
  }
  for (const TensorSpec* spec : block.linears(input.site, input.expert))
    if (chosen_.count(spec->name) > 0)
      PARE_CHECK(factorize(block, *spec, moment, input.statistics.tokens, fallback));
  return {};
}

Status LowRankStep::factorize(BlockEdit& block, const TensorSpec& spec, const Tensor& moment, int64_t tokens,
                              const std::string& fallback) {
  const StoredTensor& stored = *block.source().find(spec.name);
  const char* method = options_.is_weighted ? "low-rank" : "svd";
  const int64_t most = largest_saving_rank(spec, stored);
  const auto decided = ranks_.find(spec.name);
  const bool is_budget = options_.rule.kind == RankRule::Kind::budget;
  PARE_ASSERT(!is_budget || decided != ranks_.end(), "[low_rank_step] no rank for {}", spec.name);
  if (is_budget && !decided->second) {
    records_.push_back(kept_record(spec, stored, method, std::nullopt, most));
    return {};
  }
  const bool is_known = is_budget || options_.rule.kind == RankRule::Kind::rank;
  ComponentOptions wanted = component_options(options_);
  if (is_budget) wanted.rank = *decided->second;
  // A known rank needs no look at the matrix to see that it saves nothing.
  if (is_known && *wanted.rank > most) {
    records_.push_back(kept_record(spec, stored, method, *wanted.rank, most));
    return {};
  }
  PARE_TRY(const Tensor weight, block.values(spec));
  auto components = output_components(weight, moment, wanted, spec.name);
  if (!components) return with_path(components.error(), block.source());
  const int64_t rank = is_known ? *wanted.rank : options_.rule.rank_of(*components);
  if (rank > most) {
    records_.push_back(kept_record(spec, stored, method, rank, most));
    return {};
  }
  const DType dtype = factor_type(stored);
  // An output that is always zero keeps one component: factors have at least that.
  auto factors = factors_of(weight, *components, std::max<int64_t>(1, rank), dtype, spec.name);
  if (!factors) return with_path(factors.error(), block.source());
  PARE_TRY(const Tensor product, factors->to_dense());
  const WeightChange change = weight_change(weight, product);
  auto shared = std::make_shared<const LowRankTensor>(std::move(*factors));
  const StoredTensor now = WeightData{.form = shared}.described(spec.name);

  TensorRecord record;
  record.name = spec.name;
  record.kind = std::string(now.form_name());
  record.scheme = now.form_text();
  record.shape = {spec.out(), spec.in()};
  record.method_asked = method;
  record.method_applied = components->is_weighted ? "low-rank" : "svd";
  record.fallback = fallback;
  if (options_.is_weighted && !components->is_weighted && fallback.empty())
    record.fallback = "the inputs were zero for all tokens";
  record.relative_error = change.relative_error;
  record.max_error = change.max_error;
  record.bits_per_weight = 8.0 * double(now.bytes) / double(spec.out() * spec.in());
  record.extra["rank"] = Json(shared->rank());
  record.extra["full_rank"] = Json(std::min(spec.out(), spec.in()));
  record.extra["kept_energy"] = components->kept_energy(shared->rank());
  if (!components->is_exact) record.extra["decomposition"] = "subspace iteration";
  if (moment.defined()) {
    PARE_TRY(const double error, relative_output_error(weight, product, moment));
    record.extra["output_error"] = error;
    record.extra["tokens"] = Json(tokens);
  }
  record.extra["bytes"] = Json(now.bytes);
  record.extra["bytes_before"] = Json(stored.bytes);
  records_.push_back(std::move(record));
  return block.replace(spec, WeightData{.form = std::move(shared)});
}

}  // namespace pare
