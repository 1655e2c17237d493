// Factors of a matrix against the exact identity of their error, in every form they are found by.
#include "calibrate/low_rank.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "calibrate/output_error.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/random.h"
#include "engine/tensor/symmetric_eigen.h"
#include "tests/support/random_sparse.h"
#include "tests/support/walk.h"

namespace pare {
namespace {

using test::checked;
using test::random_matrix;

// X^T X of `tokens` random inputs with columns of unequal size and some correlation.
Tensor moment_of(int64_t tokens, int64_t in, uint64_t seed) {
  const Tensor x = random_matrix(DType::f32, tokens, in, seed);
  std::vector<double> sums(size_t(in * in), 0.0);
  const auto value = [&](int64_t t, int64_t j) {
    const double own = double(x.data<float>()[t * in + j]), first = double(x.data<float>()[t * in]);
    return (own + 0.5 * first) / (1.0 + 0.2 * double(j));
  };
  for (int64_t t = 0; t < tokens; ++t)
    for (int64_t i = 0; i < in; ++i)
      for (int64_t j = 0; j < in; ++j) sums[size_t(i * in + j)] += value(t, i) * value(t, j);
  Tensor moment = checked(Tensor::allocate(DType::f32, {in, in}));
  for (int64_t i = 0; i < in * in; ++i) moment.mutable_data<float>()[i] = float(sums[size_t(i)]);
  return moment;
}

Tensor identity(int64_t n) {
  Tensor moment = checked(Tensor::allocate(DType::f32, {n, n}));
  for (int64_t i = 0; i < n; ++i) moment.mutable_data<float>()[i * n + i] = 1.0f;
  return moment;
}

// tr(D H D^T), D = weight - product, all sums in double.
double error_of(const Tensor& weight, const LowRankTensor* product, const Tensor& moment) {
  const int64_t out = weight.size(0), in = weight.size(1);
  std::vector<double> d(size_t(out * in));
  for (int64_t i = 0; i < out; ++i) {
    for (int64_t j = 0; j < in; ++j) {
      double value = double(weight.data<float>()[i * in + j]);
      for (int64_t k = 0; product != nullptr && k < product->rank(); ++k)
        value -= double(product->left.data<float>()[i * product->rank() + k]) *
                 double(product->right.data<float>()[k * in + j]);
      d[size_t(i * in + j)] = value;
    }
  }
  double total = 0.0;
  for (int64_t i = 0; i < out; ++i)
    for (int64_t j = 0; j < in; ++j)
      for (int64_t l = 0; l < in; ++l)
        total += d[size_t(i * in + j)] * double(moment.data<float>()[j * in + l]) * d[size_t(i * in + l)];
  return total;
}

struct Case {
  int64_t out, in, tokens;  // tokens < in: the moment is singular
};
constexpr Case kCases[] = {{12, 30, 200}, {30, 12, 200}, {17, 17, 100}, {30, 12, 5},
                           {12, 30, 5},   {1, 8, 20},    {8, 1, 20},    {24, 24, 1}};

TEST(LowRank, ErrorIsTheRestOfTheSpectrum) {
  for (const Case& c : kCases) {
    const Tensor weight = random_matrix(DType::f32, c.out, c.in, 1), moment = moment_of(c.tokens, c.in, 2);
    const OutputComponents components = checked(output_components(weight, moment, {}, "w"));
    ASSERT_EQ(components.count(), std::min(c.out, c.in));
    EXPECT_TRUE(components.is_exact);
    EXPECT_TRUE(components.is_weighted);
    const double energy = error_of(weight, nullptr, moment);
    // The moment was rounded to floats, which leaves a singular one slightly indefinite.
    constexpr double kRounding = 2e-7;
    EXPECT_NEAR(components.energy / energy, 1.0, kRounding);
    double before = energy * (1.0 + kRounding);
    for (int64_t rank = 1; rank <= components.count(); ++rank) {
      double rest = 0.0;
      for (int64_t k = components.count(); k-- > rank;) rest += components.spectrum[size_t(k)];
      const LowRankTensor factors = checked(factors_of(weight, components, rank, DType::f32, "w"));
      checked(factors.validate("memory", "w"));
      const double error = error_of(weight, &factors, moment);
      // Factors are stored as floats.
      EXPECT_NEAR(error / energy, rest / energy, kRounding) << c.out << "x" << c.in << " rank " << rank;
      EXPECT_LE(error, before + kRounding * energy);
      EXPECT_NEAR(components.relative_error(rank), std::sqrt(rest / energy), 1e-6);
      EXPECT_NEAR(components.kept_energy(rank), 1.0 - rest / energy, kRounding);
      before = error;
    }
  }
}

TEST(LowRank, FullRankIsTheWeight) {
  for (const Case& c : kCases) {
    const Tensor weight = random_matrix(DType::f32, c.out, c.in, 3), moment = moment_of(c.tokens, c.in, 4);
    for (const Tensor& used : {moment, Tensor()}) {
      const LowRankTensor factors =
          checked(nearest_low_rank(weight, used, std::min(c.out, c.in), DType::f32, "w"));
      const Tensor product = checked(factors.to_dense());
      for (int64_t i = 0; i < weight.numel(); ++i)
        ASSERT_NEAR(product.data<float>()[i], weight.data<float>()[i], 4e-6)
            << c.out << "x" << c.in << " from " << c.tokens << " tokens, at " << i;
    }
  }
}

// The small side and the outputs' side have the same spectrum and the same product: W^T seen from the other
// side.
TEST(LowRank, BothFormsAgree) {
  const int64_t out = 20, in = 9;
  const Tensor weight = random_matrix(DType::f32, out, in, 5), moment = moment_of(60, in, 6);
  const OutputComponents small = checked(output_components(weight, moment, {}, "w"));
  // The definition: eigenvectors of W H W^T, [20, 20].
  MatrixF64 w(weight.data<float>(), weight.data<float>() + out * in),
      h(moment.data<float>(), moment.data<float>() + in * in);
  const auto whole = symmetric_eigen(product_nt_f64(product_f64(w, h, out, in, in), w, out, in, out), out);
  ASSERT_TRUE(whole);
  for (int64_t k = 0; k < in; ++k) {
    EXPECT_NEAR(small.spectrum[size_t(k)] / whole->values[size_t(k)], 1.0, 1e-9) << k;
    for (int64_t i = 0; i < out; ++i)
      EXPECT_NEAR(small.directions[size_t(k * out + i)], whole->vectors[size_t(k * out + i)], 1e-7) << k;
  }
}

TEST(LowRank, MomentOfOnesIsThePlainDecomposition) {
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{10, 21}, {21, 10}}) {
    const Tensor weight = random_matrix(DType::f32, out, in, 7);
    const OutputComponents weighted = checked(output_components(weight, identity(in), {}, "w"));
    const OutputComponents plain = checked(output_components(weight, Tensor(), {}, "w"));
    EXPECT_FALSE(plain.is_weighted);
    for (int64_t k = 0; k < plain.count(); ++k) {
      EXPECT_NEAR(weighted.spectrum[size_t(k)], plain.spectrum[size_t(k)], 1e-10 * plain.energy);
      for (int64_t i = 0; i < out; ++i)
        EXPECT_NEAR(weighted.directions[size_t(k * out + i)], plain.directions[size_t(k * out + i)], 1e-8);
    }
  }
}

