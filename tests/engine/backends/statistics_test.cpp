// Statistics and solvers of calibration on every backend that has them, against the definition and against
// what a factor must fulfil.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "engine/tensor/statistics_backend.h"
#include "engine/tensor/tolerance.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

class StatisticsTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (tested_backend(GetParam()).statistics() == nullptr) GTEST_SKIP() << "the host's own code does them";
  }
  StatisticsBackend& tested() { return *tested_backend(GetParam()).statistics(); }
  StatisticsBackend& wanted() { return *oracle().statistics(); }
  double roundoff() { return tested_backend(GetParam()).operand_roundoff(); }
  void finish() {
    const Status status = tested_backend(GetParam()).finish();
    ASSERT_TRUE(status.has_value()) << format_error(status.error());
  }

  void second_moment(StatisticsBackend& backend, const Tensor& x, float scale, Tensor& moment) {
    Tensor workspace =
        zeros(DType::u8, {int64_t(backend.second_moment_workspace_bytes(x.size(0), x.size(1))) + 64});
    backend.second_moment({.x = x.data<float>(),
                           .moment = moment.mutable_data<float>(),
                           .tokens = x.size(0),
                           .channels = x.size(1),
                           .x_stride = x.row_stride(),
                           .scale = scale,
                           .workspace = workspace.mutable_raw()});
    finish();
  }
  void mirror(StatisticsBackend& backend, Tensor& moment) {
    backend.mirror_moment({.moment = moment.mutable_data<float>(), .channels = moment.size(0)});
    finish();
  }
  void cross_moment(StatisticsBackend& backend, const Tensor& a, const Tensor& b, Tensor& cross) {
    Tensor workspace = zeros(
        DType::u8, {int64_t(backend.cross_moment_workspace_bytes(a.size(0), a.size(1), b.size(1))) + 64});
    backend.cross_moment({.a = a.data<float>(),
                          .b = b.data<float>(),
                          .cross = cross.mutable_data<float>(),
                          .tokens = a.size(0),
                          .rows = a.size(1),
                          .columns = b.size(1),
                          .a_stride = a.row_stride(),
                          .b_stride = b.row_stride(),
                          .workspace = workspace.mutable_raw()});
    finish();
  }
};
PARE_INSTANTIATE_BACKENDS(StatisticsTest);

TEST_P(StatisticsTest, MomentsAreExactOnSmallIntegers) {
  // 1100 channels are more than one panel
  for (const auto& [tokens, channels] :
       {std::pair{1, 1}, {3, 2}, {7, 31}, {33, 33}, {16, 65}, {65, 7}, {2, 1100}}) {
    SCOPED_TRACE(testing::Message() << tokens << " tokens, " << channels << " channels");
    Padded x(integers({tokens, channels}, 1));
    Tensor got = integers({channels, channels}, 2, -90, 90), want = copy_of(got);
    second_moment(tested(), x.view(), 0.5f, got);
    second_moment(wanted(), x.view(), 0.5f, want);
    mirror(tested(), got);
    mirror(wanted(), want);
    ASSERT_TRUE(same_bits(got, want));
    for (int64_t i = 0; i < channels; i += 7)
      for (int64_t j = 0; j < i; j += 3) ASSERT_EQ(value_at(got, i, j), value_at(got, j, i));
  }
}

TEST_P(StatisticsTest, MomentsAgreeOnReals) {
  const Tensor x = uniform({300, 45}, 3);
  Tensor got = zeros(DType::f32, {45, 45}), want = zeros(DType::f32, {45, 45});
  for (int batch = 0; batch < 2; ++batch) {
    second_moment(tested(), x.rows(batch * 150, batch * 150 + 150), 2.0f, got);
    second_moment(wanted(), x.rows(batch * 150, batch * 150 + 150), 2.0f, want);
  }
  mirror(tested(), got);
  mirror(wanted(), want);
  std::vector<double> norms(45);
  for (int64_t c = 0; c < 45; ++c) {
    for (int64_t t = 0; t < 300; ++t) norms[size_t(c)] += value_at(x, t, c) * value_at(x, t, c);
    norms[size_t(c)] = std::sqrt(2.0 * norms[size_t(c)]);
  }
  for (int64_t i = 0; i < 45; ++i) {
    for (int64_t j = 0; j < 45; ++j) {
      ASSERT_NEAR(value_at(got, i, j), value_at(want, i, j),
                  tolerance::dot(300, norms[size_t(i)], norms[size_t(j)], roundoff()));
    }
  }
}

