#include "quantize/calibrated_step.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "calibrate/low_rank_repair.h"
#include "calibrate/output_error.h"
#include "engine/core/log.h"
#include "engine/core/text.h"
#include "engine/tensor/tensor_scan.h"
#include "quantize/fold.h"
#include "quantize/match_outputs.h"
#include "quantize/smoothquant.h"
#include "quantize/sparse_codes.h"

namespace pare {
namespace {

std::vector<float> mean_of_sums(const std::vector<double>& sums, int64_t tokens) {
  std::vector<float> means;
  for (const double sum : sums) means.push_back(float(sum / double(std::max<int64_t>(1, tokens))));
  return means;
}

Result<std::vector<float>> mean_squares(const SiteStatistics& statistics) {
  if (!statistics.square_sum.empty()) return mean_of_sums(statistics.square_sum, statistics.tokens);
  PARE_TRY(std::vector<float> squares, moment_diagonal(statistics.second_moment));
  for (float& square : squares)
    square = float(double(square) / double(std::max<int64_t>(1, statistics.tokens)));
  return squares;
}

bool uses_search(const MethodPlan& plan, const QuantScheme& scheme) {
  switch (plan.range) {
    case MethodPlan::Range::min_max:
      return false;
    case MethodPlan::Range::squared:
    case MethodPlan::Range::importance:
      return true;
    default:
      return scheme.bits < 8 &&
             (plan.rounding == MethodPlan::Rounding::gptq || plan.scaling == MethodPlan::Scaling::awq);
  }
}

// Options of one linear: the search of ranges and its weights.
QuantizeOptions options_for(const CalibratedOptions& options, const QuantScheme& scheme,
                            std::span<const float> importance) {
  QuantizeOptions result = options.quantize;
  const bool has_ranges = options.method.rounding != MethodPlan::Rounding::kmeans;
  if (!has_ranges && options.method.range == MethodPlan::Range::importance) {
    result.importance = importance;
    return result;
  }
  if (!uses_search(options.method, scheme)) {
    if (options.method.range == MethodPlan::Range::min_max) result.clip_search = false;
    return result;
  }
  result.clip_search = true;
  result.clip.power = 2.0;
  if (options.method.range != MethodPlan::Range::squared) result.importance = importance;
  return result;
}

// Every method reports output errors, so that a moment which is no moment concerns every method.
Status usable_moment(const BlockEdit& block, Site site, const SiteStatistics& statistics) {
  if (!statistics.second_moment.defined()) return {};
  Status checked =
      check_moment(statistics.second_moment, fmt::format("block {} {}", block.index(), site_name(site)));
  if (checked) return {};
  Error error = checked.error();
  error.path = block.source().path();
  return error;
}

Error not_definite(const BlockEdit& block, const std::string& where, const HessianFactor& factor,
                   const char* remedy) {
  return Error{.exit = Exit::numeric,
               .rule = "NU08",
               .path = block.source().path(),
               .where = where,
               .what = fmt::format("second moment is not positive definite with any damping; {}", remedy),
               .got = fmt::format("{:g}", factor.damping()),
               .limit = fmt::format("{} attempts", factor.attempts.size())};
}

Error without_data(const BlockEdit& block, const std::string& where, int64_t tokens) {
  return Error{.exit = Exit::numeric,
               .rule = "NU10",
               .path = block.source().path(),
               .where = where,
               .what = "the inputs were zero for all tokens; --allow-fallback rounds to nearest instead",
               .got = fmt::format("{} tokens", tokens),
               .limit = {}};
}

Error starved_error(const BlockEdit& block, const std::string& where, int64_t tokens) {
  return Error{.exit = Exit::numeric,
               .rule = "NU10",
               .path = block.source().path(),
               .where = where,
               .what =
                   "too few tokens chose this expert; give more --samples, or --allow-fallback to round its "
                   "matrix to nearest",
               .got = fmt::format("{} tokens", tokens),
               .limit = fmt::format("at least {}", kStarvedTokens)};
}

}  // namespace

CalibratedStep::CalibratedStep(const ModelDescription& model, std::vector<std::optional<QuantScheme>> schemes,
                               CalibratedOptions options)
    : model_(model), options_(std::move(options)) {
  for (size_t i = 0; i < schemes.size(); ++i)
    if (schemes[i]) schemes_.emplace(model_.tensors[i].name, *schemes[i]);
}

std::optional<QuantScheme> CalibratedStep::scheme_of(const TensorSpec& spec) const {
  const auto scheme = schemes_.find(spec.name);
  return scheme == schemes_.end() ? std::nullopt : std::optional(scheme->second);
}

bool CalibratedStep::has_work(int block, Site site) const {
  for (const TensorSpec& spec : model_.tensors)
    if (spec.block == block && spec.is_linear && spec.site == site && scheme_of(spec)) return true;
  return false;
}

StatisticSet CalibratedStep::survey(int block, Site site) const {
  if (!has_work(block, site)) return {};
  switch (options_.method.scaling) {
    case MethodPlan::Scaling::awq:
      return {Statistic::absmean, Statistic::second_moment};
    case MethodPlan::Scaling::smoothquant:
      return {Statistic::absmax, Statistic::second_moment};
    default:
      return {};
  }
}

StatisticSet CalibratedStep::wanted(int block, Site site) const {
  if (!has_work(block, site)) return {};
  StatisticSet set{Statistic::second_moment};  // the output error is reported for every method
  if (options_.activations == ActivationQuant::Mode::static_tensor)
    set = set | statistics_needed(options_.activation_range.observer);
  return set;
}

Status CalibratedStep::edit(BlockEdit& block, const std::map<Site, SiteStatistics>& survey) {
  scale_notes_.clear();
  site_scales_.clear();
  if (options_.method.scaling == MethodPlan::Scaling::none) return {};
  for (const auto& [site, statistics] : survey) {
    if (!has_work(block.index(), site) || this->survey(block.index(), site).empty()) continue;
    std::string reason;
    if (!can_fold(block, site, &reason)) {
      scale_notes_[site] = Json::object();
      scale_notes_[site]["skipped"] = reason;
      continue;
    }
    PARE_CHECK(usable_moment(block, site, statistics));
    PARE_CHECK(scale_site(block, site, statistics));
  }
  return {};
}

Status CalibratedStep::scale_site(BlockEdit& block, Site site, const SiteStatistics& statistics) {
  return options_.method.scaling == MethodPlan::Scaling::awq ? scale_by_awq(block, site, statistics)
                                                             : smooth(block, site, statistics);
}

// With the moment on a GPU: where the scales were searched. The first time that a scheme is searched on the
// host all the same, a warning says so: it takes long.
void CalibratedStep::note_where(Json& note, const Tensor& moment, const std::string& host_reason) {
  if (moment.device().is_host()) return;
  note["searched_on"] = host_reason.empty() ? moment.device().name() : Device::cpu().name();
  if (!host_reason.empty() && host_reasons_.insert(host_reason).second)
    log_warning(fmt::format("scales are searched on the host: {}", host_reason));
}

Status CalibratedStep::scale_by_awq(BlockEdit& block, Site site, const SiteStatistics& statistics) {
  std::vector<AwqLinear> linears;
  for (const TensorSpec* spec : block.linears(site)) {
    if (!scheme_of(*spec)) continue;
    AwqLinear linear{.weight = {}, .scheme = *scheme_of(*spec), .name = spec->name};
    PARE_TRY(linear.weight, block.values(*spec));
    PARE_CHECK(require_finite(linear.weight, spec->name, block.source().path()));
    linears.push_back(std::move(linear));
  }
  const std::vector<float> abs_mean = mean_of_sums(statistics.abs_sum, statistics.tokens);
  PARE_TRY(const std::vector<float> importance, mean_squares(statistics));
  const QuantizeOptions quantize = options_for(options_, linears.front().scheme, importance);
  std::function<void(std::span<float>)> share;
  if (site == Site::attention_out) {
    const BlockConfig& shape = block.config().blocks[size_t(block.index())];
    share = [&shape](std::span<float> values) { share_kv(shape, values); };
  }
  PARE_TRY(const AwqScale found,
           search_awq_scale(linears, abs_mean, statistics.second_moment, quantize, options_.awq, share));
  Json& note = scale_notes_[site] = Json::object();
  note["kind"] = "awq";
  note["form"] = found.is_identity ? "identity" : found.is_duo ? "duo" : "plain";
  note["exponent"] = found.exponent;
  note["loss_ratio"] = found.loss_ratio;
  note_where(note, statistics.second_moment, found.host_reason);
  linears.clear();
  if (found.is_identity) return {};
  site_scales_[site] = found.scale;
  return fold_scale(block, site, found.scale);
}

Status CalibratedStep::smooth(BlockEdit& block, Site site, const SiteStatistics& statistics) {
  std::vector<Tensor> weights;
  std::vector<QuantScheme> schemes;
  for (const TensorSpec* spec : block.linears(site)) {
    PARE_TRY(Tensor weight, block.values(*spec));
    PARE_CHECK(require_finite(weight, spec->name, block.source().path()));
    weights.push_back(std::move(weight));
    schemes.push_back(scheme_of(*spec).value_or(QuantScheme{}));
  }
  // The paper scales after norms only; the same fold is exact behind v and up.
  std::vector<float> largest = column_max(weights), activation_max = statistics.abs_max;
  if (site == Site::attention_out) {
    const BlockConfig& shape = block.config().blocks[size_t(block.index())];
    share_kv(shape, largest);
    share_kv(shape, activation_max);
  }
  double alpha = options_.smooth_alpha.value_or(0.0);
  double ratio = 1.0;
  std::string reason;
  if (!options_.smooth_alpha) {
    PARE_TRY(const SmoothChoice choice, search_smooth_alpha(weights, schemes, activation_max, largest,
                                                            statistics.second_moment, statistics.tokens));
    alpha = choice.alpha;
    ratio = choice.loss_ratio;
    reason = choice.host_reason;
  }
  Json& note = scale_notes_[site] = Json::object();
  note["kind"] = "smoothquant";
  note["alpha"] = alpha;
  if (!options_.smooth_alpha) {
    note["loss_ratio"] = ratio;
    note_where(note, statistics.second_moment, reason);
  }
  weights.clear();
  site_scales_[site] = smooth_scale(activation_max, largest, alpha);
  return fold_scale(block, site, site_scales_[site]);
}

Status CalibratedStep::adapt(Site site, SiteStatistics& statistics) const {
  const auto found = site_scales_.find(site);
  if (found == site_scales_.end()) return {};
  if (statistics.has_range || statistics.histogram) {
    return Error{.exit = Exit::unsupported,
                 .rule = "CL13",
                 .path = "--activations",
                 .where = std::string(site_name(site)),
                 .what =
                     "ranges of activations that are scaled must be seen after scaling; give --data instead "
                     "of --statistics",
                 .got = "static",
                 .limit = {}};
  }
  const std::vector<float>& scale = found->second;
  const int64_t n = statistics.channels;
  if (statistics.second_moment.defined()) {
    float* h = statistics.second_moment.mutable_data<float>();
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) h[i * n + j] /= scale[size_t(i)] * scale[size_t(j)];
  }
  for (size_t j = 0; j < statistics.abs_max.size(); ++j) statistics.abs_max[j] /= scale[j];
  for (size_t j = 0; j < statistics.abs_sum.size(); ++j) statistics.abs_sum[j] /= double(scale[j]);
  for (size_t j = 0; j < statistics.square_sum.size(); ++j)
    statistics.square_sum[j] /= double(scale[j]) * double(scale[j]);
  return {};
}