// On the inputs that were seen the weighted factors are better, on white noise the plain ones.
TEST(LowRank, WeightsMatter) {
  const Tensor weight = random_matrix(DType::f32, 24, 32, 8), moment = moment_of(300, 32, 9);
  const LowRankTensor weighted = checked(nearest_low_rank(weight, moment, 6, DType::f32, "w"));
  const LowRankTensor plain = checked(nearest_low_rank(weight, Tensor(), 6, DType::f32, "w"));
  EXPECT_LT(error_of(weight, &weighted, moment), 0.8 * error_of(weight, &plain, moment));
  EXPECT_GT(error_of(weight, &weighted, identity(32)), 1.01 * error_of(weight, &plain, identity(32)));
}

TEST(LowRank, FactorsHaveEqualNorms) {
  const Tensor weight = random_matrix(DType::f32, 16, 40, 10);
  const LowRankTensor factors = checked(nearest_low_rank(weight, moment_of(90, 40, 11), 5, DType::f32, "w"));
  for (int64_t k = 0; k < 5; ++k) {
    double left = 0.0, right = 0.0;
    for (int64_t i = 0; i < 16; ++i) left += std::pow(double(factors.left.data<float>()[i * 5 + k]), 2);
    for (int64_t j = 0; j < 40; ++j) right += std::pow(double(factors.right.data<float>()[k * 40 + j]), 2);
    EXPECT_NEAR(left / right, 1.0, 1e-5);
  }
  const LowRankTensor half = checked(nearest_low_rank(weight, Tensor(), 5, DType::bf16, "w"));
  EXPECT_EQ(half.left.dtype(), DType::bf16);
  EXPECT_EQ(half.right.dtype(), DType::bf16);
}

