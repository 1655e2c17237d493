// Losses of scales before rounding, on every backend that has them, against the definition, and the
// definition against cases that can be told without it.
#include "engine/tensor/scale_search.h"

#include <cmath>
#include <vector>

#include "engine/tensor/statistics_backend.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

struct Case {
  int64_t rows, columns, width, candidates;
  GridFormat format;
  int32_t steps = 0;
  bool is_weighted = false;
  float weight = 1.0f;  // size of the weights
};

constexpr GridFormat kInt4{16, true, false, false, DType::f16};
constexpr GridFormat kInt4Zero{16, false, false, false, DType::f16};
constexpr GridFormat kInt4Minimum{16, false, false, true, DType::bf16};
constexpr GridFormat kInt3{8, true, false, false, DType::f32};
constexpr GridFormat kInt8{256, true, true, false, DType::f32};

const std::vector<Case> kCases{
    {1, 1, 1, 1, kInt8},
    {3, 17, 32, 2, kInt4, 20},
    {5, 33, 16, 3, kInt4Zero, 40, true},
    {9, 130, 64, 5, kInt4Minimum, 40, true},
    {2, 300, 300, 3, kInt4, 40, true},  // a group too wide for shared memory
    {2, 301, 301, 2, kInt8},
    {33, 129, 32, 2, kInt3, 20, true},
    {129, 40, 40, 2, kInt8, 20},                 // more rows than a tile of the product
    {4, 64, 32, 3, kInt4Zero, 33, true, 1e-7f},  // scales below what f16 holds
};

class ScaleLossesTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    StatisticsBackend* statistics = tested_backend(GetParam()).statistics();
    if (statistics == nullptr || statistics->scales() == nullptr)
      GTEST_SKIP() << "the host's own code does them";
  }

  struct Problem {
    Tensor weight, scales, moment, importance;
  };
  static Problem problem(const Case& c, uint64_t seed) {
    const Tensor x = uniform({c.columns + 3, c.columns}, seed);
    Problem p{.weight = uniform({c.rows, c.columns}, seed + 1, -c.weight, 0.7f * c.weight),
              .scales = uniform({c.candidates, c.columns}, seed + 2, 0.3f, 3.0f),
              .moment = zeros(DType::f32, {c.columns, c.columns}),
              .importance = uniform({c.columns}, seed + 3, 0.0f, 2.0f)};
    for (int64_t i = 0; i < c.columns; ++i)
      for (int64_t j = 0; j < c.columns; ++j) {
        double sum = 0.0;
        for (int64_t t = 0; t < x.size(0); ++t) sum += value_at(x, t, i) * value_at(x, t, j);
        p.moment.mutable_data<float>()[i * c.columns + j] = float(sum);
      }
    return p;
  }

  std::vector<double> losses(Backend& backend, const Case& c, const Problem& p, int64_t at_once) {
    ScaleSearch& search = *backend.statistics()->scales();
    const Tensor found = zeros(DType::f64, {c.candidates});
    const Tensor workspace =
        zeros(DType::u8, {int64_t(search.workspace_bytes(c.rows, c.columns, at_once)) + 64});
    search.losses({.weight = p.weight.data<float>(),
                   .scales = p.scales.data<float>(),
                   .moment = p.moment.data<float>(),
                   .losses = found.mutable_data<double>(),
                   .rows = c.rows,
                   .columns = c.columns,
                   .width = c.width,
                   .candidates = c.candidates,
                   .format = c.format,
                   .search = {.steps = c.steps,
                              .grid = 50,
                              .importance = c.is_weighted ? p.importance.data<float>() : nullptr},
                   .at_once = at_once,
                   .workspace = workspace.mutable_raw()});
    const Status status = backend.finish();
    EXPECT_TRUE(status.has_value()) << format_error(status.error());
    return {found.data<double>(), found.data<double>() + c.candidates};
  }
  Backend& tested() { return tested_backend(GetParam()); }

  // sqrt(tr(W H W^T)): errors of floats are a share of it.
  static double size_of(const Case& c, const Problem& p) {
    double total = 0.0;
    for (int64_t r = 0; r < c.rows; ++r)
      for (int64_t i = 0; i < c.columns; ++i)
        for (int64_t j = 0; j < c.columns; ++j)
          total += value_at(p.weight, r, i) * value_at(p.moment, i, j) * value_at(p.weight, r, j);
    return std::sqrt(total);
  }
};
PARE_INSTANTIATE_BACKENDS(ScaleLossesTest);

