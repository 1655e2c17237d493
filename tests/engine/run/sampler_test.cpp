// The sampler against a plain implementation that sorts everything, and the laws of each filter.
#include "engine/run/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "engine/core/random.h"

namespace pare {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(size_t count, uint32_t stream, float deviation = 2.0f) {
  const Random random(11, RandomPurpose::test_data, stream);
  std::vector<float> logits(count);
  for (size_t i = 0; i < count; ++i) logits[i] = deviation * random.normal(i);
  return logits;
}

struct Weighted {
  double probability;
  int32_t id;
};

// docs/methods.md, one filter after the other over a full sort.
std::vector<Weighted> brute_force(std::vector<float> logits, const std::vector<int32_t>& history,
                                  const SamplerOptions& o) {
  for (const int32_t id : std::set<int32_t>(history.begin(), history.end())) {
    float& z = logits[size_t(id)];
    z = z > 0 ? z / float(o.repetition_penalty) : z * float(o.repetition_penalty);
  }
  std::vector<Weighted> all;
  for (size_t i = 0; i < logits.size(); ++i)
    all.push_back({double(logits[i] / float(o.temperature)), int32_t(i)});
  const auto order = [](const Weighted& a, const Weighted& b) {
    return a.probability != b.probability ? a.probability > b.probability : a.id < b.id;
  };
  std::sort(all.begin(), all.end(), order);
  if (o.top_k > 0 && size_t(o.top_k) < all.size()) all.resize(size_t(o.top_k));
  const double largest = all.front().probability;
  double total = 0.0;
  for (Weighted& w : all) total += w.probability = std::exp(w.probability - largest);
  for (Weighted& w : all) w.probability /= total;
  const auto renormalise = [&] {
    double sum = 0.0;
    for (const Weighted& w : all) sum += w.probability;
    for (Weighted& w : all) w.probability /= sum;
  };
  double sum = 0.0;
  size_t kept = 0;
  while (kept < all.size() && (kept == 0 || sum < o.top_p)) sum += all[kept++].probability;
  if (o.top_p < 1.0) all.resize(kept);
  renormalise();
  const double floor = o.min_p * all.front().probability;
  std::erase_if(all, [&](const Weighted& w) { return w.probability < floor; });
  renormalise();
  return all;
}

int32_t pick(const std::vector<Weighted>& all, double u) {
  double sum = 0.0;
  for (const Weighted& w : all)
    if ((sum += w.probability) > u) return w.id;
  return all.back().id;
}

int32_t sample(std::vector<float> logits, const SamplerOptions& options, uint64_t step = 0,
               const std::vector<int32_t>& history = {}) {
  const auto id = Sampler(options).next(logits, history, step);
  EXPECT_TRUE(id);
  return id ? *id : -1;
}

class SamplerLaws : public ::testing::TestWithParam<SamplerOptions> {};

TEST_P(SamplerLaws, EqualBruteForce) {
  SamplerOptions options = GetParam();
  const std::vector<int32_t> history{3, 17, 3, 599, 0};
  for (uint32_t stream = 0; stream < 4; ++stream) {
    const std::vector<float> logits = random_logits(700, stream, stream == 3 ? 0.1f : 2.0f);
    const std::vector<Weighted> all = brute_force(logits, history, options);
    for (uint64_t step = 0; step < 50; ++step) {
      options.seed = stream;
      const double u = Random(stream, RandomPurpose::sampling).uniform(step);
      EXPECT_EQ(sample(logits, options, step, history), pick(all, u))
          << "stream " << stream << " step " << step;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Options, SamplerLaws,
    ::testing::Values(
        SamplerOptions{.temperature = 1.0}, SamplerOptions{.temperature = 0.3},
        SamplerOptions{.temperature = 1.7, .top_k = 1}, SamplerOptions{.temperature = 1.0, .top_k = 40},
        SamplerOptions{.temperature = 1.0, .top_k = 5000}, SamplerOptions{.temperature = 1.0, .top_p = 0.9},
        SamplerOptions{.temperature = 1.0, .top_p = 1e-9}, SamplerOptions{.temperature = 1.0, .min_p = 0.05},
        SamplerOptions{.temperature = 1.0, .repetition_penalty = 1.3},
        SamplerOptions{
            .temperature = 0.8, .top_k = 300, .top_p = 0.95, .min_p = 0.02, .repetition_penalty = 0.8}));

TEST(Sampler, GreedyTakesTheSmallestOfEquals) {
  EXPECT_EQ(sample({1, 5, 2, 5}, {}), 1);
  EXPECT_EQ(sample({-kInfinity, -3, -3}, {}), 1);
}

TEST(Sampler, TopKCutsTiesByTheSmallerId) {
  const SamplerOptions options{.temperature = 1.0, .top_k = 2};
  std::set<int32_t> seen;
  for (uint64_t step = 0; step < 200; ++step) seen.insert(sample({1, 3, 3, 3, 0}, options, step));
  EXPECT_EQ(seen, (std::set<int32_t>{1, 2}));
}

TEST(Sampler, TopPKeepsTheShortestPrefix) {
  // probabilities 0.5, 0.25, 0.125, 0.125: 0.75 is reached by two
  const std::vector<float> logits{std::log(0.125f), std::log(0.5f), std::log(0.125f), std::log(0.25f)};
  std::set<int32_t> two, three;
  for (uint64_t step = 0; step < 400; ++step) {
    two.insert(sample(logits, {.temperature = 1.0, .top_p = 0.7}, step));
    three.insert(sample(logits, {.temperature = 1.0, .top_p = 0.8}, step));
  }
  EXPECT_EQ(two, (std::set<int32_t>{1, 3}));
  EXPECT_EQ(three, (std::set<int32_t>{0, 1, 3}));
}

TEST(Sampler, MinPIsRelativeToTheLargest) {
  const std::vector<float> logits{std::log(0.6f), std::log(0.3f), std::log(0.1f)};
  std::set<int32_t> seen;
  for (uint64_t step = 0; step < 400; ++step)
    seen.insert(sample(logits, {.temperature = 1.0, .min_p = 0.4}, step));
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1}));
}

