// The elementary functions against the double functions of the C library, over dense ranges and at the ends.
#include <gtest/gtest.h>

#include <bit>
#include <limits>

#include "engine/backends/cpu/kernels.h"
#include "tests/engine/backends/cpu_vector/support.h"

namespace pare::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

using Elementwise = void (*)(const float*, float*, int64_t);

class MathTest : public testing::TestWithParam<Isa> {
 protected:
  // One rounding more than the last one; without a fused multiply-add the last steps round twice.
  static double one_ulp() { return GetParam() == Isa::generic ? 1.25 : 1.05; }

  const Kernels& kernels() const { return pare::cpu::kernels(GetParam()); }

  static float one(Elementwise function, float x) {
    float out = 0.0f;
    function(&x, &out, 1);
    return out;
  }

  // Every float between low and high (same sign) whose bits are a multiple of a prime.
  static std::vector<float> dense(float low, float high) {
    uint32_t begin = std::bit_cast<uint32_t>(low);
    uint32_t end = std::bit_cast<uint32_t>(high);
    if (begin > end) std::swap(begin, end);
    std::vector<float> values;
    for (uint32_t bits = begin; bits <= end; bits += 2'003) values.push_back(std::bit_cast<float>(bits));
    return values;
  }

  // The largest error over x in ulp, and where it is.
  template <typename Exact>
  static void expect_within(double bound, Elementwise function, const std::vector<float>& x, Exact exact) {
    std::vector<float> out(x.size());
    function(x.data(), out.data(), int64_t(x.size()));
    double worst = 0.0;
    size_t at = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double error = ulp_error(out[i], exact(double(x[i])));
      if (error > worst) {
        worst = error;
        at = i;
      }
    }
    EXPECT_LE(worst, bound) << "at x = " << x[at] << ": " << out[at] << ", exact " << exact(double(x[at]));
    testing::Test::RecordProperty("worst_ulp", std::to_string(worst));
  }
};

TEST_P(MathTest, ExpIsWithinOneUlp) {
  const auto exact = [](double x) { return std::exp(x); };
  expect_within(one_ulp(), kernels().exp, dense(1e-30f, 89.0f), exact);
  expect_within(one_ulp(), kernels().exp, dense(-1e-30f, -104.5f),
                exact);  // down through the subnormal results
}

TEST_P(MathTest, ExpAtTheEnds) {
  const Elementwise exp = kernels().exp;
  EXPECT_EQ(one(exp, 0.0f), 1.0f);
  EXPECT_EQ(one(exp, -0.0f), 1.0f);
  EXPECT_EQ(one(exp, kInfinity), kInfinity);
  EXPECT_EQ(one(exp, 1e30f), kInfinity);
  EXPECT_EQ(one(exp, 88.73f), kInfinity);
  EXPECT_LT(one(exp, 88.72f), kInfinity);
  EXPECT_EQ(one(exp, -kInfinity), 0.0f);
  EXPECT_EQ(one(exp, -1e30f), 0.0f);
  EXPECT_EQ(one(exp, -104.0f), 0.0f);
  EXPECT_EQ(one(exp, -103.0f), std::numeric_limits<float>::denorm_min());
  EXPECT_EQ(one(exp, std::numeric_limits<float>::denorm_min()), 1.0f);
  EXPECT_TRUE(std::isnan(one(exp, kNan)));
  EXPECT_TRUE(std::isnan(one(exp, -kNan)));
}

TEST_P(MathTest, ExpOfNonpositiveIsWithinTwoUlp) {
  const Elementwise exp = kernels().exp_nonpositive;
  expect_within(1.3, exp, dense(-1e-30f, -104.5f), [](double x) { return std::exp(x); });
  EXPECT_EQ(one(exp, 0.0f), 1.0f);
  EXPECT_EQ(one(exp, -105.0f), 0.0f);
  EXPECT_EQ(one(exp, -kInfinity), 0.0f);
  EXPECT_TRUE(std::isnan(one(exp, kNan)));
}

TEST_P(MathTest, Exp2OfNonpositiveIsWithinOneUlp) {
  const Elementwise exp2 = kernels().exp2_nonpositive;
  expect_within(one_ulp(), exp2, dense(-1e-30f, -151.0f), [](double x) { return std::exp2(x); });
  EXPECT_EQ(one(exp2, 0.0f), 1.0f);
  EXPECT_EQ(one(exp2, -1.0f), 0.5f);
  EXPECT_EQ(one(exp2, -149.0f), std::numeric_limits<float>::denorm_min());
  EXPECT_EQ(one(exp2, -151.0f), 0.0f);
  EXPECT_EQ(one(exp2, -kInfinity), 0.0f);
  EXPECT_TRUE(std::isnan(one(exp2, kNan)));
}

TEST_P(MathTest, LogIsWithinTwoUlp) {
  const Elementwise log = kernels().log;
  const auto exact = [](double x) { return std::log(x); };
  expect_within(2.0, log, dense(1.2e-38f, 0.7f), exact);
  expect_within(2.0, log, dense(0.7f, 1.4f), exact);  // relative to results near 0
  expect_within(2.0, log, dense(1.4f, 3e38f), exact);
  EXPECT_EQ(one(log, 1.0f), 0.0f);
  EXPECT_TRUE(std::isnan(one(log, kNan)));
}