TEST_P(StatisticsTest, CrossMomentsAreExactOnSmallIntegers) {
  for (const auto& [tokens, rows, columns] : {std::tuple{1, 1, 1}, {5, 3, 17}, {33, 31, 8}, {17, 16, 33}}) {
    Padded a(integers({tokens, rows}, 4)), b(integers({tokens, columns}, 5));
    Tensor got = integers({rows, columns}, 6, -90, 90), want = copy_of(got);
    cross_moment(tested(), a.view(), b.view(), got);
    cross_moment(wanted(), a.view(), b.view(), want);
    ASSERT_TRUE(same_bits(got, want)) << tokens << " " << rows << " " << columns;
  }
}

struct Columns {
  std::vector<double> sum, abs_sum, square_sum, sample_square_sum;
  std::vector<float> abs_max, low, high;
  int64_t first_bad = std::numeric_limits<int64_t>::max();
  explicit Columns(size_t n)
      : sum(n),
        abs_sum(n),
        square_sum(n),
        sample_square_sum(n),
        abs_max(n),
        low(n, INFINITY),
        high(n, -INFINITY) {}
  void add(StatisticsBackend& backend, const Tensor& x, int64_t tokens_per_sample) {
    backend.column_statistics(
        {.x = x.data<float>(),
         .tokens = x.size(0),
         .channels = x.size(1),
         .x_stride = x.row_stride(),
         .sum = sum.data(),
         .abs_sum = abs_sum.data(),
         .square_sum = square_sum.data(),
         .sample_square_sum = tokens_per_sample > 0 ? sample_square_sum.data() : nullptr,
         .abs_max = abs_max.data(),
         .low = low.data(),
         .high = high.data(),
         .first_bad = &first_bad,
         .tokens_per_sample = tokens_per_sample});
  }
  bool operator==(const Columns&) const = default;
};

TEST_P(StatisticsTest, ColumnsHaveTheBitsOfTheDefinition) {
  for (const auto& [tokens, channels, sample] :
       {std::tuple{1, 1, 1}, {12, 33, 4}, {40, 65, 20}, {51, 31, 17}}) {
    SCOPED_TRACE(testing::Message() << tokens << " tokens, " << channels << " channels");
    Padded x(uniform({tokens, channels}, 7, -3.0f, 2.0f));
    const auto count = size_t(channels);
    Columns got(count), want(count), batches(count);
    got.add(tested(), x.view(), sample);
    want.add(wanted(), x.view(), sample);
    for (int64_t first = 0; first < tokens; first += sample)
      batches.add(tested(), x.view().rows(first, first + sample), sample);
    finish();
    EXPECT_TRUE(got == want);
    EXPECT_TRUE(batches == want);
    EXPECT_GT(want.high[0], -3.0f);
  }
}

TEST_P(StatisticsTest, ColumnsFindTheFirstBadValue) {
  Tensor x = uniform({9, 70}, 8);
  const auto spoil = [&](int64_t token, int64_t channel, float value) {
    x.mutable_data<float>()[token * 70 + channel] = value;
  };
  spoil(7, 3, -INFINITY);
  spoil(4, 69, std::nanf(""));
  spoil(4, 5, INFINITY);
  Columns columns(70);
  columns.add(tested(), x, 0);
  finish();
  EXPECT_EQ(columns.first_bad, 4 * 70 + 5);
  int64_t alone = 1000;  // everything else not wanted
  tested().column_statistics({.x = x.data<float>(),
                              .tokens = 9,
                              .channels = 70,
                              .x_stride = 70,
                              .sum = nullptr,
                              .abs_sum = nullptr,
                              .square_sum = nullptr,
                              .sample_square_sum = nullptr,
                              .abs_max = nullptr,
                              .low = nullptr,
                              .high = nullptr,
                              .first_bad = &alone,
                              .tokens_per_sample = 0});
  finish();
  EXPECT_EQ(alone, 4 * 70 + 5);
}