TEST_P(ScaleLossesTest, AreThoseOfTheDefinition) {
  uint64_t seed = 1;
  for (const Case& c : kCases) {
    SCOPED_TRACE(testing::Message() << c.rows << " x " << c.columns << " in groups of " << c.width << ", "
                                    << c.format.code_count << " codes");
    const Problem p = problem(c, seed += 10);
    const std::vector<double> got = losses(tested(), c, p, std::min<int64_t>(2, c.candidates));
    const std::vector<double> want = losses(oracle(), c, p, 1);
    const double slack = 0x1p-20 * size_of(c, p);
    for (size_t i = 0; i < want.size(); ++i) {
      ASSERT_GE(want[i], 0.0);
      EXPECT_NEAR(std::sqrt(std::max(got[i], 0.0)), std::sqrt(want[i]), 2e-5 * std::sqrt(want[i]) + slack);
    }
    if (c.columns > 16) {
      EXPECT_GT(want[0], 100.0 * slack * slack) << "nothing was rounded";
    }
  }
}

// Rounding to 8 bits by hand, each input alone.
TEST_P(ScaleLossesTest, OfPlainRoundingAreSumsOfSquares) {
  const Case c{.rows = 6, .columns = 24, .width = 24, .candidates = 3, .format = kInt8};
  Problem p = problem(c, 500);
  for (int64_t i = 0; i < 24 * 24; ++i)
    p.moment.mutable_data<float>()[i] = i % 25 == 0 ? float(1 + i % 3) : 0.0f;
  const std::vector<double> got = losses(tested(), c, p, 3);
  for (int64_t k = 0; k < c.candidates; ++k) {
    double want = 0.0;
    for (int64_t r = 0; r < c.rows; ++r) {
      float largest = 0.0f;
      for (int64_t j = 0; j < c.columns; ++j)
        largest = std::max(largest,
                           std::abs(p.weight.data<float>()[r * 24 + j] * p.scales.data<float>()[k * 24 + j]));
      const double step = double(float(double(largest) / 127.0));
      for (int64_t j = 0; j < c.columns; ++j) {
        const double w = value_at(p.weight, r, j), s = value_at(p.scales, k, j);
        const double error = w - step * std::nearbyint(w * s / step) / s;
        want += value_at(p.moment, j, j) * error * error;
      }
    }
    EXPECT_NEAR(got[size_t(k)], want, 1e-4 * want);
  }
}

// How many are under way together changes no bit, and a larger group of candidates no loss before it.
TEST_P(ScaleLossesTest, DoNotDependOnHowManyAreUnderWay) {
  const Case c{.rows = 7,
               .columns = 70,
               .width = 32,
               .candidates = 7,
               .format = kInt4,
               .steps = 20,
               .is_weighted = true};
  const Problem p = problem(c, 700);
  const std::vector<double> one = losses(tested(), c, p, 1);
  for (const int64_t at_once : {2, 3, 7}) EXPECT_EQ(losses(tested(), c, p, at_once), one);
  Case fewer = c;
  fewer.candidates = 4;
  const std::vector<double> first = losses(tested(), fewer, p, 4);
  EXPECT_EQ(first, std::vector<double>(one.begin(), one.begin() + 4));
}

// A power of two for all channels only moves exponents.
TEST_P(ScaleLossesTest, PowersOfTwoChangeNothing) {
  const Case c{.rows = 5,
               .columns = 64,
               .width = 32,
               .candidates = 3,
               .format = kInt3,
               .steps = 30,
               .is_weighted = true};
  Problem p = problem(c, 900);
  for (int64_t j = 0; j < 64; ++j) {
    float* scales = p.scales.mutable_data<float>();
    scales[64 + j] = 4.0f * scales[j];
    scales[128 + j] = 0.125f * scales[j];
  }
  const std::vector<double> got = losses(tested(), c, p, 2);
  EXPECT_EQ(got[1], got[0]);
  EXPECT_EQ(got[2], got[0]);
}

}  // namespace
}  // namespace pare::test
