// Ranks by energy, error and budget, against exhaustive search.
#include "calibrate/rank_choice.h"

#include <cmath>
#include <functional>

#include <gtest/gtest.h>

#include "engine/core/random.h"
#include "tests/support/walk.h"

namespace pare {
namespace {

using test::checked;

TEST(RankChoice, EnergyAndError) {
  const std::vector<double> spectrum = {8.0, 4.0, 2.0, 1.0, 1.0};  // of 16
  EXPECT_EQ(rank_by_energy(spectrum, 16.0, 0.5), 1);
  EXPECT_EQ(rank_by_energy(spectrum, 16.0, 0.51), 2);
  EXPECT_EQ(rank_by_energy(spectrum, 16.0, 0.875), 3);
  EXPECT_EQ(rank_by_energy(spectrum, 16.0, 1.0), 5);
  EXPECT_EQ(rank_by_energy(spectrum, 32.0, 0.9), 5) << "the spectrum does not reach it";
  EXPECT_EQ(rank_by_error(spectrum, 16.0, std::sqrt(0.125)), 3);
  EXPECT_EQ(rank_by_error(spectrum, 16.0, std::sqrt(0.124)), 4);
  EXPECT_EQ(rank_by_error(spectrum, 16.0, 1.0), 0);
  EXPECT_EQ(rank_by_error(spectrum, 16.0, 0.0), 5);
  EXPECT_EQ(rank_by_error(spectrum, 32.0, 0.1), 5) << "half the energy is not in the spectrum";
}

TEST(RankChoice, SavesBytes) {
  EXPECT_EQ(largest_saving_rank(4096, 4096, 4096 * 4096 * 2, 2), 2047);
  EXPECT_EQ(largest_saving_rank(192, 576, 192 * 576 * 2, 2), 143);
  EXPECT_EQ(largest_saving_rank(1, 576, 1152, 2), 0);
  EXPECT_EQ(largest_saving_rank(4096, 4096, 4096 * 4096 * 4, 2), 4095) << "never the whole rank";
  EXPECT_EQ(largest_saving_rank(4096, 4096, 4096 * 4096, 2), 1023);
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{7, 30}, {30, 7}, {16, 16}}) {
    const int64_t rank = largest_saving_rank(out, in, uint64_t(out * in * 2), 2);
    EXPECT_LT(rank * (out + in), out * in);
    EXPECT_GE((rank + 1) * (out + in), out * in);
  }
}

RankCandidate candidate(int64_t out, int64_t in, double decay) {
  RankCandidate made{.out = out, .in = in, .spectrum = {}, .energy = 0.0, .largest_rank = 0};
  for (int64_t k = 0; k < std::min(out, in); ++k) {
    made.spectrum.push_back(std::exp(-decay * double(k)));
    made.energy += made.spectrum.back();
  }
  made.largest_rank = largest_saving_rank(out, in, uint64_t(out * in * 2), 2);
  return made;
}

struct Outcome {
  int64_t parameters = 0;
  double kept = 0.0;
};
Outcome outcome_of(const std::vector<RankCandidate>& candidates,
                   const std::vector<std::optional<int64_t>>& ranks) {
  Outcome outcome;
  for (size_t i = 0; i < candidates.size(); ++i) {
    const RankCandidate& c = candidates[i];
    outcome.parameters += ranks[i] ? *ranks[i] * (c.out + c.in) : c.out * c.in;
    double kept = 0.0;
    for (int64_t k = 0; k < ranks[i].value_or(int64_t(c.spectrum.size())); ++k) kept += c.spectrum[size_t(k)];
    outcome.kept += c.weight * kept / c.energy;
  }
  return outcome;
}

// The best kept energy within the budget over all choices of ranks.
double best_kept(const std::vector<RankCandidate>& candidates, int64_t budget, int64_t multiple) {
  double best = -1.0;
  std::vector<std::optional<int64_t>> ranks(candidates.size());
  const std::function<void(size_t)> walk = [&](size_t i) {
    if (i == candidates.size()) {
      const Outcome outcome = outcome_of(candidates, ranks);
      if (outcome.parameters <= budget) best = std::max(best, outcome.kept);
      return;
    }
    for (int64_t rank = multiple; rank <= candidates[i].largest_rank; rank += multiple) {
      ranks[i] = rank;
      walk(i + 1);
    }
    ranks[i] = std::nullopt;
    walk(i + 1);
  };
  walk(0);
  return best;
}

TEST(RankChoice, BudgetIsKeptAndNearlyBest) {
  const std::vector<RankCandidate> candidates = {candidate(40, 40, 0.02), candidate(40, 80, 0.3),
                                                 candidate(24, 48, 0.1), candidate(60, 30, 0.05)};
  int64_t total = 0;
  for (const RankCandidate& c : candidates) total += c.out * c.in;
  for (const double share : {0.35, 0.5, 0.65, 0.8, 0.95, 1.0}) {
    const auto ranks = checked(ranks_by_budget(candidates, share, 4));
    const Outcome outcome = outcome_of(candidates, ranks);
    EXPECT_LE(double(outcome.parameters), share * double(total));
    for (size_t i = 0; i < ranks.size(); ++i) {
      if (!ranks[i]) continue;
      EXPECT_EQ(*ranks[i] % 4, 0);
      EXPECT_LE(*ranks[i], candidates[i].largest_rank);
    }
    const double best = best_kept(candidates, int64_t(share * double(total)), 4);
    EXPECT_GE(outcome.kept, best - 0.06) << share << ": greedy but for the last steps";
    EXPECT_LE(outcome.kept, best + 1e-12);
  }
  for (const auto& rank : checked(ranks_by_budget(candidates, 1.0, 4)))
    EXPECT_FALSE(rank) << "all stay dense";
}

TEST(RankChoice, WeightsAndTies) {
  std::vector<RankCandidate> twins = {candidate(64, 64, 0.05), candidate(64, 64, 0.05)};
  auto ranks = checked(ranks_by_budget(twins, 0.6, 8));
  EXPECT_GE(ranks[0].value_or(64), ranks[1].value_or(64)) << "the earlier one wins ties";
  twins[1].weight = 20.0;
  ranks = checked(ranks_by_budget(twins, 0.6, 8));
  EXPECT_LT(ranks[0].value_or(64), ranks[1].value_or(64));
  const auto impossible = ranks_by_budget(twins, 0.1, 16);
  ASSERT_FALSE(impossible);
  EXPECT_EQ(impossible.error().exit, Exit::usage);
  EXPECT_EQ(impossible.error().limit, "0.5000");
}

}  // namespace
}  // namespace pare