Result<std::optional<ActivationQuant>> CalibratedStep::activation_quant(const StageInput& input) {
  if (!options_.activations) return std::optional<ActivationQuant>();
  ActivationQuant quant{.mode = *options_.activations, .symmetric = options_.activation_range.is_symmetric};
  if (quant.mode == ActivationQuant::Mode::dynamic_token) return std::optional(quant);
  PARE_TRY(const ActivationRange range, activation_range(input.statistics, options_.activation_range));
  const RangeOptions& options = options_.activation_range;
  const ActivationGrid grid = fit_activation_grid(range, options.bits, options.is_symmetric);
  quant.bits = options.bits;
  quant.symmetric = options.is_symmetric;
  quant.scale = grid.scale;
  if (!options.is_symmetric) quant.zero_point = grid.zero_point + grid.lowest;
  return std::optional(quant);
}

// Whether a method that looks at activations has too few of them.
bool CalibratedStep::is_starved(const StageInput& input) const {
  const bool is_static = options_.activations == ActivationQuant::Mode::static_tensor;
  return input.expert >= 0 && input.statistics.tokens < kStarvedTokens &&
         (options_.method.needs_data() || is_static);
}

Status CalibratedStep::compress(BlockEdit& block, const StageInput& input) {
  if (!has_work(block.index(), input.site)) return {};
  const std::string where = fmt::format("block {} {}", block.index(), site_text(input.site, input.expert));
  PARE_CHECK(usable_moment(block, input.site, input.statistics));
  if (is_starved(input) && !options_.allow_fallback)
    return starved_error(block, where, input.statistics.tokens);
  std::optional<HessianFactor> factor, match_factor;
  if (options_.method.rounding == MethodPlan::Rounding::gptq && !is_starved(input)) {
    PARE_TRY(factor, factor_hessian(input.statistics.second_moment, options_.hessian, where));
    if (factor->failed && !options_.allow_fallback)
      return not_definite(block, where, *factor, "--allow-fallback rounds to nearest instead");
    if (factor->all_dead && !options_.allow_fallback)
      return without_data(block, where, input.statistics.tokens);
  }
  if (options_.match_original && input.cross_moment.defined()) {
    HessianOptions options = options_.hessian;
    options.damping = options_.match_damping;
    options.act_order = false;
    PARE_TRY(match_factor, factor_hessian(input.statistics.second_moment, options, where));
    if (match_factor->failed && !options_.allow_fallback)
      return not_definite(block, where, *match_factor, "--allow-fallback leaves out the correction");
  }
  PARE_TRY(const auto activation, activation_quant(input));
  PARE_TRY(const std::vector<float> importance, mean_squares(input.statistics));
  for (const TensorSpec* spec : block.linears(input.site, input.expert)) {
    if (!scheme_of(*spec)) continue;
    PARE_CHECK(quantize_linear(block, *spec, input, factor ? &*factor : nullptr,
                               match_factor && !match_factor->failed ? &*match_factor : nullptr, importance,
                               activation));
    if (match_factor && match_factor->failed)
      records_.back().fallback = "second moment not positive definite: not corrected for earlier blocks";
  }
  return {};
}

