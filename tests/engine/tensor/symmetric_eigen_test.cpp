// Eigenvectors, products and orthonormal bases in double, against definitions.
#include "engine/tensor/symmetric_eigen.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "engine/core/random.h"

namespace pare {
namespace {

MatrixF64 random_rows(int64_t rows, int64_t columns, uint32_t stream) {
  const Random random(3, RandomPurpose::test_data, stream);
  MatrixF64 values(size_t(rows * columns));
  for (size_t i = 0; i < values.size(); ++i) values[i] = double(random.normal(i));
  return values;
}

MatrixF64 random_symmetric(int64_t n, uint32_t stream) {
  MatrixF64 a = random_rows(n, n, stream), symmetric(a.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      symmetric[size_t(i * n + j)] = a[size_t(i * n + j)] + a[size_t(j * n + i)];
  return symmetric;
}

double dot(const double* a, const double* b, int64_t n) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

void expect_orthonormal(const MatrixF64& rows, int64_t count, int64_t length, double tolerance) {
  for (int64_t i = 0; i < count; ++i)
    for (int64_t j = 0; j <= i; ++j)
      EXPECT_NEAR(dot(&rows[size_t(i * length)], &rows[size_t(j * length)], length), i == j ? 1.0 : 0.0,
                  tolerance)
          << i << " " << j;
}

TEST(SymmetricEigen, RebuildsTheMatrix) {
  for (const int64_t n : {1, 2, 3, 17, 64, 101}) {
    const MatrixF64 matrix = random_symmetric(n, uint32_t(n));
    const auto eigen = symmetric_eigen(matrix, n);
    ASSERT_TRUE(eigen);
    expect_orthonormal(eigen->vectors, n, n, 1e-13 * double(n));
    double largest = 0.0;
    for (const double value : eigen->values) largest = std::max(largest, std::abs(value));
    for (int64_t k = 1; k < n; ++k) EXPECT_GE(eigen->values[size_t(k - 1)], eigen->values[size_t(k)]);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0.0;
        for (int64_t k = 0; k < n; ++k)
          sum += eigen->values[size_t(k)] * eigen->vectors[size_t(k * n + i)] *
                 eigen->vectors[size_t(k * n + j)];
        ASSERT_NEAR(sum, matrix[size_t(i * n + j)], 1e-14 * double(n) * largest) << n << " " << i << " " << j;
      }
    }
    for (int64_t k = 0; k < n; ++k) {
      const double* v = &eigen->vectors[size_t(k * n)];
      int64_t peak = 0;
      for (int64_t i = 1; i < n; ++i)
        if (std::abs(v[i]) > std::abs(v[peak])) peak = i;
      EXPECT_GT(v[peak], 0.0);
    }
    const auto again = symmetric_eigen(matrix, n);
    EXPECT_EQ(again->vectors, eigen->vectors) << "the same bytes";
  }
}

// Second differences with fixed ends: 2 - 2 cos(pi k / (n + 1)), vectors sin(pi k i / (n + 1)).
TEST(SymmetricEigen, KnownMatrix) {
  constexpr int64_t n = 24;
  MatrixF64 matrix(size_t(n * n), 0.0);
  for (int64_t i = 0; i < n; ++i) {
    matrix[size_t(i * n + i)] = 2.0;
    if (i + 1 < n) matrix[size_t(i * n + i + 1)] = -1.0;  // the upper triangle alone is read
  }
  const auto eigen = symmetric_eigen(matrix, n);
  ASSERT_TRUE(eigen);
  for (int64_t k = 0; k < n; ++k) {
    const double angle = M_PI * double(n - k) / double(n + 1);
    EXPECT_NEAR(eigen->values[size_t(k)], 2.0 - 2.0 * std::cos(angle), 1e-13);
    double share = 0.0;
    for (int64_t i = 0; i < n; ++i)
      share += eigen->vectors[size_t(k * n + i)] * std::sin(angle * double(i + 1)) *
               std::sqrt(2.0 / double(n + 1));
    EXPECT_NEAR(std::abs(share), 1.0, 1e-12);
  }
}

TEST(SymmetricEigen, DegenerateAndBad) {
  const auto zero = symmetric_eigen(MatrixF64(16, 0.0), 4);
  ASSERT_TRUE(zero);
  for (const double value : zero->values) EXPECT_EQ(value, 0.0);
  expect_orthonormal(zero->vectors, 4, 4, 1e-15);
  MatrixF64 ones(25, 1.0);  // rank one: 5 and four zeros
  const auto rank_one = symmetric_eigen(ones, 5);
  ASSERT_TRUE(rank_one);
  EXPECT_NEAR(rank_one->values[0], 5.0, 1e-14);
  EXPECT_NEAR(rank_one->values[1], 0.0, 1e-14);
  for (int64_t i = 0; i < 5; ++i) EXPECT_NEAR(rank_one->vectors[size_t(i)], std::sqrt(0.2), 1e-14);
  ones[7] = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(symmetric_eigen(ones, 5));
  ones[7] = std::numeric_limits<double>::infinity();
  EXPECT_FALSE(symmetric_eigen(ones, 5));
}

TEST(MatrixF64, ProductsInEveryOrientation) {
  constexpr int64_t m = 5, k = 7, n = 3;
  const MatrixF64 a = random_rows(m, k, 1), b = random_rows(k, n, 2);
  MatrixF64 a_turned(a.size()), b_turned(b.size()), expected(size_t(m * n), 0.0);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t l = 0; l < k; ++l) a_turned[size_t(l * m + i)] = a[size_t(i * k + l)];
  for (int64_t l = 0; l < k; ++l)
    for (int64_t j = 0; j < n; ++j) b_turned[size_t(j * k + l)] = b[size_t(l * n + j)];
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t l = 0; l < k; ++l)
        expected[size_t(i * n + j)] += a[size_t(i * k + l)] * b[size_t(l * n + j)];
  const MatrixF64 plain = product_f64(a, b, m, k, n), tn = product_tn_f64(a_turned, b, m, k, n),
                  nt = product_nt_f64(a, b_turned, m, k, n);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(plain[i], expected[i], 1e-13);
    EXPECT_NEAR(tn[i], expected[i], 1e-13);
    EXPECT_NEAR(nt[i], expected[i], 1e-13);
  }
  EXPECT_EQ(product_f64({}, {}, 2, 0, 2), MatrixF64(4, 0.0));
}

TEST(MatrixF64, OrthonormalRowsSpanTheSame) {
  constexpr int64_t count = 4, length = 9;
  MatrixF64 rows = random_rows(count, length, 5);
  // Nearly dependent: the third row is the first plus little.
  for (int64_t i = 0; i < length; ++i) {
    rows[size_t(2 * length + i)] = rows[size_t(i)] + 1e-9 * rows[size_t(2 * length + i)];
  }
  const MatrixF64 before = rows;
  orthonormalize_rows(rows, count, length);
  expect_orthonormal(rows, count, length, 1e-14);
  for (int64_t k = 0; k < count; ++k) {
    double inside = 0.0;
    const double* old = &before[size_t(k * length)];
    for (int64_t j = 0; j <= k; ++j) {
      const double part = dot(old, &rows[size_t(j * length)], length);
      inside += part * part;
    }
    EXPECT_NEAR(inside / dot(old, old, length), 1.0, 1e-12) << k;
  }
  MatrixF64 zeros(size_t(2 * 3), 0.0);
  orthonormalize_rows(zeros, 2, 3);
  expect_orthonormal(zeros, 2, 3, 1e-15);
}

}  // namespace
}  // namespace pare