// A + A^T of uniform numbers, with the diagonal raised: positive definite.
Tensor definite(int64_t n, uint64_t seed) {
  const Tensor draws = uniform({n, n}, seed);
  Tensor matrix = zeros(DType::f32, {n, n});
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j)
      matrix.mutable_data<float>()[i * n + j] =
          0.5f * float(value_at(draws, i, j) + value_at(draws, j, i)) + (i == j ? float(n) : 0.0f);
  }
  return matrix;
}

TEST_P(StatisticsTest, SummarisesMoments) {
  for (const int64_t n : {1, 5, 33, 70}) {
    SCOPED_TRACE(n);
    Tensor moment = definite(n, 9);
    float* h = moment.mutable_data<float>();
    const auto compare = [&](double slack) {
      const auto got = tested().summarize_moment(h, n, slack), want = wanted().summarize_moment(h, n, slack);
      ASSERT_TRUE(got.has_value() && want.has_value());
      EXPECT_EQ(got->first_not_finite, want->first_not_finite);
      if (want->first_not_finite >= 0) return;
      EXPECT_EQ(got->first_negative, want->first_negative);
      EXPECT_EQ(got->first_asymmetric, want->first_asymmetric);
      EXPECT_EQ(got->largest, want->largest);
    };
    compare(1e-6);
    EXPECT_EQ(tested().summarize_moment(h, n, 1e-6)->first_asymmetric, -1);
    if (n > 2) {
      h[2 * n + 1] += 0.5f;
      h[(n - 1) * n] += 0.5f;
      compare(1e-6);
      EXPECT_EQ(tested().summarize_moment(h, n, 1e-6)->first_asymmetric, 2 * n + 1);
      compare(1.0);
    }
    h[n * n - 1] = -1.0f;
    compare(1e-6);
    EXPECT_EQ(tested().summarize_moment(h, n, 1e-6)->first_negative, n * n - 1);
    h[n / 2] = std::nanf("");
    h[n * n - 1] = INFINITY;
    compare(1e-6);
  }
}

struct FactorCase {
  Tensor moment;
  std::vector<int32_t> order;
  double dead = 0.0, added = 0.0;
  Result<InverseFactorReport> run(StatisticsBackend& backend, bool in_double, Tensor& upper) const {
    return backend.inverse_factor({.moment = moment.data<float>(),
                                   .order = order.empty() ? nullptr : order.data(),
                                   .upper = upper.mutable_data<float>(),
                                   .n = moment.size(0),
                                   .dead_diagonal = dead,
                                   .added = added,
                                   .in_double = in_double});
  }
};

