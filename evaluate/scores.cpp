#include "evaluate/scores.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>

#include "engine/tensor/ops.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

Error non_finite(const WeightSource& source, size_t window, int64_t position, double value) {
  return Error{.exit = Exit::numeric,
               .rule = "NU16",
               .path = source.path(),
               .where = fmt::format("window {} position {}", window, position),
               .what = "logits are not finite",
               .got = std::isnan(value) ? "NaN" : "infinity",
               .limit = {}};
}

// The first value that is not finite ends the run.
Status check_finite(const Tensor& nll, const Model& model, const ScoredRows& rows) {
  const double* values = nll.data<double>();
  for (int64_t r = 0; r < nll.numel(); ++r)
    if (!std::isfinite(values[r])) return non_finite(model.source(), rows.window, rows.row + r, values[r]);
  return {};
}

template <typename T>
void append(const Tensor& tensor, std::vector<T>& out) {
  out.insert(out.end(), tensor.data<T>(), tensor.data<T>() + tensor.numel());
}

// The same of a tensor on any device.
template <typename T>
Status append_values(const Tensor& tensor, std::vector<T>& out) {
  PARE_TRY(const Tensor seen, moved(tensor, Device::cpu()));
  append(seen, out);
  return {};
}

}  // namespace

std::vector<uint8_t> TokenScores::same_best() const {
  std::vector<uint8_t> same(reference_best.size());
  for (size_t i = 0; i < same.size(); ++i) same[i] = best[i] == reference_best[i] ? 1 : 0;
  return same;
}

std::vector<size_t> TokenScores::worst(size_t count) const {
  const std::vector<double>& key = kl.empty() ? nll : kl;
  std::vector<size_t> order(key.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  count = std::min(count, order.size());
  std::partial_sort(order.begin(), order.begin() + int64_t(count), order.end(),
                    [&](size_t a, size_t b) { return key[a] != key[b] ? key[a] > key[b] : a < b; });
  order.resize(count);
  return order;
}

Result<RowScorer::Buffers> RowScorer::Buffers::allocate(int64_t rows, Device device) {
  Buffers buffers;
  PARE_TRY(buffers.targets, Tensor::allocate(DType::i32, {rows}, device));
  PARE_TRY(buffers.log_sum_exp, Tensor::allocate(DType::f64, {rows}, device));
  PARE_TRY(buffers.nll, Tensor::allocate(DType::f64, {rows}, device));
  PARE_TRY(buffers.best, Tensor::allocate(DType::i32, {rows}, device));
  return buffers;
}

RowScorer::Buffers RowScorer::Buffers::first(int64_t rows) const {
  return {targets.rows(0, rows), log_sum_exp.rows(0, rows), nll.rows(0, rows), best.rows(0, rows)};
}

Result<RowScorer> RowScorer::make(int64_t rows, const Model& model, const Model* reference) {
  RowScorer scorer(model, reference);
  PARE_TRY(scorer.own_, Buffers::allocate(rows, model.device()));
  if (reference != nullptr) {
    PARE_TRY(scorer.other_, Buffers::allocate(rows, reference->device()));
    PARE_TRY(scorer.kl_, Tensor::allocate(DType::f64, {rows}, model.device()));
  }
  return scorer;
}

Status RowScorer::score(const ScoredRows& rows, const Tensor& logits, const Tensor& reference_logits,
                        TokenScores& scores) {
  const int64_t count = int64_t(rows.targets.size());
  PARE_TRY(const Tensor targets, Tensor::allocate(DType::i32, {count}));
  std::copy_n(rows.targets.begin(), count, targets.mutable_data<int32_t>());
  Buffers own = own_.first(count);
  PARE_CHECK(copy_into(targets, own.targets));
  ops::cross_entropy(logits, own.targets, own.log_sum_exp, own.nll, own.best);
  PARE_TRY(const Tensor nll, moved(own.nll, Device::cpu()));
  PARE_CHECK(check_finite(nll, *model_, rows));
  append(nll, scores.nll);
  PARE_CHECK(append_values(own.best, scores.best));
  for (int64_t r = 0; r < count; ++r) scores.positions.push_back(rows.first_target + r);
  if (reference_ == nullptr) return {};

  Buffers other = other_.first(count);
  PARE_CHECK(copy_into(targets, other.targets));
  ops::cross_entropy(reference_logits, other.targets, other.log_sum_exp, other.nll, other.best);
  PARE_TRY(const Tensor reference_nll, moved(other.nll, Device::cpu()));
  PARE_CHECK(check_finite(reference_nll, *reference_, rows));
  Tensor kl = kl_.rows(0, count);
  PARE_TRY(const Tensor seen, moved(reference_logits, model_->device()));
  PARE_TRY(const Tensor log_sums, moved(other.log_sum_exp, model_->device()));
  ops::divergence(seen, logits, log_sums, own.log_sum_exp, kl);
  append(reference_nll, scores.reference_nll);
  PARE_CHECK(append_values(other.best, scores.reference_best));
  PARE_CHECK(append_values(kl, scores.kl));
  return {};
}

Status check_vocabularies(const Model& model, const Model& reference) {
  const int64_t own = model.config().vocabulary_size, other = reference.config().vocabulary_size;
  if (own == other) return {};
  return Error{.exit = Exit::malformed,
               .rule = "CF09",
               .path = model.source().path(),
               .where = "vocab_size",
               .what = "differs from the reference model's, so the two cannot be compared token by token",
               .got = std::to_string(own),
               .limit = std::to_string(other),
               .limit_label = "expected"};
}

Status check_ids(const Model& model, std::span<const int32_t> ids) {
  const int64_t vocabulary = model.config().vocabulary_size;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocabulary) continue;
    return Error{.exit = Exit::malformed,
                 .rule = "TK20",
                 .path = model.source().path(),
                 .where = fmt::format("token {}", i),
                 .what = "id has no row in the embedding",
                 .got = std::to_string(ids[i]),
                 .limit = std::to_string(vocabulary - 1)};
  }
  return {};
}

}  // namespace pare