TEST_P(MathTest, TanhIsWithinTwoUlp) {
  const Elementwise tanh = kernels().tanh;
  const auto exact = [](double x) { return std::tanh(x); };
  expect_within(2.0, tanh, dense(1e-30f, 20.0f), exact);
  expect_within(2.0, tanh, dense(-1e-30f, -20.0f), exact);
  EXPECT_EQ(one(tanh, 0.0f), 0.0f);
  EXPECT_EQ(one(tanh, kInfinity), 1.0f);
  EXPECT_EQ(one(tanh, -kInfinity), -1.0f);
  EXPECT_EQ(one(tanh, 1e30f), 1.0f);
  EXPECT_EQ(one(tanh, std::numeric_limits<float>::denorm_min()), std::numeric_limits<float>::denorm_min());
  EXPECT_TRUE(std::isnan(one(tanh, kNan)));
}

// 8 ulp are less than 5e-7 of the value. 12.5 is near where the lower tail becomes subnormal.
TEST_P(MathTest, NormalDistributionHasSmallRelativeErrorInBothTails) {
  const Elementwise phi = kernels().normal_distribution;
  const auto exact = [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2.0)); };
  expect_within(8.0, phi, dense(-1e-30f, -12.5f), exact);
  expect_within(4.5, phi, dense(1e-30f, 20.0f), exact);
  EXPECT_EQ(one(phi, 0.0f), 0.5f);
  EXPECT_EQ(one(phi, kInfinity), 1.0f);
  EXPECT_EQ(one(phi, -kInfinity), 0.0f);
  EXPECT_EQ(one(phi, -40.0f), 0.0f);
  EXPECT_TRUE(std::isnan(one(phi, kNan)));
}

// 2 Phi(x sqrt 2) - 1 = erf(x): the published values of Abramowitz and Stegun, table 7.1.
TEST_P(MathTest, NormalDistributionGivesThePublishedErrorFunction) {
  const struct {
    double x, erf;
  } table[] = {{0.1, 0.1124629160},
               {0.5, 0.5204998778},
               {1.0, 0.8427007929},
               {1.5, 0.9661051465},
               {2.0, 0.9953222650}};
  for (const auto& row : table) {
    const float phi = one(kernels().normal_distribution, float(row.x * std::sqrt(2.0)));
    EXPECT_NEAR(2.0 * double(phi) - 1.0, row.erf, 3e-7) << row.x;
  }
}

double exact_activation(Activation kind, double x) {
  switch (kind) {
    case Activation::identity:
      return x;
    case Activation::relu:
      return x < 0.0 ? 0.0 : x;
    case Activation::silu:
      return x / (1.0 + std::exp(-x));
    case Activation::gelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh: {
      const double u = std::sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x);
      return x / (1.0 + std::exp(-2.0 * u));  // the same as x / 2 (1 + tanh u)
    }
    case Activation::quick_gelu:
      return x / (1.0 + std::exp(-1.702 * x));
  }
  return x;
}

TEST_P(MathTest, ActivationsHaveSmallRelativeError) {
  std::vector<float> x;
  for (float v = -10.0f; v <= 10.0f; v += 0.00171f) x.push_back(v);
  std::vector<float> out(x.size());
  for (const Activation kind : {Activation::identity, Activation::relu, Activation::silu, Activation::gelu,
                                Activation::gelu_tanh, Activation::quick_gelu}) {
    const int64_t n = int64_t(x.size());
    kernels().activation({.x = x.data(),
                          .out = out.data(),
                          .rows = 1,
                          .columns = n,
                          .x_stride = n,
                          .out_stride = n,
                          .kind = kind},
                         0, 1);
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = exact_activation(kind, double(x[i]));
      // Four roundings of the result, and up to four of the argument of the exponential, where the error is
      // absolute.
      const double argument = kind == Activation::gelu_tanh ? 1.6 * std::abs(x[i]) * (1 + 0.045 * x[i] * x[i])
                              : kind == Activation::gelu    ? 1.0  // 8 ulp in all
                                                            : 1.702 * std::abs(x[i]);
      ASSERT_LE(std::abs(double(out[i]) - exact), 4 * 6e-8 * (1.0 + argument) * std::abs(exact) + 1e-40)
          << "kind " << int(kind) << " at " << x[i];
    }
  }
}

TEST_P(MathTest, WritesExactlyTheElementsOfEachLength) {
  const std::vector<float> x = random_floats(70, -3.0f, 3.0f, 5);
  std::vector<float> all(x.size());
  kernels().exp(x.data(), all.data(), int64_t(x.size()));
  for (int64_t n = 0; n <= 66; ++n) {
    std::vector<float> out(x.size(), -7.0f);
    kernels().exp(x.data(), out.data(), n);
    for (int64_t i = 0; i < int64_t(x.size()); ++i) {
      ASSERT_EQ(out[size_t(i)], i < n ? all[size_t(i)] : -7.0f) << "length " << n << ", element " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, MathTest, testing::ValuesIn(host_levels()),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

}  // namespace
}  // namespace pare::cpu
