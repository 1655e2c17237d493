#include "calibrate/rank_choice.h"

#include <fmt/core.h>

#include <algorithm>

#include "engine/core/assert.h"

namespace pare {
namespace {

// A possible size of one matrix.
struct Size {
  std::optional<int64_t> rank;  // none: dense
  int64_t parameters = 0;
  double kept = 0.0;  // relative energy, weighted
};

// By rising parameters; the first is the least, the last is dense.
std::vector<Size> sizes_of(const RankCandidate& candidate, int64_t multiple) {
  std::vector<Size> sizes;
  double kept = 0.0;
  const int64_t count = int64_t(candidate.spectrum.size());
  const int64_t dense = candidate.out * candidate.in, each = candidate.out + candidate.in;
  for (int64_t rank = multiple; rank <= candidate.largest_rank && rank * each < dense; rank += multiple) {
    for (int64_t k = rank - multiple; k < std::min(rank, count); ++k) kept += candidate.spectrum[size_t(k)];
    const double share = candidate.energy > 0.0 ? std::min(1.0, kept / candidate.energy) : 1.0;
    sizes.push_back({rank, rank * each, share * candidate.weight});
  }
  sizes.push_back({std::nullopt, dense, candidate.weight});
  return sizes;
}

struct Step {
  size_t to;           // index of a size
  int64_t parameters;  // more than now
  double gain;         // per parameter
};

// The larger size with the most gain per parameter among those that fit; the first of equals. From size to
// size this walks the upper concave hull until the budget is nearly spent.
std::optional<Step> best_step(const std::vector<Size>& sizes, size_t now, int64_t left) {
  std::optional<Step> best;
  for (size_t to = now + 1; to < sizes.size(); ++to) {
    const int64_t more = sizes[to].parameters - sizes[now].parameters;
    if (more > left) break;
    const double gain = (sizes[to].kept - sizes[now].kept) / double(more);
    if (!best || gain > best->gain) best = Step{to, more, gain};
  }
  return best;
}

}  // namespace

int64_t rank_by_energy(std::span<const double> spectrum, double energy, double share) {
  double kept = 0.0;
  for (size_t k = 0; k < spectrum.size(); ++k) {
    if (kept >= share * energy) return int64_t(k);
    kept += spectrum[k];
  }
  return int64_t(spectrum.size());
}

int64_t rank_by_error(std::span<const double> spectrum, double energy, double error) {
  // From the small end: one minus a share near one would lose its digits.
  double sum = 0.0;
  for (const double value : spectrum) sum += value;
  double lost = std::max(0.0, energy - sum);
  auto rank = int64_t(spectrum.size());
  while (rank > 0 && lost + spectrum[size_t(rank - 1)] <= error * error * energy)
    lost += spectrum[size_t(--rank)];
  return rank;
}

int64_t largest_saving_rank(int64_t out, int64_t in, uint64_t stored_bytes, int64_t factor_bytes) {
  if (out == 0 || in == 0 || stored_bytes == 0) return 0;
  const auto most = int64_t((stored_bytes - 1) / uint64_t((out + in) * factor_bytes));
  return std::min(most, std::min(out, in) - 1);
}

Result<std::vector<std::optional<int64_t>>> ranks_by_budget(std::span<const RankCandidate> candidates,
                                                            double share, int64_t multiple) {
  PARE_ASSERT(multiple >= 1, "[rank_choice] multiple {}", multiple);
  std::vector<std::vector<Size>> sizes;
  std::vector<size_t> chosen(candidates.size(), 0);
  int64_t total = 0, used = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    sizes.push_back(sizes_of(candidates[i], multiple));
    total += candidates[i].out * candidates[i].in;
    used += sizes[i].front().parameters;
  }
  const auto budget = int64_t(share * double(total));
  if (used > budget) {
    return Error{.exit = Exit::usage,
                 .rule = "CL13",
                 .path = "--low-rank",
                 .where = "budget",
                 .what = fmt::format("even rank {} for every matrix keeps more", multiple),
                 .got = fmt::format("{:g}", share),
                 .limit = fmt::format("{:.4f}", double(used) / double(std::max<int64_t>(1, total)))};
  }
  std::vector<std::optional<Step>> steps;  // the next of each
  for (size_t i = 0; i < sizes.size(); ++i) steps.push_back(best_step(sizes[i], 0, budget - used));
  while (true) {
    std::optional<size_t> best;
    for (size_t i = 0; i < steps.size(); ++i) {
      // The budget only shrinks, so a step that fits is still the best of its matrix.
      if (steps[i] && steps[i]->parameters > budget - used)
        steps[i] = best_step(sizes[i], chosen[i], budget - used);
      if (steps[i] && (!best || steps[i]->gain > steps[*best]->gain)) best = i;
    }
    if (!best) break;
    used += steps[*best]->parameters;
    chosen[*best] = steps[*best]->to;
    steps[*best] = best_step(sizes[*best], chosen[*best], budget - used);
  }
  std::vector<std::optional<int64_t>> ranks;
  for (size_t i = 0; i < candidates.size(); ++i) ranks.push_back(sizes[i][chosen[i]].rank);
  return ranks;
}

}  // namespace pare
