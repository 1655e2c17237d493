#include "engine/run/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "engine/core/random.h"
#include "engine/core/text.h"

namespace pare {
namespace {

constexpr size_t kFirstSorted = 256;

struct Candidate {
  double weight;  // exp(logit - largest logit)
  int32_t id;
};

bool comes_first(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
}

// Candidates in (weight descending, id ascending) order, sorted only as far as they are looked at: the answer
// nearly always stands among the first few of a large vocabulary.
class LazyOrder {
 public:
  explicit LazyOrder(std::vector<Candidate>& items) : items_(items) {}

  const Candidate& operator[](size_t index) {
    while (index >= sorted_) grow();
    return items_[index];
  }

 private:
  void grow() {
    const size_t end = std::min(items_.size(), std::max(kFirstSorted, 4 * sorted_));
    const auto begin = items_.begin() + std::ptrdiff_t(sorted_);
    const auto middle = items_.begin() + std::ptrdiff_t(end);
    if (middle != items_.end()) std::nth_element(begin, middle, items_.end(), comes_first);
    std::sort(begin, middle, comes_first);
    sorted_ = end;
  }

  std::vector<Candidate>& items_;
  size_t sorted_ = 0;
};

Error numeric_error(std::string where, std::string what) {
  return {.exit = Exit::numeric,
          .rule = "NU16",
          .path = "sampler",
          .where = std::move(where),
          .what = std::move(what)};
}

// Once per distinct id: towards zero when positive, away from it when negative.
void penalise(std::span<float> logits, std::span<const int32_t> history, double penalty) {
  std::vector<bool> seen(logits.size());
  for (const int32_t id : history) {
    if (id < 0 || size_t(id) >= logits.size() || seen[size_t(id)]) continue;
    seen[size_t(id)] = true;
    float& logit = logits[size_t(id)];
    logit = logit > 0.0f ? logit / float(penalty) : logit * float(penalty);
  }
}

// Everything but the k largest becomes minus infinity; among equals the smaller ids stay.
void keep_top_k(std::span<float> logits, size_t k) {
  if (k >= logits.size()) return;
  std::vector<int32_t> ids(logits.size());
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(i);
  const auto larger = [&](int32_t a, int32_t b) {
    const float x = logits[size_t(a)], y = logits[size_t(b)];
    return x != y ? x > y : a < b;
  };
  std::nth_element(ids.begin(), ids.begin() + std::ptrdiff_t(k), ids.end(), larger);
  for (size_t i = k; i < ids.size(); ++i) logits[size_t(ids[i])] = -std::numeric_limits<float>::infinity();
}

Error option_error(const char* name, double value, const char* range) {
  return {.exit = Exit::usage,
          .path = name,
          .what = "out of range",
          .got = format_double(value),
          .limit = range,
          .limit_label = "expected"};
}

}  // namespace

Status check_sampler_options(const SamplerOptions& options) {
  // Written so that NaN fails each test.
  if (!(options.temperature >= 0.0) || !std::isfinite(options.temperature))
    return option_error("--temperature", options.temperature, "0 or above");
  if (options.top_k < 0) return option_error("--top-k", double(options.top_k), "0 or above");
  if (!(options.top_p > 0.0 && options.top_p <= 1.0))
    return option_error("--top-p", options.top_p, "above 0, up to 1");
  if (!(options.min_p >= 0.0 && options.min_p < 1.0))
    return option_error("--min-p", options.min_p, "0 up to, not including, 1");
  if (!(options.repetition_penalty > 0.0) || !std::isfinite(options.repetition_penalty))
    return option_error("--repetition-penalty", options.repetition_penalty, "above 0");
  return {};
}

Result<int32_t> Sampler::next(std::span<float> logits, std::span<const int32_t> history,
                              uint64_t step) const {
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity())
      return numeric_error("logit " + std::to_string(i), std::isnan(logits[i]) ? "NaN" : "infinity");
  }
  if (options_.repetition_penalty != 1.0) penalise(logits, history, options_.repetition_penalty);

  const auto best = std::max_element(logits.begin(), logits.end());  // the first of equals
  if (best == logits.end() || !std::isfinite(*best)) return numeric_error("logits", "no finite value");
  if (options_.temperature == 0.0) return int32_t(best - logits.begin());

  const float temperature = float(options_.temperature);
  if (!(temperature > 0.0f) || !std::isfinite(*best / temperature))  // so small that it means greedy
    return int32_t(best - logits.begin());
  for (float& logit : logits) logit /= temperature;
  const float largest = *best;
  if (options_.top_k > 0) keep_top_k(logits, size_t(options_.top_k));

  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  double total = 0.0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double weight = std::exp(double(logits[i]) - double(largest));
    if (weight <= 0.0) continue;
    candidates.push_back({weight, int32_t(i)});
    total += weight;
  }
  LazyOrder order(candidates);
  size_t count = candidates.size();
  if (options_.top_p < 1.0) {
    // The shortest prefix that holds the share; never empty, for the first candidate is always taken.
    double sum = 0.0;
    size_t kept = 0;
    while (kept < count && (kept == 0 || sum < options_.top_p * total)) sum += order[kept++].weight;
    count = kept;
    total = sum;
  }
  if (options_.min_p > 0.0) {
    double sum = 0.0;
    size_t kept = 0;
    while (kept < count && order[kept].weight >= options_.min_p * order[0].weight)
      sum += order[kept++].weight;
    count = kept;
    total = sum;
  }
  const double threshold = double(Random(options_.seed, RandomPurpose::sampling).uniform(step)) * total;
  double sum = 0.0;
  for (size_t i = 0; i < count; ++i) {
    sum += order[i].weight;
    if (sum > threshold) return order[i].id;
  }
  return order[count - 1].id;  // the sums differ in their last bit by their order
}

}  // namespace pare
