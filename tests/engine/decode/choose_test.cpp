// The choice of the next id on a device: the same ids as the definition, and as the sampler of the host.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/run/sampler.h"
#include "tests/engine/decode/decode_support.h"

namespace pare {
namespace {

using test::gpu;
using test::OnGpu;

constexpr int64_t kSlots = 4;

DecodeSampling sampling_of(const SamplerOptions& options) {
  const auto key = Random(options.seed, RandomPurpose::sampling).key();
  return {float(options.temperature),
          float(options.repetition_penalty),
          options.top_p,
          options.min_p,
          options.top_k,
          {key[0], key[1]}};
}

// The state of some rows twice.
struct TwinState {
  TwinState(const std::vector<SamplerOptions>& options, int64_t columns)
      : rows(int64_t(options.size())),
        words((columns + 31) / 32),
        ids(size_t(rows)),
        positions(size_t(rows), 5),
        draws(size_t(rows)),
        ring(size_t(rows * kSlots), -9),
        seen(size_t(rows * words)),
        gpu_ids(ids),
        gpu_positions(positions),
        gpu_draws(draws),
        gpu_ring(ring),
        gpu_seen(seen) {
    for (const SamplerOptions& one : options) sampling.push_back(sampling_of(one));
    gpu_sampling.emplace_back(sampling);
  }
  DecodeState on_host() {
    return {ids.data(),
            positions.data(),
            draws.data(),
            seen.data(),
            sampling.data(),
            ring.data(),
            rows,
            words,
            kSlots,
            rows,
            7};
  }
  DecodeState on_gpu() {
    return {gpu_ids.data(),
            gpu_positions.data(),
            gpu_draws.data(),
            gpu_seen.data(),
            gpu_sampling[0].data(),
            gpu_ring.data(),
            rows,
            words,
            kSlots,
            rows,
            7};
  }
  void expect_same(const std::string& what) {
    EXPECT_EQ(gpu_ids.read(), ids) << what;
    EXPECT_EQ(gpu_positions.read(), positions) << what;
    EXPECT_EQ(gpu_draws.read(), draws) << what;
    EXPECT_EQ(gpu_ring.read(), ring) << what;
    EXPECT_EQ(gpu_seen.read(), seen) << what;
  }

