#include "prune/prune_stream.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "calibrate/input_check.h"
#include "engine/core/memory.h"
#include "engine/core/text.h"
#include "engine/tensor/sparse_detect.h"
#include "engine/tensor/tensor_scan.h"
#include "prune/allocation.h"
#include "prune/magnitude.h"
#include "prune/prune_step.h"

namespace pare {
namespace {

// A matrix as f32 [out, in], whatever its form and orientation.
Result<Tensor> float_matrix(const WeightSource& source, const TensorSpec& spec) {
  const StoredTensor& stored = *source.find(spec.name);
  if (!can_be_quantized(stored)) return already_quantized(source, stored);
  PARE_TRY(const WeightData data, source.load(spec.name));
  PARE_TRY(Tensor dense, data.to_dense_tensor());
  PARE_CHECK(require_finite(dense, spec.name, source.path()));
  PARE_TRY(dense, converted(dense, DType::f32));
  if (!spec.transposed) return dense;
  return transposed(dense);
}

// One pruned matrix in its stored type, [out, in], with its entry.
struct Pruned {
  Tensor weight;
  TensorRecord record;
};

bool has_fast_cut(const WeightData& data, const TensorSpec& spec, const PruneTarget& target,
                  const PruneStreamOptions& options) {
  return data.is_dense() && !spec.transposed && options.scope == Scope::layer &&
         target.pattern.kind == SparsityPattern::Kind::unstructured && data.dense().is_contiguous() &&
         (data.dense().dtype() == DType::bf16 || data.dense().dtype() == DType::f16);
}

// By the bits of the stored values.
Result<Pruned> cut_fast(const WeightSource& source, const TensorSpec& spec, const Tensor& weight,
                        const PruneTarget& target, int64_t k) {
  MagnitudeCounts counts;
  PARE_CHECK(counts.add(weight, spec.name, source.path()));
  MagnitudeCounts::Cut cut = counts.cut(k);
  const MagnitudeCounts::Energy energy = counts.energy(cut);
  Pruned pruned;
  int64_t zeros = 0;
  PARE_TRY(pruned.weight, cut_magnitudes(weight, cut, &zeros));
  const double share = energy.total > 0.0 ? std::sqrt(energy.removed / energy.total) : 0.0;
  pruned.record = pruned_record(spec, target, "magnitude", weight.numel() - zeros,
                                {.relative_error = share, .max_error = energy.largest_removed});
  return pruned;
}

// By scores, for all patterns and scopes.
Result<Pruned> cut_by_scores(const WeightSource& source, const TensorSpec& spec, const PruneTarget& target,
                             Scope scope, std::optional<int64_t> count) {
  PARE_TRY(const Tensor weight, float_matrix(source, spec));
  PARE_TRY(const Tensor scores, magnitude_scores(weight));
  PARE_TRY(const Mask mask,
           count ? select_matrix(scores, *count) : select_weights(scores, target, scope, spec.name));
  PARE_TRY(Tensor values, Tensor::allocate(DType::f32, weight.shape()));
  std::memcpy(values.mutable_raw(), weight.raw(), weight.size_bytes());
  mask.apply(values);
  Pruned pruned;
  pruned.record = pruned_record(spec, target, "magnitude", mask.kept_count(), weight_change(weight, values));
  PARE_TRY(pruned.weight, converted(values, source.find(spec.name)->dtype));
  return pruned;
}

}  // namespace

PrunePlan plan_pruning(const WeightSource& source, const ModelDescription& model,
                       const std::vector<std::optional<PruneTarget>>& targets, bool is_compact) {
  PrunePlan plan;
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    const TensorSpec& spec = model.tensors[i];
    const StoredTensor* stored = source.find(spec.name);
    if (stored == nullptr) continue;
    plan.input_bytes += stored->bytes;
    plan.parameters += spec.shape.numel();
    if (!targets[i]) {
      plan.output_bytes += stored->bytes;
      ++plan.kept_tensors;
      plan.peak_memory_bytes = std::max(plan.peak_memory_bytes, stored->bytes);
      continue;
    }
    const int64_t weights = spec.out() * spec.in(), removed = targets[i]->removed(spec.out(), spec.in());
    const uint64_t dense = uint64_t(weights) * uint64_t(dtype_bytes(stored->dtype));
    const uint64_t sparse = sparse_bytes(targets[i]->pattern, spec.out(), spec.in(), weights - removed,
                                         dtype_bits(stored->dtype), false);
    plan.output_bytes += is_compact ? std::min(dense, sparse) : dense;
    ++plan.pruned_tensors;
    plan.pruned_parameters += weights;
    plan.removed_parameters += removed;
    // Values, scores and a copy as floats, where the bits alone do not decide.
    plan.peak_memory_bytes = std::max(plan.peak_memory_bytes, dense + 3 * uint64_t(weights) * sizeof(float));
  }
  return plan;
}

Result<std::vector<int64_t>> global_counts(const WeightSource& source, const ModelDescription& model,
                                           const std::vector<std::optional<PruneTarget>>& targets,
                                           Normalisation normalisation) {
  const auto scores_of = [&](size_t i) -> Result<Tensor> {
    PARE_TRY(const Tensor weight, float_matrix(source, model.tensors[i]));
    PARE_TRY(Tensor scores, magnitude_scores(weight));
    normalise_scores(scores, normalisation);
    source.release(model.tensors[i].name);
    return scores;
  };
  return global_counts(model, targets, scores_of);
}