TEST(LowRank, SubspaceIterationFindsTheLeadingComponents) {
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{150, 200}, {200, 150}}) {
    // A falling spectrum, as weights have; a random matrix has none.
    Tensor weight = random_matrix(DType::f32, out, in, 12);
    for (int64_t i = 0; i < out; ++i)
      for (int64_t j = 0; j < in; ++j) weight.mutable_data<float>()[i * in + j] /= float(1 + i / 4);
    const Tensor moment = moment_of(400, in, 13);
    for (const Tensor& used : {moment, Tensor()}) {
      ComponentOptions thin;
      thin.rank = 10;
      thin.exact_order = 64;
      const OutputComponents exact = checked(output_components(weight, used, {}, "w"));
      const OutputComponents found = checked(output_components(weight, used, thin, "w"));
      EXPECT_FALSE(found.is_exact);
      ASSERT_EQ(found.count(), 10);
      EXPECT_NEAR(found.energy / exact.energy, 1.0, 1e-5);
      for (int64_t k = 0; k < 10; ++k)
        EXPECT_NEAR(found.spectrum[size_t(k)] / exact.spectrum[size_t(k)], 1.0, 0.02) << k;
      EXPECT_NEAR(found.kept_energy(10), exact.kept_energy(10), 0.002);
      const Tensor measure = used.defined() ? used : identity(in);
      const LowRankTensor factors = checked(factors_of(weight, found, 10, DType::f32, "w"));
      EXPECT_NEAR(std::sqrt(error_of(weight, &factors, measure) / exact.energy), exact.relative_error(10),
                  0.01);
      // The start is a function of seed and name alone.
      EXPECT_EQ(checked(output_components(weight, used, thin, "w")).directions, found.directions);
      EXPECT_NE(checked(output_components(weight, used, thin, "v")).directions, found.directions);
    }
  }
}

TEST(LowRank, InputsThatWereNeverSeen) {
  const Tensor weight = random_matrix(DType::f32, 8, 10, 14);
  const Tensor nothing = checked(Tensor::allocate(DType::f32, {10, 10}));
  const OutputComponents components = checked(output_components(weight, nothing, {}, "w"));
  EXPECT_FALSE(components.is_weighted) << "as without data";
  EXPECT_EQ(components.spectrum, checked(output_components(weight, Tensor(), {}, "w")).spectrum);
  const Tensor zero = checked(Tensor::allocate(DType::f32, {8, 10}));
  const OutputComponents none = checked(output_components(zero, Tensor(), {}, "w"));
  EXPECT_EQ(none.energy, 0.0);
  EXPECT_EQ(none.relative_error(1), 0.0);
  checked(checked(factors_of(zero, none, 2, DType::f32, "w")).validate("memory", "w"));
}

TEST(LowRank, RefusesWhatIsNotFinite) {
  Tensor weight = random_matrix(DType::f32, 4, 6, 15), moment = moment_of(20, 6, 16);
  weight.mutable_data<float>()[7] = std::numeric_limits<float>::quiet_NaN();
  auto result = output_components(weight, moment, {}, "w");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().rule, "NU01");
  weight.mutable_data<float>()[7] = 0.0f;
  moment.mutable_data<float>()[3] = std::numeric_limits<float>::infinity();
  result = output_components(weight, moment, {}, "w");
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().rule, "NU09");
  // Factors near the square root of 1e30 do not fit 16-bit floats of the small exponent.
  Tensor large = random_matrix(DType::f32, 4, 6, 17);
  for (int64_t i = 0; i < large.numel(); ++i) large.mutable_data<float>()[i] *= 1e30f;
  const auto overflow = nearest_low_rank(large, Tensor(), 2, DType::f16, "w");
  ASSERT_FALSE(overflow);
  EXPECT_EQ(overflow.error().rule, "NU03");
}

class LowRankBackend : public ::testing::Environment {
  void SetUp() override { install_backend(make_cpu_backend()); }
};
const auto* const kBackend = ::testing::AddGlobalTestEnvironment(new LowRankBackend);

}  // namespace
}  // namespace pare
