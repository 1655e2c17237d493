#include "prune/prune_step.h"

#include <fmt/core.h>

#include <cmath>
#include <cstring>

#include "calibrate/held_zeros.h"
#include "calibrate/low_rank_repair.h"
#include "calibrate/output_error.h"
#include "engine/core/text.h"
#include "engine/tensor/tensor_scan.h"
#include "prune/device_select.h"
#include "prune/scores.h"

namespace pare {
namespace {

constexpr std::pair<PruneMethod, std::string_view> kMethods[] = {{PruneMethod::magnitude, "magnitude"},
                                                                 {PruneMethod::wanda, "wanda"},
                                                                 {PruneMethod::sparsegpt, "sparsegpt"},
                                                                 {PruneMethod::taylor, "taylor"},
                                                                 {PruneMethod::fisher, "fisher"}};
constexpr const char* kMethodList = "magnitude, wanda, sparsegpt, taylor, fisher";

// The norms of the inputs: roots of the diagonal of the second moment, or of the sums of squares.
Result<std::vector<float>> input_norms(const SiteStatistics& statistics) {
  std::vector<float> norms;
  if (!statistics.second_moment.defined()) {
    for (const double sum : statistics.square_sum) norms.push_back(float(std::sqrt(sum)));
    return norms;
  }
  PARE_TRY(norms, moment_diagonal(statistics.second_moment));
  for (float& norm : norms) norm = float(std::sqrt(std::max(0.0, double(norm))));
  return norms;
}

Error numeric(const BlockEdit& block, const char* rule, std::string where, const char* what,
              std::string got) {
  return Error{.exit = Exit::numeric,
               .rule = rule,
               .path = block.source().path(),
               .where = std::move(where),
               .what = what,
               .got = std::move(got),
               .limit = {}};
}

// How many heads stand along rows (q, k, v) or columns (o) of a matrix, one after the other.
struct HeadSlices {
  int64_t heads = 0, first = 0, size = 0;
  bool along_rows = true;
};

std::vector<HeadSlices> head_slices(const ModelConfig& config, const TensorSpec& spec) {
  if (spec.block < 0 || spec.block >= int(config.block_count())) return {};
  const BlockConfig& shape = config.blocks[size_t(spec.block)];
  const int64_t d = shape.head_dim;
  switch (spec.role) {
    case Role::query:
      return {{shape.heads, 0, d, true}};
    case Role::key:
    case Role::value:
      return {{shape.kv_heads, 0, d, true}};
    case Role::qkv:
      return {{shape.heads + 2 * shape.kv_heads, 0, d, true}};
    case Role::attention_output:
      return {{shape.heads, 0, d, false}};
    default:
      return {};
  }
}

}  // namespace

std::string_view prune_method_name(PruneMethod method) {
  for (const auto& [value, name] : kMethods)
    if (value == method) return name;
  return "";
}

Result<PruneMethod> parse_prune_method(std::string_view name) {
  for (const auto& [value, text] : kMethods)
    if (text == name) return value;
  if (name == "obd") return PruneMethod::fisher;
  return Error{.exit = Exit::usage,
               .rule = "CL06",
               .path = "--method",
               .where = {},
               .what = "not a method of pruning",
               .got = quote(name),
               .limit = kMethodList,
               .limit_label = "expected"};
}

bool uses_gradients(PruneMethod method) {
  return method == PruneMethod::taylor || method == PruneMethod::fisher;
}

namespace {

// kept(row, column) over a matrix; it is asked until it says yes.
template <class Kept>
Status require_kept(const ModelDescription& model, const TensorSpec& spec, const std::string& path,
                    const Kept& kept) {
  const auto any = [&](int64_t first_row, int64_t last_row, int64_t first_column, int64_t last_column) {
    for (int64_t row = first_row; row < last_row; ++row)
      for (int64_t column = first_column; column < last_column; ++column)
        if (kept(row, column)) return true;
    return false;
  };
  const auto empty = [&](std::string what) {
    return Error{.exit = Exit::numeric,
                 .rule = "NU15",
                 .path = path,
                 .where = quote(spec.name),
                 .what = std::move(what),
                 .got = {},
                 .limit = {}};
  };
  const int64_t out = spec.out(), in = spec.in();
  if (!any(0, out, 0, in)) return empty("would lose all weights; --allow-empty lets it");
  for (const HeadSlices& slices : head_slices(model.config, spec)) {
    for (int64_t head = 0; head < slices.heads; ++head) {
      const int64_t first = slices.first + head * slices.size, last = first + slices.size;
      if (slices.along_rows ? any(first, last, 0, in) : any(0, out, first, last)) continue;
      return empty(fmt::format("head {} would lose all weights; --allow-empty lets it", head));
    }
  }
  return {};
}

}  // namespace

Status check_not_empty(const ModelDescription& model, const TensorSpec& spec, const Mask& mask,
                       const std::string& path) {
  return require_kept(model, spec, path, [&](int64_t row, int64_t column) { return mask.kept(row, column); });
}

Status check_not_empty(const ModelDescription& model, const TensorSpec& spec, const Tensor& weight,
                       const std::string& path) {
  const int64_t in = spec.in();
  if (weight.dtype() == DType::f32) {
    const float* data = weight.data<float>();
    return require_kept(model, spec, path,
                        [=](int64_t row, int64_t column) { return data[row * in + column] != 0.0f; });
  }
  const uint16_t* data = weight.data<uint16_t>();
  return require_kept(model, spec, path,
                      [=](int64_t row, int64_t column) { return (data[row * in + column] & 0x7fff) != 0; });
}

WeightChange weight_change(const Tensor& weight, const Tensor& pruned) {
  double squared = 0.0, energy = 0.0, largest = 0.0;
  const float* w = weight.data<float>();
  const float* p = pruned.data<float>();
  for (int64_t i = 0; i < weight.numel(); ++i) {
    const double difference = double(w[i]) - double(p[i]);
    squared += difference * difference;
    energy += double(w[i]) * double(w[i]);
    largest = std::max(largest, std::abs(difference));
  }
  return {.relative_error = energy > 0.0 ? std::sqrt(squared / energy) : 0.0, .max_error = largest};
}

TensorRecord pruned_record(const TensorSpec& spec, const PruneTarget& target, std::string_view method,
                           int64_t kept, const WeightChange& change) {
  TensorRecord record;
  record.name = spec.name;
  record.kind = "dense";
  record.shape = {spec.out(), spec.in()};
  record.method_asked = record.method_applied = std::string(method);
  record.relative_error = change.relative_error;
  record.max_error = change.max_error;
  const auto weights = double(spec.out() * spec.in());
  record.extra["target"] = target.text();
  record.extra["pattern"] = target.pattern.text();
  record.extra["sparsity_asked"] = double(target.removed(spec.out(), spec.in())) / weights;
  record.extra["sparsity"] = 1.0 - double(kept) / weights;
  record.extra["kept"] = Json(kept);
  return record;
}

PruneStep::PruneStep(const ModelDescription& model, std::vector<std::optional<PruneTarget>> targets,
                     PruneOptions options)
    : model_(model), options_(std::move(options)) {
  for (size_t i = 0; i < targets.size(); ++i)
    if (targets[i]) targets_.emplace(model_.tensors[i].name, *targets[i]);
}

const PruneTarget* PruneStep::target_of(const TensorSpec& spec) const {
  const auto found = targets_.find(spec.name);
  return found == targets_.end() ? nullptr : &found->second;
}

bool PruneStep::has_work(int block, Site site) const {
  for (const TensorSpec& spec : model_.tensors)
    if (spec.block == block && spec.is_linear && spec.site == site && target_of(spec) != nullptr) return true;
  return false;
}

StatisticSet PruneStep::survey(int block, Site site) const {
  if (!options_.whole_block || !has_work(block, site)) return {};
  return {options_.norms_only ? Statistic::square : Statistic::second_moment};
}

StatisticSet PruneStep::wanted(int block, Site site) const {
  if (options_.whole_block || !has_work(block, site)) return {};
  return {options_.norms_only ? Statistic::square : Statistic::second_moment};
}

Status PruneStep::edit(BlockEdit& block, const std::map<Site, SiteStatistics>& survey) {
  if (!options_.whole_block) return {};
  for (const auto& [site, statistics] : survey)
    if (has_work(block.index(), site))
      PARE_CHECK(prune_site(block, {.site = site, .statistics = statistics}));
  return {};
}

Status PruneStep::compress(BlockEdit& block, const StageInput& input) {
  if (options_.whole_block || !has_work(block.index(), input.site)) return {};
  return prune_site(block, input);
}

Status PruneStep::prune_site(BlockEdit& block, const StageInput& input) {
  const SiteStatistics& statistics = input.statistics;
  const std::string place = fmt::format("block {} {}", block.index(), site_text(input.site, input.expert));
  if (statistics.second_moment.defined()) {
    if (Status checked = check_moment(statistics.second_moment, place); !checked) {
      Error error = checked.error();
      error.path = block.source().path();
      return error;
    }
  }
  const bool is_starved =
      input.expert >= 0 && statistics.tokens < kStarvedTokens && options_.method != PruneMethod::magnitude;
  std::string fallback;
  if (is_starved) {
    if (!options_.allow_fallback)
      return numeric(
          block, "NU10", place,
          "too few tokens chose this expert; give more --samples, or --allow-fallback to prune its "
          "matrix by magnitude",
          fmt::format("{} tokens", statistics.tokens));
    fallback = fmt::format("{} tokens chose the expert, fewer than {}", statistics.tokens, kStarvedTokens);
  }
  std::optional<HessianFactor> factor;
  if (options_.method == PruneMethod::sparsegpt && !is_starved) {
    PARE_TRY(factor, factor_hessian(statistics.second_moment, options_.hessian, place));
    if (factor->failed || factor->all_dead) {
      if (!options_.allow_fallback)
        return factor->failed
                   ? numeric(block, "NU08", place,
                             "second moment is not positive definite with any damping; --allow-fallback "
                             "prunes by magnitude instead",
                             fmt::format("{:g}", factor->damping()))
                   : numeric(block, "NU10", place,
                             "the inputs were zero for all tokens; --allow-fallback prunes by magnitude "
                             "instead",
                             fmt::format("{} tokens", statistics.tokens));
      fallback = factor->failed ? "second moment not positive definite with any damping"
                                : "the inputs were zero for all tokens";
      factor.reset();
    }
  }
  for (const TensorSpec* spec : block.linears(input.site, input.expert))
    if (target_of(*spec) != nullptr)
      PARE_CHECK(prune_linear(block, *spec, statistics, factor ? &*factor : nullptr, fallback));
  return {};
}

Result<Mask> PruneStep::chosen_mask(const BlockEdit& block, const TensorSpec& spec, const Tensor& weight,
                                    const SiteStatistics& statistics, std::string& fallback) const {
  const auto counted = options_.counts.find(spec.name);
  const bool is_wanda = fallback.empty() && options_.method == PruneMethod::wanda;
  std::vector<float> norms;
  if (is_wanda) {
    PARE_TRY(norms, input_norms(statistics));
  }
  if (is_wanda || !(fallback.empty() && uses_gradients(options_.method))) {
    PARE_TRY(
        std::optional<Mask> chosen,
        select_on_device(options_.device, weight, norms, *target_of(spec), options_.scope,
                         counted != options_.counts.end() ? std::optional(counted->second) : std::nullopt,
                         spec.name));
    if (chosen) return *std::move(chosen);
  }
  Tensor scores;
  if (is_wanda) {
    PARE_TRY(scores, wanda_scores(weight, norms));
  }
  if (fallback.empty() && uses_gradients(options_.method)) {
    PARE_TRY(scores, options_.scores(spec, weight));
    PARE_TRY(const Tensor magnitudes, magnitude_scores(weight));
    if (score_sum(scores) == 0.0 && score_sum(magnitudes) > 0.0) {
      if (!options_.allow_fallback)
        return numeric(block, "NU10", quote(spec.name),
                       "the loss does not depend on this matrix (an expert that no token chose?); give more "
                       "--samples, or --allow-fallback to prune it by magnitude",
                       "gradient 0");
      fallback = "the gradient of the loss was zero";
      scores = Tensor();
    }
  }
  if (!scores.defined()) {
    PARE_TRY(scores, magnitude_scores(weight));
  }
  if (counted != options_.counts.end()) return select_matrix(scores, counted->second);
  return select_weights(scores, *target_of(spec), options_.scope, spec.name);
}

Status PruneStep::prune_linear(BlockEdit& block, const TensorSpec& spec, const SiteStatistics& statistics,
                               const HessianFactor* factor, std::string fallback) {
  const PruneTarget& target = *target_of(spec);
  const Tensor& moment = statistics.second_moment;
  const bool is_starved = spec.expert >= 0 && statistics.tokens < kStarvedTokens;
  const Tensor repair_moment = is_starved ? Tensor() : moment;
  const std::string& path = block.source().path();
  PARE_TRY(const Tensor weight, block.values(spec));
  PARE_CHECK(require_finite(weight, spec.name, path));
  const DType stored = block.source().find(spec.name)->dtype;  // of its values, whatever its form
  std::optional<SparseGptOutput> swept;
  std::optional<Mask> mask;
  Tensor pruned;
  if (factor != nullptr) {
    PARE_TRY(const std::optional<Mask> held, held_zeros(weight));
    std::unique_ptr<ColumnRounder> rounder;
    if (options_.rounder) {
      // Grids for what survives, as it will be.
      PARE_TRY(const SparseGptOutput first, sparsegpt(weight, *factor, target, options_.sparsegpt,
                                                      held ? &*held : nullptr, nullptr, spec.name));
      PARE_TRY(rounder, options_.rounder(spec)(first.weight, *factor, moment, spec.name));
    }
    PARE_TRY(swept, sparsegpt(weight, *factor, target, options_.sparsegpt, held ? &*held : nullptr,
                              rounder.get(), spec.name));
    mask = std::move(swept->mask);
    pruned = std::move(swept->weight);
  } else {
    PARE_TRY(mask, chosen_mask(block, spec, weight, statistics, fallback));
    PARE_TRY(pruned, Tensor::allocate(DType::f32, weight.shape()));
    std::memcpy(pruned.mutable_raw(), weight.raw(), weight.size_bytes());
    mask->apply(pruned);
  }
  if (!options_.allow_empty) PARE_CHECK(check_not_empty(model_, spec, *mask, path));
  // What is reported is what is stored.
  if (!swept || !swept->codes) {
    PARE_TRY(pruned, converted(pruned, stored));
    PARE_CHECK(require_finite(pruned, spec.name, path));
    PARE_TRY(pruned, converted(pruned, DType::f32));
  }
  TensorRecord record = pruned_record(spec, target, prune_method_name(options_.method), mask->kept_count(),
                                      weight_change(weight, pruned));
  if (const auto count = options_.counts.find(spec.name); count != options_.counts.end())
    record.extra["sparsity_asked"] = double(count->second) / double(weight.numel());
  if (moment.defined()) {
    PARE_TRY(const double error, relative_output_error(weight, pruned, moment));
    record.extra["output_error"] = error;
  }
  record.extra["tokens"] = Json(statistics.tokens);
  int64_t dead = 0;
  PARE_TRY(const std::vector<float> norms, input_norms(statistics));
  for (const float norm : norms) dead += norm == 0.0f;
  record.extra["dead_columns"] = Json(dead);
  if (factor != nullptr) {
    record.extra["damping"] = factor->damping();
    record.extra["damping_retries"] = Json(int64_t(factor->retries()));
    record.extra["loss"] = swept->loss;
  }
  if (!fallback.empty()) {
    record.method_applied = "magnitude";
    record.fallback = fallback;
  }
  if (swept && swept->codes) {
    record.kind = "quantized";
    record.scheme = swept->codes->scheme.text();
    record.bits_per_weight = swept->codes->scheme.bits_per_weight(spec.out(), spec.in());
    PARE_TRY(SparseTensor sparse, SparseTensor::from_quantized(*swept->codes, *mask, target.pattern));
    return store(block, spec, weight, repair_moment,
                 WeightData{.form = std::make_shared<const SparseTensor>(std::move(sparse))},
                 std::move(record));
  }
  record.scheme = std::string(dtype_name(stored));
  if (options_.repair_rank == 0) {
    records_.push_back(std::move(record));
    return block.replace(spec, pruned, stored);
  }
  PARE_TRY(const Tensor values, converted(pruned, stored));
  std::optional<SparseTensor> sparse;
  if (options_.is_compact) {
    PARE_TRY(sparse, smallest_form(values, *mask, target.pattern));
  }
  WeightData data{.form = values};
  if (sparse) data.form = std::make_shared<const SparseTensor>(*std::move(sparse));
  return store(block, spec, weight, repair_moment, std::move(data), std::move(record));
}

// Puts the pruned matrix [out, in] in place, with its repair.
Status PruneStep::store(BlockEdit& block, const TensorSpec& spec, const Tensor& weight, const Tensor& moment,
                        WeightData data, TensorRecord record) {
  if (options_.repair_rank > 0) {
    PARE_TRY(const std::optional<RepairedWeight> repaired,
             repair_low_rank(weight, data, moment, options_.repair_rank,
                             block.source().find(spec.name)->dtype, spec.name));
    if (repaired) {
      repaired->describe(record);
      data.form = repaired->tensor;
    }
  }
  records_.push_back(std::move(record));
  if (!data.is_dense()) return block.replace(spec, std::move(data));
  PARE_TRY(const Tensor values, converted(data.dense(), DType::f32));
  return block.replace(spec, values, data.dense().dtype());
}

}  // namespace pare
