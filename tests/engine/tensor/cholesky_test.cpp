#include "engine/tensor/cholesky.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "engine/core/random.h"

namespace pare {
namespace {

using Matrix = std::vector<double>;  // [n, n] row-major

// M M^T + 0.1 I
Matrix positive_definite(int64_t n, uint32_t stream) {
  const Random random(5, RandomPurpose::test_data, stream);
  Matrix m(size_t(n * n)), a(size_t(n * n));
  for (size_t i = 0; i < m.size(); ++i) m[i] = double(random.normal(i));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = i == j ? 0.1 : 0.0;
      for (int64_t k = 0; k < n; ++k) sum += m[i * n + k] * m[j * n + k];
      a[i * n + j] = sum;
    }
  return a;
}

// [A^-1]_00 of the lower right part of A that begins at (i, i), by elimination with row exchanges.
double first_of_inverse(const Matrix& a, int64_t n, int64_t i) {
  const int64_t size = n - i;
  Matrix rows(size_t(size * size));
  std::vector<double> right(size_t(size), 0.0);
  right[0] = 1.0;
  for (int64_t r = 0; r < size; ++r)
    for (int64_t c = 0; c < size; ++c) rows[r * size + c] = a[(i + r) * n + i + c];
  for (int64_t k = 0; k < size; ++k) {
    int64_t pivot = k;
    for (int64_t r = k; r < size; ++r)
      if (std::abs(rows[r * size + k]) > std::abs(rows[pivot * size + k])) pivot = r;
    for (int64_t c = 0; c < size; ++c) std::swap(rows[k * size + c], rows[pivot * size + c]);
    std::swap(right[k], right[pivot]);
    for (int64_t r = k + 1; r < size; ++r) {
      const double factor = rows[r * size + k] / rows[k * size + k];
      for (int64_t c = k; c < size; ++c) rows[r * size + c] -= factor * rows[k * size + c];
      right[r] -= factor * right[k];
    }
  }
  std::vector<double> x(static_cast<size_t>(size));
  for (int64_t k = size; k-- > 0;) {
    double sum = right[k];
    for (int64_t c = k + 1; c < size; ++c) sum -= rows[k * size + c] * x[c];
    x[k] = sum / rows[k * size + k];
  }
  return x[0];
}

TEST(InverseCholesky, FactorOfTheInverse) {
  for (const int64_t n : {1, 2, 3, 7, 33, 130}) {
    const Matrix a = positive_definite(n, uint32_t(n));
    const auto factor = inverse_cholesky(a, n);
    ASSERT_TRUE(factor.has_value()) << n;
    const Matrix& u = factor->upper;
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_GT(u[i * n + i], 0.0);
      for (int64_t j = 0; j < i; ++j) EXPECT_EQ(u[i * n + j], 0.0) << i << "," << j;
    }
    // U^T U A = I
    Matrix inverse(size_t(n * n));
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j)
        for (int64_t k = 0; k <= std::min(i, j); ++k) inverse[i * n + j] += u[k * n + i] * u[k * n + j];
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0.0;
        for (int64_t k = 0; k < n; ++k) sum += inverse[i * n + k] * a[k * n + j];
        EXPECT_NEAR(sum, i == j ? 1.0 : 0.0, 1e-8) << n << ": " << i << "," << j;
      }
  }
}

TEST(InverseCholesky, DiagonalIsThatOfTheRemainingInverse) {
  const int64_t n = 24;
  const Matrix a = positive_definite(n, 99);
  const auto factor = inverse_cholesky(a, n);
  ASSERT_TRUE(factor.has_value());
  for (int64_t i = 0; i < n; ++i) {
    const double expected = first_of_inverse(a, n, i);
    EXPECT_NEAR(factor->upper[i * n + i] * factor->upper[i * n + i], expected, 1e-9 * expected) << i;
  }
}

TEST(InverseCholesky, DiagonalMatrices) {
  const auto factor = inverse_cholesky({4.0, 0.0, 0.0, 0.0, 16.0, 0.0, 0.0, 0.0, 0.25}, 3);
  ASSERT_TRUE(factor.has_value());
  EXPECT_EQ(factor->upper, (Matrix{0.5, 0.0, 0.0, 0.0, 0.25, 0.0, 0.0, 0.0, 2.0}));
  EXPECT_DOUBLE_EQ(factor->smallest_pivot, 0.25);
}

// Pivots are those of the elimination that begins with the last row: here 2 and 5 - 4/2.
TEST(InverseCholesky, SmallestPivot) {
  const auto factor = inverse_cholesky({5.0, 2.0, 2.0, 2.0}, 2);
  ASSERT_TRUE(factor.has_value());
  EXPECT_NEAR(factor->smallest_pivot, 2.0, 1e-12);
  const auto nearly = inverse_cholesky({2.0 + 1e-6, 2.0, 2.0, 2.0}, 2);
  ASSERT_TRUE(nearly.has_value());
  EXPECT_NEAR(nearly->smallest_pivot, 1e-6, 1e-9);
}

TEST(InverseCholesky, NothingWithoutAPositiveDefiniteMatrix) {
  EXPECT_FALSE(inverse_cholesky({1.0, 2.0, 2.0, 1.0}, 2).has_value()) << "indefinite";
  EXPECT_FALSE(inverse_cholesky({1.0, 1.0, 1.0, 1.0}, 2).has_value()) << "singular";
  EXPECT_FALSE(inverse_cholesky({0.0}, 1).has_value());
  EXPECT_FALSE(inverse_cholesky({-1.0}, 1).has_value());
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  EXPECT_FALSE(inverse_cholesky({1.0, nan, nan, 1.0}, 2).has_value());
  EXPECT_FALSE(inverse_cholesky({infinity, 0.0, 0.0, 1.0}, 2).has_value());
}

}  // namespace
}  // namespace pare
