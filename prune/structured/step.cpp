#include "prune/structured/step.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "calibrate/output_error.h"
#include "engine/core/assert.h"
#include "prune/structured/importance.h"
#include "prune/structured/repair.h"
#include "prune/structured/select.h"

namespace pare {
namespace {

Role consumer_of(Site site) {
  return site == Site::attention_out ? Role::attention_output : Role::down;
}

bool reads_hidden(Site site) {
  return site == Site::attention_in || site == Site::mlp_in;
}

// Least, mean and greatest score, for the report.
Json summary(const std::vector<double>& scores, int64_t kept) {
  Json json = Json::object();
  double sum = 0.0;
  for (const double score : scores) sum += score;
  json["units"] = Json(int64_t(scores.size()));
  json["kept"] = Json(kept);
  json["least"] = *std::min_element(scores.begin(), scores.end());
  json["mean"] = sum / double(scores.size());
  json["greatest"] = *std::max_element(scores.begin(), scores.end());
  return json;
}

Error not_a_number(const BlockEdit& block, Site site) {
  return Error{.exit = Exit::numeric,
               .rule = "NU14",
               .path = block.source().path(),
               .where = fmt::format("block {} {}", block.index(), site_name(site)),
               .what = "score of a unit is not finite",
               .got = {},
               .limit = {}};
}

}  // namespace

StructuredStep::StructuredStep(const ModelDescription& model, std::shared_ptr<const WeightSource> original,
                               StepOptions options)
    : model_(model), original_(std::move(original)), options_(std::move(options)) {}

bool StructuredStep::cuts(int block, Site site) const {
  const BlockConfig& shape = model_.config.blocks[size_t(block)];
  if (site == Site::mlp_out) return options_.channels && *options_.channels < shape.intermediate_size;
  if (site != Site::attention_out || !options_.kv_heads) return false;
  return *options_.kv_heads < shape.kv_heads || *options_.queries_per_group < shape.heads / shape.kv_heads;
}

bool StructuredStep::has_bias(int block, Site site) const {
  const TensorSpec* spec = model_.find(consumer_of(site), block);
  for (const TensorSpec& candidate : model_.tensors)
    if (candidate.role == Role::bias && candidate.owner == spec->name) return true;
  return false;
}

bool StructuredStep::wants_cross_moment() const {
  return options_.has_data && options_.repair && (options_.match_original || options_.wide != nullptr);
}

StatisticSet StructuredStep::wanted(int block, Site site) const {
  if (!options_.has_data) return {};
  if (reads_hidden(site)) {
    if (!options_.repair || options_.wide == nullptr) return {};
    return {Statistic::second_moment};
  }
  const bool is_matched = options_.repair && options_.match_original;
  if (!cuts(block, site)) {
    if (is_matched) return {Statistic::second_moment};
    return {};
  }
  StatisticSet set = statistics_for(site == Site::mlp_out ? options_.mlp_score : options_.head_score);
  if (options_.repair) set.add(Statistic::second_moment);
  if (has_bias(block, site) && !is_matched) set.add(Statistic::mean);
  return set;
}

Status StructuredStep::edit(BlockEdit& block, const std::map<Site, SiteStatistics>& survey) {
  static_cast<void>(survey);
  const BlockConfig& shape = model_.config.blocks[size_t(block.index())];
  units_ = {all_units(shape.intermediate_size), all_units(shape.heads), all_units(shape.kv_heads)};
  tensors_ = Json::object();
  scores_ = Json::object();
  // What needs no data is decided at once.
  for (const Site site : {Site::attention_out, Site::mlp_out}) {
    if (!cuts(block.index(), site) || !wanted(block.index(), site).empty()) continue;
    PARE_CHECK(choose(block, site, nullptr));
    PARE_CHECK(drop(block, site));
  }
  return {};
}

Status StructuredStep::choose(BlockEdit& block, Site site, const SiteStatistics* statistics) {
  const int index = block.index();
  const BlockConfig& shape = model_.config.blocks[size_t(index)];
  const bool is_mlp = site == Site::mlp_out;
  const UnitScore score = is_mlp ? options_.mlp_score : options_.head_score;
  const std::string where = fmt::format("block {} {}", index, site_name(site));
  std::vector<Tensor> consumers;
  if (score != UnitScore::weight && !uses_gradients(score)) {
    PARE_TRY(Tensor weight, block.values(*block.find(consumer_of(site))));
    consumers.push_back(std::move(weight));
  }
  const auto scored = [&](UnitKind kind, int64_t width) -> Result<std::vector<double>> {
    std::vector<double> scores;
    if (score == UnitScore::weight) {
      PARE_TRY(scores, squared_norms(block.source(), model_, index, kind));
      if (kind == UnitKind::kv_head) {  // a group goes with its queries
        PARE_TRY(const auto queries, squared_norms(block.source(), model_, index, UnitKind::query_head));
        for (size_t query = 0; query < queries.size(); ++query)
          scores[query * scores.size() / queries.size()] += queries[query];
      }
      for (double& value : scores) value = std::sqrt(value);
    } else if (uses_gradients(score)) {
      scores = options_.measured(kind == UnitKind::channel   ? UnitSum::channel
                                 : kind == UnitKind::kv_head ? UnitSum::kv_group
                                                             : UnitSum::query_head,
                                 index);
    } else {
      PARE_TRY(scores, unit_scores(score, *statistics, consumers, width, options_.damping, where));
    }
    for (const double value : scores)
      if (!std::isfinite(value)) return not_a_number(block, site);
    return scores;
  };
  if (is_mlp) {
    PARE_TRY(const auto scores, scored(UnitKind::channel, 1));
    units_.channels = best_units(scores, *options_.channels);
    scores_["mlp"] = summary(scores, *options_.channels);
    return {};
  }
  const int64_t queries = shape.heads / shape.kv_heads;
  PARE_TRY(const auto group_scores, scored(UnitKind::kv_head, queries * shape.head_dim));
  PARE_TRY(const auto query_scores, scored(UnitKind::query_head, shape.head_dim));
  choose_heads(group_scores, query_scores, *options_.kv_heads, *options_.queries_per_group, units_);
  scores_["kv_groups"] = summary(group_scores, *options_.kv_heads);
  scores_["query_heads"] = summary(query_scores, int64_t(units_.query_heads.size()));
  return {};
}

std::vector<int64_t> StructuredStep::kept_columns(int block, Site site) const {
  if (site == Site::mlp_out) return units_.channels;
  return columns_of(units_.query_heads, model_.config.blocks[size_t(block)].head_dim);
}

Json& StructuredStep::note_of(const TensorSpec& spec) {
  Json& note = tensors_[spec.name];
  if (!note.is_object()) note = Json::object();
  return note;
}

Status StructuredStep::put(BlockEdit& block, const TensorSpec& spec, const Tensor& weight,
                           const Tensor& bias_change) {
  PARE_CHECK(block.replace(spec, weight, block.source().find(spec.name)->dtype));
  const TensorSpec* bias = block.bias_of(spec);
  if (bias == nullptr || !bias_change.defined()) return {};
  PARE_TRY(Tensor values, block.values(*bias));
  PARE_TRY(values, converted(values, DType::f32));
  for (int64_t i = 0; i < values.numel(); ++i)
    values.mutable_data<float>()[i] += bias_change.data<float>()[i];
  note_of(*bias)["mean_corrected"] = true;
  return block.replace(*bias, values, block.source().find(bias->name)->dtype);
}

// Zeroes the columns of what goes; nothing else is known.
Status StructuredStep::drop(BlockEdit& block, Site site) {
  const TensorSpec& spec = *block.find(consumer_of(site));
  const std::vector<int64_t> kept = kept_columns(block.index(), site);
  PARE_TRY(const Tensor weight, block.values(spec));
  PARE_TRY(const Tensor cut, sliced(weight, std::nullopt, kept));
  PARE_TRY(const Tensor wide, widened(cut, kept, spec.in()));
  return put(block, spec, wide, Tensor());
}

// The consumer of a site that lost channels: dropped columns, the mean put into a bias, or the closed form.
Status StructuredStep::shrink(BlockEdit& block, const StageInput& input) {
  const TensorSpec& spec = *block.find(consumer_of(input.site));
  const SiteStatistics& statistics = input.statistics;
  const std::vector<int64_t> kept = kept_columns(block.index(), input.site);
  const std::string where = fmt::format("block {} {}", block.index(), site_name(input.site));
  const bool is_matched = options_.repair && options_.match_original && input.cross_moment.defined();
  PARE_TRY(const Tensor weight, block.values(spec));
  Tensor bias_change;
  PARE_TRY(Tensor cut, sliced(weight, std::nullopt, kept));
  Json& note = note_of(spec);
  note["tokens"] = Json(statistics.tokens);
  if (options_.repair) {
    Tensor original;
    if (is_matched) {
      PARE_TRY(const WeightData data, original_->load(spec.name));
      PARE_TRY(original, converted(data.dense(), DType::f32));
      if (spec.transposed) {
        PARE_TRY(original, transposed(original));
      }
      if (options_.wide != nullptr) {  // of its outputs only the kept dimensions are left
        PARE_TRY(original, sliced(original, options_.hidden, std::nullopt));
      }
      original_->release(spec.name);
    }
    const bool is_centred = !is_matched && !statistics.sum.empty();
    auto result = repaired({.weight = weight,
                            .moment = statistics.second_moment,
                            .kept = kept,
                            .damping = options_.damping,
                            .sum = is_centred ? &statistics.sum : nullptr,
                            .tokens = statistics.tokens,
                            .cross = is_matched ? &input.cross_moment : nullptr,
                            .original_weight = is_matched ? &original : nullptr},
                           where);
    if (!result) {
      result.error().path = block.source().path();
      return result.error();
    }
    Tensor moment = statistics.second_moment;
    if (is_centred) {
      PARE_TRY(moment, centred(moment, statistics.sum, statistics.tokens));
    }
    PARE_TRY(const Tensor dropped, widened(cut, kept, spec.in()));
    PARE_TRY(const double before, relative_output_error(weight, dropped, moment));
    cut = result->weight;
    bias_change = result->bias;
    PARE_TRY(const Tensor fitted, widened(cut, kept, spec.in()));
    PARE_TRY(const double after, relative_output_error(weight, fitted, moment));
    note["output_error_dropped"] = before;
    note["output_error"] = after;
    note["damping"] = result->damping;
    if (result->retries > 0) note["damping_retries"] = Json(int64_t(result->retries));
    if (!result->has_data) note["no_data"] = true;
    if (is_matched) note["matched_original"] = true;
  } else if (!statistics.sum.empty()) {
    PARE_TRY(bias_change, mean_correction(weight, statistics.sum, statistics.tokens, kept));
  }
  PARE_TRY(const Tensor wide, widened(cut, kept, spec.in()));
  return put(block, spec, wide, bias_change);
}

// Linears that read the cut residual stream, fitted to what they gave with all of it.
Status StructuredStep::refit(BlockEdit& block, const StageInput& input) {
  for (const TensorSpec* spec : block.linears(input.site)) {
    PARE_TRY(const WeightData data, options_.wide->load(spec->name));
    PARE_TRY(Tensor original, converted(data.dense(), DType::f32));
    if (spec->transposed) {
      PARE_TRY(original, transposed(original));
    }
    PARE_TRY(const Tensor weight, block.values(*spec));
    auto result = repaired({.weight = weight,
                            .moment = input.statistics.second_moment,
                            .kept = all_units(weight.size(1)),
                            .damping = options_.damping,
                            .sum = nullptr,
                            .tokens = input.statistics.tokens,
                            .cross = &input.cross_moment,
                            .original_weight = &original},
                           fmt::format("block {} {}", block.index(), site_name(input.site)));
    options_.wide->release(spec->name);
    if (!result) {
      result.error().path = block.source().path();
      return result.error();
    }
    Json& note = note_of(*spec);
    note["tokens"] = Json(input.statistics.tokens);
    note["refitted"] = true;
    note["damping"] = result->damping;
    PARE_CHECK(put(block, *spec, result->weight, Tensor()));
  }
  return {};
}

Status StructuredStep::compress(BlockEdit& block, const StageInput& input) {
  if (wanted(block.index(), input.site).empty()) return {};
  if (reads_hidden(input.site)) return refit(block, input);
  if (cuts(block.index(), input.site)) PARE_CHECK(choose(block, input.site, &input.statistics));
  return shrink(block, input);
}

Json StructuredStep::take_note() {
  const auto masked = [](const std::vector<int64_t>& kept, int64_t count) {
    return Json(mask_text(kept, count));
  };
  const BlockConfig& shape = model_.config.blocks.front();
  Json note = Json::object();
  Json& units = note["units"] = Json::object();
  units["channels"] = masked(units_.channels, shape.intermediate_size);
  units["query_heads"] = masked(units_.query_heads, shape.heads);
  units["kv_heads"] = masked(units_.kv_heads, shape.kv_heads);
  note["scores"] = std::move(scores_);
  note["tensors"] = std::move(tensors_);
  return note;
}

std::string mask_text(const std::vector<int64_t>& kept, int64_t count) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::vector<int> digits(size_t((count + 3) / 4), 0);
  for (const int64_t unit : kept) {
    PARE_ASSERT(unit >= 0 && unit < count, "[structured] unit {} of {}", unit, count);
    digits[size_t(unit / 4)] |= 1 << (unit % 4);
  }
  std::string text;
  for (const int digit : digits) text += kDigits[digit];
  return text;
}