Status CalibratedStep::quantize_linear(BlockEdit& block, const TensorSpec& spec, const StageInput& input,
                                       const HessianFactor* factor, const HessianFactor* match_factor,
                                       const std::vector<float>& importance,
                                       const std::optional<ActivationQuant>& activation) {
  const QuantScheme scheme = *scheme_of(spec);
  const Tensor& moment = input.statistics.second_moment;
  PARE_TRY(Tensor weight, block.values(spec));
  PARE_CHECK(require_finite(weight, spec.name, block.source().path()));
  PARE_TRY(const std::optional<Mask> held, zeros_to_hold(weight, scheme, spec.name));
  if (match_factor != nullptr && !match_factor->all_dead) {
    PARE_TRY(weight, matched_weight(weight, input.cross_moment, moment, *match_factor));
    if (held) held->apply(weight);
  }
  CalibratedOptions options = options_;
  if (is_starved(input)) options.method = MethodPlan();
  const QuantizeOptions quantize = options_for(options, scheme, importance);

  TensorRecord record;
  record.name = spec.name;
  record.kind = "quantized";
  record.scheme = scheme.text();
  record.shape = {spec.out(), spec.in()};
  record.method_asked = record.method_applied = options_.method.text();
  record.extra["tokens"] = Json(input.statistics.tokens);
  if (is_starved(input)) {
    record.method_applied = "rtn";
    record.fallback =
        fmt::format("{} tokens chose the expert, fewer than {}", input.statistics.tokens, kStarvedTokens);
  }
  if (input.statistics.tokens < spec.in()) record.extra["rank_deficient"] = true;
  QuantizeOutput output;
  if (factor != nullptr && !factor->failed) {
    GptqOptions sweep = options_.gptq;
    sweep.keep = held ? &*held : nullptr;
    auto rounded = gptq(weight, moment, *factor, scheme, quantize, sweep, spec.name);
    if (!rounded) {
      if (rounded.error().path.empty()) rounded.error().path = block.source().path();
      return rounded.error();
    }
    output = std::move(rounded->result);
    record.extra["output_error"] = rounded->output_error;
    record.extra["rtn_output_error"] = rounded->rtn_output_error;
    record.extra["loss"] = rounded->loss;
    record.extra["damping"] = factor->damping();
    record.extra["damping_retries"] = Json(int64_t(factor->retries()));
    record.extra["dead_columns"] = Json(int64_t(factor->dead.size()));
    if (factor->is_heavily_damped()) record.extra["heavily_damped"] = true;
    if (factor->all_dead) {
      record.method_applied = "rtn";
      record.fallback = "the inputs were zero for all tokens";
      record.extra["no_data"] = true;
    }
    if (rounded->kept_rtn) record.extra["kept_rtn"] = true;
  } else {
    const char* name = options.method.rounding == MethodPlan::Rounding::hqq      ? "hqq"
                       : options.method.rounding == MethodPlan::Rounding::kmeans ? "kmeans"
                                                                                 : "rtn";
    PARE_TRY(const QuantizeMethod* method, find_quantize_method(name));
    auto rounded = method->quantize(weight, scheme, quantize, spec.name);
    if (!rounded) {
      if (rounded.error().path.empty()) rounded.error().path = block.source().path();
      return rounded.error();
    }
    output = std::move(*rounded);
    PARE_TRY(const Tensor restored, output.tensor.dequantize());
    PARE_TRY(const double error, relative_output_error(weight, restored, moment));
    record.extra["output_error"] = error;
    if (factor != nullptr) {
      record.method_applied = "rtn";
      record.fallback = "second moment not positive definite with any damping";
      record.extra["damping_retries"] = Json(int64_t(factor->retries()));
    }
  }
  record.relative_error = output.relative_error;
  record.max_error = output.max_error;
  record.bits_per_weight = scheme.bits_per_weight(spec.out(), spec.in());
  if (quantize.clip_search) {
    record.clipped_share = double(output.clipped_weights) / double(std::max<int64_t>(1, spec.shape.numel()));
  }
  if (output.raised_scales > 0) record.extra["raised_scales"] = Json(output.raised_scales);
  if (output.clamped_scales > 0) record.extra["clamped_scales"] = Json(output.clamped_scales);
  if (held) record.extra["zeros_held"] = held->sparsity();
  if (match_factor != nullptr) record.extra["matched_original"] = true;
  const auto note = scale_notes_.find(input.site);
  if (note != scale_notes_.end()) record.extra["scale_search"] = note->second;
  if (activation) {
    output.tensor.activation = activation;
    record.extra["activation"] = activation->text();
  }
  WeightData data{.form = std::make_shared<const QuantizedTensor>(std::move(output.tensor))};
  if (options_.repair_rank > 0) {
    PARE_TRY(const std::optional<RepairedWeight> repaired,
             repair_low_rank(weight, data, is_starved(input) ? Tensor() : moment, options_.repair_rank,
                             block.source().find(spec.name)->dtype, spec.name));
    if (repaired) {
      repaired->describe(record);
      data.form = repaired->tensor;
    }
  }
  records_.push_back(std::move(record));
  return block.replace(spec, std::move(data));
}

}  // namespace pare
