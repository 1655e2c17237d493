#include "distill/top_k.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "distill/top_k_kernels.h"
#include "engine/core/assert.h"
#include "engine/tensor/float_formats.h"

namespace pare {
namespace {

// Groups per id that is looked for: enough that the k largest lie in about k groups.
constexpr int64_t kGroupsPerId = 8;

}  // namespace

TopKFinder::TopKFinder(int64_t vocabulary, int64_t k, double temperature, DType logit_type, VectorLevel level)
    : vocabulary_(vocabulary),
      k_(k),
      group_rows_(std::max<int64_t>(1, vocabulary / (kGroupsPerId * k))),
      temperature_(temperature),
      logit_type_(logit_type),
      level_(level),
      found_(std::make_unique_for_overwrite<int32_t[]>(size_t(vocabulary))) {
  PARE_ASSERT(k >= 1 && k <= vocabulary && temperature > 0.0, "[top_k] {} of {}", k, vocabulary);
  PARE_ASSERT(logit_type == DType::f16 || logit_type == DType::bf16, "[top_k] {}", dtype_name(logit_type));
}

// A lower bound of the k-th largest logit: the k-th largest of the maxima of groups, for each of those groups
// has at least one value as large. Groups are lanes of stacks of rows; the values behind the last whole row
// are groups of one.
float TopKFinder::threshold(const float* logits, float& largest, bool& is_sound) {
  const TopKKernels& kernels = top_k_kernels(level_);
  const int64_t rows = vocabulary_ / kTopKLanes;
  const int64_t stacks = (rows + group_rows_ - 1) / group_rows_;
  const int64_t rest = vocabulary_ - rows * kTopKLanes;
  maxima_.resize(size_t(stacks * kTopKLanes + rest));
  is_sound = true;
  for (int64_t stack = 0; stack < stacks; ++stack) {
    const int64_t first = stack * group_rows_;
    is_sound = kernels.group_maxima(logits + first * kTopKLanes, std::min(group_rows_, rows - first),
                                    maxima_.data() + stack * kTopKLanes) &&
               is_sound;
  }
  for (int64_t i = 0; i < rest; ++i) {
    const float value = logits[rows * kTopKLanes + i];
    maxima_[size_t(stacks * kTopKLanes + i)] = value;
    is_sound = is_sound && value <= std::numeric_limits<float>::max();
  }
  if (!is_sound) return 0.0f;
  largest = *std::max_element(maxima_.begin(), maxima_.end());
  if (int64_t(maxima_.size()) < k_) return -std::numeric_limits<float>::infinity();
  std::nth_element(maxima_.begin(), maxima_.begin() + (k_ - 1), maxima_.end(), std::greater<>());
  return maxima_[size_t(k_ - 1)];
}

double TopKFinder::tail(const float* logits, float largest, float least_chosen,
                        float inverse_temperature) const {
  const int64_t rows = vocabulary_ / kTopKLanes;
  double sum = top_k_kernels(level_).exp_sum_below(logits, rows, largest, least_chosen, inverse_temperature);
  for (int64_t i = rows * kTopKLanes; i < vocabulary_; ++i)
    if (logits[i] < least_chosen) sum += std::exp(double(logits[i] - largest) * double(inverse_temperature));
  return sum;
}

bool TopKFinder::find(const float* logits, TopKRow& row) {
  row.ids.resize(size_t(k_));
  row.logits.resize(size_t(k_));
  bool is_sound = true;
  float largest = 0.0f;
  const float bound = threshold(logits, largest, is_sound);
  if (!is_sound || largest == -std::numeric_limits<float>::infinity()) return false;

  const int64_t rows = vocabulary_ / kTopKLanes;
  int64_t count = top_k_kernels(level_).at_least(logits, rows, bound, found_.get());
  for (int64_t i = rows * kTopKLanes; i < vocabulary_; ++i)
    if (logits[i] >= bound) found_[size_t(count++)] = int32_t(i);
  PARE_ASSERT(count >= k_, "[top_k] {} candidates for {}", count, k_);
  candidates_.clear();
  for (int64_t i = 0; i < count; ++i) candidates_.push_back({logits[found_[size_t(i)]], found_[size_t(i)]});
  const auto chosen_end = candidates_.begin() + k_;
  std::nth_element(candidates_.begin(), chosen_end - 1, candidates_.end(),
                   [](const Candidate& a, const Candidate& b) {
                     return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
                   });
  const float least_chosen = (chosen_end - 1)->logit;
  const auto ties = std::count_if(chosen_end, candidates_.end(),
                                  [&](const Candidate& c) { return c.logit == least_chosen; });
  std::sort(candidates_.begin(), chosen_end,
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });

  const auto sums_at = [&](double temperature) {
    const double inverse = 1.0 / temperature;
    double sum = tail(logits, largest, least_chosen, float(inverse));
    sum += double(ties) * std::exp(double(least_chosen - largest) * inverse);
    for (const uint16_t bits : row.logits) {
      const float z = logit_type_ == DType::f16 ? f16_to_float(bits) : bf16_to_float(bits);
      sum += std::exp(double(z) * inverse);
    }
    return float(std::log(sum));
  };
  for (int64_t i = 0; i < k_; ++i) {
    const Candidate& candidate = candidates_[size_t(i)];
    const float z = std::max(candidate.logit - largest, kLeastLogit);
    row.ids[size_t(i)] = candidate.id;
    row.logits[size_t(i)] = logit_type_ == DType::f16 ? float_to_f16(z) : float_to_bf16(z);
  }
  row.log_sum = sums_at(1.0);
  row.log_sum_at_temperature = temperature_ == 1.0 ? row.log_sum : sums_at(temperature_);
  return true;
}

}  // namespace pare