TEST(Sampler, PenaltyCountsEachIdOnce) {
  // 4 / 1.5 = 2.67 stays above 2.5; twice would not
  EXPECT_EQ(sample({4, 2.5}, {.repetition_penalty = 1.5}, 0, {0, 0, 0}), 0);
  EXPECT_EQ(sample({3, 2.5}, {.repetition_penalty = 1.5}, 0, {0}), 1);
  EXPECT_EQ(sample({-1, -1.2f}, {.repetition_penalty = 1.5}, 0, {0}),
            1);  // negative ones move away from zero
  EXPECT_EQ(sample({1, 0}, {.repetition_penalty = 1.5}, 0, {-5, 99}), 0);  // ids of no token are passed over
}

TEST(Sampler, FrequenciesFollowTheProbabilities) {
  const std::vector<float> logits{std::log(0.5f), std::log(0.3f), std::log(0.2f)};
  constexpr int kDraws = 20000;
  int counts[3] = {};
  for (uint64_t step = 0; step < kDraws; ++step)
    ++counts[sample(logits, {.temperature = 1.0, .seed = 3}, step)];
  const double want[3] = {0.5, 0.3, 0.2};
  // six standard deviations of a binomial
  for (int i = 0; i < 3; ++i)
    EXPECT_NEAR(counts[i], kDraws * want[i], 6.0 * std::sqrt(kDraws * want[i] * (1.0 - want[i])));
}

TEST(Sampler, SeedAndStepDecideTheDraw) {
  const std::vector<float> logits = random_logits(100, 1, 0.5f);
  std::vector<int32_t> first, again, other;
  for (uint64_t step = 0; step < 30; ++step) {
    first.push_back(sample(logits, {.temperature = 1.0, .seed = 1}, step));
    again.push_back(sample(logits, {.temperature = 1.0, .seed = 1}, step));
    other.push_back(sample(logits, {.temperature = 1.0, .seed = 2}, step));
  }
  EXPECT_EQ(first, again);
  EXPECT_NE(first, other);
  EXPECT_GT(std::set<int32_t>(first.begin(), first.end()).size(), 10u);
}

TEST(Sampler, TinyTemperatureIsGreedy) {
  EXPECT_EQ(sample({1, 2, 3}, {.temperature = 1e-300}), 2);
  EXPECT_EQ(sample({1, 2, 3}, {.temperature = 1e-6}), 2);
}

TEST(Sampler, NonFiniteLogitsAreNumericErrors) {
  for (std::vector<float> logits :
       {std::vector<float>{0, std::nanf("")}, {0, kInfinity}, {-kInfinity, -kInfinity}, {}}) {
    for (const double temperature : {0.0, 1.0}) {
      const auto id = Sampler({.temperature = temperature}).next(logits, {}, 0);
      ASSERT_FALSE(id);
      EXPECT_EQ(id.error().exit, Exit::numeric);
    }
  }
}

TEST(Sampler, MinusInfinityIsNeverDrawn) {
  for (uint64_t step = 0; step < 100; ++step)
    EXPECT_EQ(sample({-kInfinity, 0, -kInfinity}, {.temperature = 5.0}, step), 1);
}

TEST(Sampler, OptionsOutsideTheirRangeAreUsageErrors) {
  const double nan = std::nan("");
  for (const SamplerOptions& bad :
       {SamplerOptions{.temperature = -1}, SamplerOptions{.temperature = nan}, SamplerOptions{.top_k = -1},
        SamplerOptions{.top_p = 0}, SamplerOptions{.top_p = 1.1}, SamplerOptions{.min_p = 1},
        SamplerOptions{.min_p = -0.1}, SamplerOptions{.repetition_penalty = 0},
        SamplerOptions{.repetition_penalty = nan}}) {
    const Status status = check_sampler_options(bad);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().exit, Exit::usage);
  }
  EXPECT_TRUE(check_sampler_options({}));
}

}  // namespace
}  // namespace pare