TEST_P(StatisticsTest, FactorsInvertTheDampedMomentInItsOrder) {
  for (const int64_t n : {1, 2, 17, 40}) {
    for (const bool in_double : {true, false}) {
      SCOPED_TRACE(testing::Message() << n << (in_double ? " in double" : " in float"));
      FactorCase factor{.moment = definite(n, 10), .order = {}, .dead = 3.0, .added = 0.25};
      float* h = factor.moment.mutable_data<float>();
      if (n > 2) {
        for (int64_t i = 0; i < n; ++i) h[2 * n + i] = h[i * n + 2] = 0.0f;  // dead
        for (int64_t i = 0; i < n; ++i) factor.order.push_back(int32_t((i * 5 + 1) % n));
        if (n % 5 == 0) std::iota(factor.order.rbegin(), factor.order.rend(), 0);
      }
      Tensor upper = zeros(DType::f32, {n, n}), want = zeros(DType::f32, {n, n});
      const auto report = factor.run(tested(), in_double, upper);
      const auto wanted_report = factor.run(wanted(), true, want);
      ASSERT_TRUE(report.has_value() && wanted_report.has_value());
      ASSERT_TRUE(report->is_definite && wanted_report->is_definite);
      const double slack = in_double ? 1e-6 : 1e-4;
      EXPECT_NEAR(report->smallest_pivot, wanted_report->smallest_pivot,
                  slack * wanted_report->smallest_pivot);
      for (int64_t i = 0; i < n; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          if (j < i) {
            ASSERT_EQ(value_at(upper, i, j), 0.0);
          } else {
            ASSERT_NEAR(value_at(upper, i, j), value_at(want, i, j), slack);
          }
        }
      }
      // (U^T U) A = 1, from nothing but the matrix
      const auto damped = [&](int64_t i, int64_t j) {
        const int64_t row = factor.order.empty() ? i : factor.order[size_t(i)];
        const int64_t column = factor.order.empty() ? j : factor.order[size_t(j)];
        const double value = value_at(factor.moment, row, column);
        return i != j ? value : (value == 0.0 ? factor.dead : value) + factor.added;
      };
      for (int64_t i = 0; i < n; i += 3) {
        for (int64_t j = 0; j < n; ++j) {
          double product = 0.0;
          for (int64_t l = 0; l < n; ++l) {
            double inverse = 0.0;
            for (int64_t k = 0; k < n; ++k) inverse += value_at(upper, k, i) * value_at(upper, k, l);
            product += inverse * damped(l, j);
          }
          ASSERT_NEAR(product, i == j ? 1.0 : 0.0, 10 * slack) << i << "," << j;
        }
      }
    }
  }
}

TEST_P(StatisticsTest, FactorsRefuseWhatIsNotPositiveDefinite) {
  FactorCase factor{.moment = definite(9, 11), .order = {}, .dead = 0.0, .added = 0.0};
  float* h = factor.moment.mutable_data<float>();
  h[4 * 9 + 5] = h[5 * 9 + 4] = 100.0f;
  Tensor upper = zeros(DType::f32, {9, 9});
  for (const bool in_double : {true, false}) {
    const auto report = factor.run(tested(), in_double, upper);
    ASSERT_TRUE(report.has_value());
    EXPECT_FALSE(report->is_definite);
  }
  factor.added = 1000.0;  // damping mends it
  EXPECT_TRUE(factor.run(tested(), false, upper)->is_definite);
}

TEST_P(StatisticsTest, DividesRowsByASymmetricMatrix) {
  for (const auto& [n, rows] : {std::pair{1, 1}, {7, 3}, {33, 5}}) {
    const Tensor matrix = definite(n, 12), right = uniform({rows, n}, 13);
    const std::vector<double> a(matrix.data<float>(), matrix.data<float>() + n * n);
    std::vector<double> used = a, got(right.data<float>(), right.data<float>() + rows * n);
    const auto done =
        tested().divide_by_symmetric({.matrix = used.data(), .right = got.data(), .n = n, .rows = rows});
    ASSERT_TRUE(done.has_value() && *done);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t column = 0; column < n; ++column) {
        double sum = 0.0;
        for (int64_t l = 0; l < n; ++l) sum += got[size_t(row * n + l)] * a[size_t(l * n + column)];
        ASSERT_NEAR(sum, value_at(right, row, column), 1e-9);
      }
    }
  }
  std::vector<double> indefinite{1.0, 2.0, 2.0, 1.0}, right{1.0, 1.0};
  const auto refused =
      tested().divide_by_symmetric({.matrix = indefinite.data(), .right = right.data(), .n = 2, .rows = 1});
  ASSERT_TRUE(refused.has_value());
  EXPECT_FALSE(*refused);
}

}  // namespace
}  // namespace pare::test