  int64_t rows, words;
  std::vector<int32_t> ids, positions, draws, ring;
  std::vector<uint32_t> seen;
  std::vector<DecodeSampling> sampling;
  OnGpu<int32_t> gpu_ids, gpu_positions, gpu_draws, gpu_ring;
  OnGpu<uint32_t> gpu_seen;
  std::vector<OnGpu<DecodeSampling>> gpu_sampling;
};

void choose_on_both(TwinState& state, const std::vector<float>& logits, int64_t columns, bool is_greedy) {
  DecodeBackend& there = *gpu().decoding();
  const OnGpu<float> gpu_logits(logits);
  const OnGpu<std::byte> workspace(
      std::vector<std::byte>(there.choose_workspace_bytes(state.rows, columns), std::byte{0xee}));
  test::definition().choose({logits.data(), columns, state.on_host(), true, is_greedy, nullptr});
  there.choose({gpu_logits.data(), columns, state.on_gpu(), true, is_greedy, workspace.data()});
}

const std::vector<SamplerOptions> kOptions{
    {.temperature = 0.0},
    {.temperature = 1.0, .seed = 1},
    {.temperature = 0.7, .top_k = 5, .seed = 2},
    {.temperature = 1.3, .top_p = 0.8, .seed = 3},
    {.temperature = 1.0, .min_p = 0.05, .seed = 4},
    {.temperature = 2.0, .top_k = 40, .top_p = 0.9, .min_p = 0.01, .repetition_penalty = 1.3, .seed = 5},
    {.temperature = 0.0, .repetition_penalty = 2.0},
    {.temperature = 1e-42, .seed = 6},  // means greedy
};

TEST(ChosenIds, EqualTheDefinition) {
  for (const int64_t columns : {1, 37, 300}) {
    TwinState state(kOptions, columns);
    for (int step = 0; step < 3; ++step) {
      const std::vector<float> logits =
          test::random_floats(state.rows * columns, uint64_t(columns * 100 + step), -6.0f, 6.0f);
      choose_on_both(state, logits, columns, false);
      state.expect_same("step " + std::to_string(step) + " of " + std::to_string(columns));
    }
  }
}

TEST(ChosenIds, EqualTheHostSampler) {
  constexpr int64_t kColumns = 200;
  for (size_t i = 0; i < kOptions.size(); ++i) {
    const SamplerOptions& options = kOptions[i];
    TwinState state({options}, kColumns);
    const Sampler sampler(options);
    std::vector<int32_t> history;
    for (uint64_t step = 0; step < 3; ++step) {
      std::vector<float> logits = test::random_floats(kColumns, 900 + step, -5.0f, 5.0f);
      choose_on_both(state, logits, kColumns, options.temperature == 0.0);
      const int32_t want = test::checked(sampler.next(logits, history, step));
      history.push_back(want);
      EXPECT_EQ(state.gpu_ids.read()[0], want) << "options " << i << ", step " << step;
    }
  }
}

TEST(ChosenIds, TiesGoToTheSmallestId) {
  constexpr int64_t kColumns = 5000;  // more than the list of candidates holds
  std::vector<SamplerOptions> options = kOptions;
  TwinState state(options, kColumns);
  std::vector<float> logits(size_t(state.rows * kColumns), 1.25f);
  for (int64_t row = 0; row < state.rows; ++row) {
    logits[size_t(row * kColumns + 3)] = -0.0f;
    logits[size_t(row * kColumns + 4)] = 0.0f;
  }
  choose_on_both(state, logits, kColumns, false);
  state.expect_same("ties");
  EXPECT_EQ(state.gpu_ids.read()[0], 0);
  EXPECT_LT(state.gpu_ids.read()[2], 5);  // top-k of equals
}

TEST(ChosenIds, FaultsAreTold) {
  constexpr int64_t kColumns = 70;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const bool is_greedy : {true, false}) {
    TwinState state(std::vector<SamplerOptions>(4, {.temperature = is_greedy ? 0.0 : 1.0}), kColumns);
    std::vector<float> logits = test::random_floats(4 * kColumns, 77);
    logits[13] = NAN;
    logits[20] = kInfinity;
    logits[kColumns + 69] = kInfinity;
    for (int64_t i = 0; i < kColumns; ++i) logits[size_t(2 * kColumns + i)] = -kInfinity;
    for (int64_t i = 1; i < kColumns; ++i) logits[size_t(3 * kColumns + i)] = -kInfinity;  // one is left
    choose_on_both(state, logits, kColumns, is_greedy);
    state.expect_same("faults");
    const std::vector<int32_t> ring = state.gpu_ring.read();
    EXPECT_EQ(ring[0], kDecodeNan);
    EXPECT_EQ(ring[1], kDecodeInfinity);
    EXPECT_EQ(ring[2], kDecodeNothing);
    EXPECT_EQ(ring[3], 0);
  }
}

// Shares of ids over many draws, against the probabilities; of the definition, whose ids are those of the
// device.
TEST(ChosenIds, FollowTheDistribution) {
  constexpr int64_t kColumns = 6, kRows = 8, kSteps = 500;
  const std::vector<float> one{0.0f, 1.0f, -1.0f, 0.5f, -20.0f, 0.0f};
  std::vector<SamplerOptions> options;
  for (uint64_t seed = 0; seed < kRows; ++seed) options.push_back({.temperature = 1.0, .seed = 1000 + seed});
  TwinState state(options, kColumns);
  std::vector<float> logits;
  for (int64_t row = 0; row < kRows; ++row) logits.insert(logits.end(), one.begin(), one.end());
  std::vector<double> counts(kColumns);
  for (int64_t step = 0; step < kSteps; ++step) {
    test::definition().choose({logits.data(), kColumns, state.on_host(), true, false, nullptr});
    for (const int32_t id : state.ids) counts[size_t(id)] += 1.0;
  }
  double total = 0.0;
  for (const float logit : one) total += std::exp(double(logit));
  for (size_t i = 0; i < one.size(); ++i) {
    const double draws = kRows * kSteps, share = std::exp(double(one[i])) / total;
    // four standard deviations
    EXPECT_NEAR(counts[i], draws * share, 4.0 * std::sqrt(draws * share * (1.0 - share)) + 0.01) << i;
  }
}

TEST(ChosenIds, OrderOfThreadsChangesNothing) {
  constexpr int64_t kColumns = 3000;
  const std::vector<float> logits = test::random_floats(int64_t(kOptions.size()) * kColumns, 5, -3.0f, 3.0f);
  std::vector<int32_t> first;
  for (int order = 0; order < 3; ++order) {
    test::set_order(order);
    TwinState state(kOptions, kColumns);
    choose_on_both(state, logits, kColumns, false);
    if (order == 0) first = state.gpu_ids.read();
    EXPECT_EQ(state.gpu_ids.read(), first) << order;
  }
  test::set_order(0);
}

}  // namespace
}  // namespace pare