Result<std::vector<int64_t>> global_counts(const ModelDescription& model,
                                           const std::vector<std::optional<PruneTarget>>& targets,
                                           const std::function<Result<Tensor>(size_t tensor)>& scores_of) {
  const auto span_of = [](const Tensor& scores) {
    return std::span(scores.data<float>(), size_t(scores.numel()));
  };
  std::vector<int64_t> counts(targets.size(), 0);
  std::vector<char> is_free(targets.size(), 0);
  int64_t left = 0;
  for (size_t i = 0; i < targets.size(); ++i) {
    if (!targets[i]) continue;
    is_free[i] = 1;
    left += targets[i]->sparsity.count(model.tensors[i].shape.numel());
  }
  const Sparsity most = Sparsity::of(kMostSparse);
  for (bool is_settled = false; !is_settled;) {
    is_settled = true;
    CutFinder finder;
    for (size_t i = 0; i < targets.size(); ++i) {
      if (!is_free[i]) continue;
      PARE_TRY(const Tensor scores, scores_of(i));
      finder.count_upper(span_of(scores));
    }
    finder.choose_upper(left);
    for (size_t i = 0; i < targets.size(); ++i) {
      if (!is_free[i]) continue;
      PARE_TRY(const Tensor scores, scores_of(i));
      finder.count_lower(span_of(scores));
    }
    Cut cut = finder.cut();
    for (size_t i = 0; i < targets.size(); ++i) {
      if (!is_free[i]) continue;
      PARE_TRY(const Tensor scores, scores_of(i));
      int64_t below = 0, equal = 0;
      for (const float score : span_of(scores)) below += score < cut.score, equal += score == cut.score;
      const int64_t ties = std::min(cut.ties, equal);
      cut.ties -= ties;
      counts[i] = below + ties;
    }
    // What would lose too much is held at the cap; the others share the rest anew.
    for (size_t i = 0; i < targets.size(); ++i) {
      if (!is_free[i]) continue;
      const int64_t cap = most.count(model.tensors[i].shape.numel());
      if (counts[i] <= cap) continue;
      counts[i] = cap;
      is_free[i] = 0;
      left -= cap;
      is_settled = false;
    }
  }
  return counts;
}

Status compact(const TensorSpec& spec, const PruneTarget& target, WeightData& data, TensorRecord& record) {
  if (!data.is_dense()) return {};
  Tensor weight = data.dense();
  if (spec.transposed) {
    PARE_TRY(weight, transposed(weight));
  }
  PARE_TRY(std::optional<SparseTensor> sparse, sparse_form_of(weight, target.pattern));
  if (!sparse) return {};
  record.kind = "sparse";
  record.bits_per_weight = sparse->bits_per_weight();
  data = WeightData{.form = std::make_shared<const SparseTensor>(*std::move(sparse)),
                    .transposed = spec.transposed};
  return {};
}

Status prune_stream(const WeightSource& source, const ModelDescription& model,
                    const std::vector<std::optional<PruneTarget>>& targets, const PruneStreamOptions& options,
                    WeightSink& sink, Manifest& manifest,
                    const std::function<Status(uint64_t bytes)>& advance) {
  std::vector<int64_t> counts;
  if (options.is_global) {
    PARE_TRY(counts, global_counts(source, model, targets, options.normalisation));
  }
  for (size_t i = 0; i < model.tensors.size(); ++i) {
    const TensorSpec& spec = model.tensors[i];
    const StoredTensor* stored = source.find(spec.name);
    if (stored == nullptr) continue;
    if (targets[i] && !can_be_quantized(*stored)) return already_quantized(source, *stored);
    PARE_TRY(WeightData data, source.load(spec.name));
    TensorRecord record;
    if (targets[i]) {
      const std::optional<int64_t> count = options.is_global ? std::optional(counts[i]) : std::nullopt;
      const int64_t k = count.value_or(targets[i]->removed(spec.out(), spec.in()));
      PARE_TRY(Pruned pruned, has_fast_cut(data, spec, *targets[i], options)
                                  ? cut_fast(source, spec, data.dense(), *targets[i], k)
                                  : cut_by_scores(source, spec, *targets[i], options.scope, count));
      if (!options.allow_empty) PARE_CHECK(check_not_empty(model, spec, pruned.weight, source.path()));
      record = std::move(pruned.record);
      record.scheme = std::string(dtype_name(stored->dtype));
      Tensor weight = std::move(pruned.weight);
      if (spec.transposed) {
        PARE_TRY(weight, transposed(weight));
      }
      data = WeightData{.form = std::move(weight)};
      if (options.is_compact) PARE_CHECK(compact(spec, *targets[i], data, record));
    } else {
      if (data.is_dense()) PARE_CHECK(require_finite(data.dense(), spec.name, source.path()));
      record = copied_record(*stored);
    }
    PARE_CHECK(sink.put(spec.name, data));
    manifest.tensors.push_back(std::move(record));
    source.release(spec.name);
    sample_private_bytes();
    PARE_CHECK(advance(stored->bytes));
  }
  return source.check_unchanged();
}

}  // namespace pare