std::optional<std::vector<int64_t>> units_of_mask(std::string_view text, int64_t count) {
  if (int64_t(text.size()) != (count + 3) / 4) return std::nullopt;
  std::vector<int64_t> units;
  for (int64_t unit = 0; unit < int64_t(text.size()) * 4; ++unit) {
    const char c = text[size_t(unit / 4)];
    const bool is_digit = c >= '0' && c <= '9', is_letter = c >= 'a' && c <= 'f';
    if (!is_digit && !is_letter) return std::nullopt;
    const int digit = is_digit ? c - '0' : c - 'a' + 10;
    if ((digit >> (unit % 4) & 1) == 0) continue;
    if (unit >= count) return std::nullopt;
    units.push_back(unit);
  }
  return units;
}

Result<BlockUnits> units_of_note(const Json& note, const BlockConfig& block, const std::string& path) {
  BlockUnits units;
  const auto read = [&](const char* key, int64_t count, std::vector<int64_t>& into) {
    const Json* masks = note.find("units");
    const Json* text = masks != nullptr ? masks->find(key) : nullptr;
    auto found =
        text != nullptr && text->is_string() ? units_of_mask(text->as_string(), count) : std::nullopt;
    if (found) into = *std::move(found);
    return found.has_value();
  };
  if (read("channels", block.intermediate_size, units.channels) &&
      read("query_heads", block.heads, units.query_heads) && read("kv_heads", block.kv_heads, units.kv_heads))
    return units;
  return Error{.exit = Exit::malformed,
               .rule = {},
               .path = path,
               .where = "position.notes",
               .what = "not the units of a block; --restart begins anew",
               .got = {},
               .limit = {}};
}

}  // namespace pare
