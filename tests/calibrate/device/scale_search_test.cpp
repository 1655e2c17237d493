// The searches of AWQ and SmoothQuant with the moment on the device against the host's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/tensor/scale_search.h"
#include "engine/tensor/statistics_backend.h"
#include "quantize/awq.h"
#include "quantize/scale_losses.h"
#include "quantize/smoothquant.h"
#include "tests/calibrate/device/device.h"
#include "tests/quantize/problem.h"
#ifndef PARE_TEST_GPU
#include "cuda_emulator/simt.h"
#include "cuda_runtime.h"
#endif

namespace pare::test {
namespace {

// A moment with a loud channel, so that scales have something to gain.
Tensor loud_moment(int64_t in) {
  Tensor moment = correlated_moment(in, 5);
  float* h = moment.mutable_data<float>();
  for (int64_t i = 0; i < in; ++i) h[7 * in + i] *= 20.0f, h[i * in + 7] *= 20.0f;
  return moment;
}

struct Problem {
  Tensor moment;
  std::vector<float> importance, abs_mean;
  std::vector<AwqLinear> linears;
  QuantizeOptions options;
};

// Two matrices of different heights at one site.
Problem problem(const char* scheme, int64_t in, bool searches = true) {
  Problem p;
  p.moment = loud_moment(in);
  p.importance = moment_diagonal(p.moment).value();
  for (const float square : p.importance) p.abs_mean.push_back(0.8f * std::sqrt(square));
  for (const int64_t out : {12, 21})
    p.linears.push_back({.weight = random_weight(out, in, uint32_t(out)),
                         .scheme = QuantScheme::parse(scheme).value(),
                         .name = "w" + std::to_string(out)});
  p.options.clip_search = searches;
  p.options.clip = {.power = 2.0, .steps = 40, .grid = 50};
  return p;
}

// importance is a view of the problem's own numbers, so only once it stands still
QuantizeOptions options_of(const Problem& p) {
  QuantizeOptions options = p.options;
  if (options.clip_search) options.importance = p.importance;
  return options;
}

std::vector<float> some_scales(int64_t count, int64_t in) {
  std::vector<float> scales(size_t(in), 1.0f);
  const Random random(9, RandomPurpose::test_data, "scales");
  for (int64_t i = in; i < count * in; ++i)
    scales.push_back(std::exp2(2.0f * random.uniform(uint64_t(i)) - 1.0f));
  return scales;
}

class DeviceScaleSearch : public DeviceTest {};

struct Scheme {
  const char* text;
  int64_t in;
  bool searches;
};
const Scheme kSchemes[] = {{"int4-g64-sym", 96, true},      {"int4-g64-asym", 128, true},
                           {"int8-ch-sym", 80, false},      {"int3-g32-sym", 64, true},
                           {"int3-g32-asym", 100, true},    {"int4-g32-asymf", 64, true},
                           {"int4-ch-sym-sf32", 280, true}, {"int2-g32-asym-sbf16", 64, false}};

// The same grids and codes, so that losses differ by the order of sums alone.
TEST_F(DeviceScaleSearch, LossesAreThoseOfTheHost) {
  for (const Scheme& scheme : kSchemes) {
    const Problem p = problem(scheme.text, scheme.in, scheme.searches);
    const QuantizeOptions options = options_of(p);
    const Tensor device_moment = there(p.moment);
    ScaleLosses host(p.moment, options), device(device_moment, options);
    const std::vector<float> scales = some_scales(6, scheme.in);
    for (const AwqLinear& linear : p.linears) {
      const auto want = host.of(linear.weight, linear.scheme, scales, "w").value();
      const auto got = device.of(linear.weight, linear.scheme, scales, "w").value();
      ASSERT_EQ(got.size(), 6u);
      for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-5 * want[i]) << scheme.text;
    }
    EXPECT_EQ(device.host_reason(), "");
    EXPECT_EQ(host.host_reason(), "");
  }
}

TEST_F(DeviceScaleSearch, AwqChoosesWhatTheHostChooses) {
  int scaled = 0;
  for (const Scheme& scheme : kSchemes) {
    const Problem p = problem(scheme.text, scheme.in, scheme.searches);
    const QuantizeOptions options = options_of(p);
    const AwqScale host =
        search_awq_scale(p.linears, p.abs_mean, p.moment, options, {.steps = 8}, {}).value();
    const AwqScale device =
        search_awq_scale(p.linears, p.abs_mean, there(p.moment), options, {.steps = 8}, {}).value();
    EXPECT_EQ(device.scale, host.scale) << scheme.text;
    EXPECT_EQ(device.is_duo, host.is_duo) << scheme.text;
    EXPECT_EQ(device.exponent, host.exponent) << scheme.text;
    EXPECT_NEAR(device.loss_ratio, host.loss_ratio, 1e-4 * host.loss_ratio) << scheme.text;
    EXPECT_EQ(device.host_reason, "") << scheme.text;
    if (!host.is_identity) ++scaled;
  }
  EXPECT_GE(scaled, 6) << "nothing to choose";
}

TEST_F(DeviceScaleSearch, SmoothQuantChoosesWhatTheHostChooses) {
  for (const char* text : {"int8-ch-sym", "int8-g32-sym", "int4-g32-asym"}) {
    const Problem p = problem(text, 64);
    std::vector<Tensor> weights;
    std::vector<QuantScheme> schemes;
    for (const AwqLinear& linear : p.linears) {
      weights.push_back(linear.weight);
      schemes.push_back(linear.scheme);
    }
    std::vector<float> largest;
    for (const float mean : p.abs_mean) largest.push_back(4.0f * mean);
    const std::vector<float> columns = column_max(weights);
    const SmoothChoice host = search_smooth_alpha(weights, schemes, largest, columns, p.moment, 1).value();
    const SmoothChoice device =
        search_smooth_alpha(weights, schemes, largest, columns, there(p.moment), 1).value();
    EXPECT_EQ(device.alpha, host.alpha) << text;
    EXPECT_NEAR(device.loss_ratio, host.loss_ratio, 1e-4 * host.loss_ratio) << text;
    EXPECT_LT(host.loss_ratio, 1.0) << text;
    EXPECT_EQ(device.host_reason, "") << text;
  }
}

// What the kernels do not know goes through the host and says why; the other matrices of the site do not.
TEST_F(DeviceScaleSearch, OtherSchemesAreSearchedOnTheHostAndSaySo) {
  for (const auto& [text, searches, why] : {std::tuple{"nf4-g64", true, "integer codes"},
                                            {"fp8-e4m3-ch", false, "integer codes"},
                                            {"int8-tensor", false, "whole matrix"}}) {
    Problem p = problem(text, 64, searches);
    p.linears.front().scheme = QuantScheme::parse("int4-g32").value();
    const QuantizeOptions options = options_of(p);
    const AwqScale host =
        search_awq_scale(p.linears, p.abs_mean, p.moment, options, {.steps = 3}, {}).value();
    const AwqScale device =
        search_awq_scale(p.linears, p.abs_mean, there(p.moment), options, {.steps = 3}, {}).value();
    EXPECT_EQ(device.scale, host.scale) << text;
    EXPECT_NEAR(device.loss_ratio, host.loss_ratio, 1e-4) << text;
    EXPECT_THAT(device.host_reason, testing::HasSubstr(why));
    EXPECT_THAT(device.host_reason, testing::HasSubstr(QuantScheme::parse(text).value().text()));
  }
  Problem p = problem("int4-g32", 64);
  p.options.clip.power = 2.4;
  const Tensor moment = there(p.moment);
  const QuantizeOptions options = options_of(p);
  ScaleLosses losses(moment, options);
  ASSERT_TRUE(losses.of(p.linears[0].weight, p.linears[0].scheme, some_scales(2, 64), "w").has_value());
  EXPECT_THAT(losses.host_reason(), testing::HasSubstr("squared error"));
}

// A candidate whose scaled weights are no floats only loses.
TEST_F(DeviceScaleSearch, CandidatesThatOverflowLose) {
  const Problem p = problem("int8-ch-sym-sf32", 64, false);
  Tensor weight = times(p.linears[0].weight, 1e38f);
  std::vector<float> scales(3 * 64, 1.0f);
  for (size_t j = 0; j < 64; ++j) scales[64 + j] = 1e5f;
  const Tensor moment = there(times(p.moment, 1e-30f));
  ScaleLosses losses(moment, p.options);
  const auto found = losses.of(weight, p.linears[0].scheme, scales, "w").value();
  EXPECT_FALSE(found[1] < found[0]);
  EXPECT_EQ(found[2], found[0]);
}

#ifndef PARE_TEST_GPU
// Matrix, scales and importance go there and the losses come back, however many candidates there are.
TEST_F(DeviceScaleSearch, NothingWaitsForACandidate) {
  const Problem p = problem("int4-g32-asym", 64);
  const QuantizeOptions options = options_of(p);
  const Tensor moment = there(p.moment);
  for (const int64_t candidates : {1, 9}) {
    ScaleLosses losses(moment, options);
    const int64_t before = emulator::counts().copies;
    const std::vector<float> scales = some_scales(candidates, 64);
    ASSERT_TRUE(losses.of(p.linears[0].weight, p.linears[0].scheme, scales, "w").has_value());
    EXPECT_EQ(emulator::counts().copies - before, 4) << candidates;
  }
}

TEST_F(DeviceScaleSearch, TheOrderOfThreadsChangesNoBit) {
  for (const Scheme& scheme : {kSchemes[1], kSchemes[6]}) {
    const Problem p = problem(scheme.text, scheme.in);
    const QuantizeOptions options = options_of(p);
    const Tensor moment = there(p.moment);
    const auto run = [&] {
      ScaleLosses losses(moment, options);
      return losses.of(p.linears[1].weight, p.linears[1].scheme, some_scales(5, scheme.in), "w").value();
    };
    const std::vector<double> forward = run();
    emulator::set_order(emulator::Order::reverse);
    EXPECT_EQ(run(), forward);
    for (const uint64_t seed : {1, 2}) {
      emulator::set_order(emulator::Order::shuffled, seed);
      EXPECT_EQ(run(), forward);
    }
    emulator::set_order(emulator::Order::forward);
  }
}
#endif

// Whichever allocation fails, the search says so and gives everything back.
TEST_F(DeviceScaleSearch, AnyAllocationMayFail) {
  const Problem p = problem("int4-g32-asym", 64);
  const QuantizeOptions options = options_of(p);
  const Tensor moment = there(p.moment);
  const Backend& gpu = backend_for(kGpu);
  const uint64_t before = cuda::memory_use(gpu).held_bytes;
  int failed = 0;
  for (int64_t n = 1; n < 100; ++n) {
    cuda::fail_allocation(n);
    const auto found =
        search_awq_scale(p.linears, p.abs_mean, moment, options, {.steps = 2, .duo = false}, {});
    cuda::fail_allocation(0);
    EXPECT_EQ(cuda::memory_use(gpu).held_bytes, before) << n;
    if (found) break;
    ++failed;
    EXPECT_EQ(found.error().exit, Exit::resource);
  }
  EXPECT_EQ(failed, 10) << "importance, weight, scales, losses and workspace of each matrix";
}

// The plan of memory counts so many copies of the matrix.
TEST_F(DeviceScaleSearch, WorkspaceIsWhatThePlanCounts) {
  ScaleSearch& search = *backend_for(kGpu).statistics()->scales();
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{4096, 4096}, {28672, 4096}, {4096, 14336}}) {
    const size_t matrix = size_t(out * in) * sizeof(float);
    EXPECT_LE(matrix + search.workspace_bytes(out, in, kScalesAtOnce), (kScalesAtOnce + 2) * matrix);
  }
}

}  // namespace
}  // namespace pare::test
