// matmul with dense weights on every backend.
#include <cmath>

#include "engine/core/parallel.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

using MatmulTest = BackendTest;
PARE_INSTANTIATE_BACKENDS(MatmulTest);

constexpr DType kTypes[] = {DType::f32, DType::bf16, DType::f16};
const std::vector<int64_t> kFewRows{1, 2, 3, 7, 16, 17, 33};

void product(const Tensor& x, const Tensor& weight, const Tensor& bias, bool accumulate, Tensor& out) {
  Workspace workspace = *Workspace::reserve(
      ops::matmul_workspace_bytes(Device::check(), x.size(0), weight.size(0), weight.size(1)),
      Device::check());
  ops::matmul(x, weight, bias, accumulate, out, workspace);
}

// Sum of products of integers: exact, so the order of summation must not show.
int64_t integer_dot(const Tensor& x, int64_t row, const Tensor& weight, int64_t column) {
  int64_t sum = 0;
  for (int64_t k = 0; k < weight.size(1); ++k) {
    sum += int64_t(value_at(x, row, k)) * int64_t(value_at(weight, column, k));
  }
  return sum;
}

TEST_P(MatmulTest, ExactOnSmallIntegers) {
  for (const DType dtype : kTypes) {
    for (const int64_t n : kSizes) {
      for (const int64_t k : kSizes) {
        const Tensor weight = integers({n, k}, 1, -4, 4, dtype);
        for (const int64_t m : kFewRows) {
          SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " m " << m << " n " << n << " k " << k);
          Padded x(integers({m, k}, 2)), out(m, n, 3);
          product(x.view(), weight, Tensor(), false, out.view());
          EXPECT_TRUE(out.padding_is_intact());
          for (const auto& [row, column] :
               {std::pair{int64_t{0}, int64_t{0}}, {m - 1, n - 1}, {m / 2, n / 3}}) {
            ASSERT_EQ(value_at(out.view(), row, column), double(integer_dot(x.view(), row, weight, column)));
          }
        }
      }
    }
  }
}

TEST_P(MatmulTest, EveryElementIsExact) {
  for (const DType dtype : kTypes) {
    const Tensor x = integers({19, 131}, 3), weight = integers({67, 131}, 4, -8, 8, dtype);
    Tensor out = zeros(DType::f32, {19, 67});
    product(x, weight, Tensor(), false, out);
    for (int64_t row = 0; row < 19; ++row) {
      for (int64_t column = 0; column < 67; ++column) {
        ASSERT_EQ(value_at(out, row, column), double(integer_dot(x, row, weight, column)))
            << row << "," << column;
      }
    }
  }
}

TEST_P(MatmulTest, BiasAndAccumulate) {
  for (const DType dtype : kTypes) {
    for (const int64_t m : kFewRows) {
      for (const int64_t n : {1, 15, 33, 130}) {
        SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " m " << m << " n " << n);
        const int64_t k = 65;
        const Tensor x = integers({m, k}, 5), weight = integers({n, k}, 6, -4, 4, dtype);
        const Tensor bias = integers({n}, 7, -50, 50);
        const Tensor before = integers({m, n}, 8, -90, 90);
        for (const bool has_bias : {false, true}) {
          for (const bool accumulate : {false, true}) {
            Padded out(before);
            product(x, weight, has_bias ? bias : Tensor(), accumulate, out.view());
            EXPECT_TRUE(out.padding_is_intact());
            for (int64_t row = 0; row < m; ++row) {
              for (int64_t column = 0; column < n; ++column) {
                double want = double(integer_dot(x, row, weight, column));
                if (has_bias) want += double(bias.data<float>()[column]);
                if (accumulate) want += value_at(before, row, column);
                ASSERT_EQ(value_at(out.view(), row, column), want) << row << "," << column;
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(MatmulTest, AgreesOnReals) {
  for (const DType dtype : kTypes) {
    for (const auto& [m, n, k] :
         {std::tuple{1, 300, 1000}, {2, 129, 4097}, {17, 257, 513}, {64, 65, 600}, {130, 70, 384}}) {
      SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " m " << m << " n " << n << " k " << k);
      const Tensor x = uniform({m, k}, 9), weight = uniform({n, k}, 10, -0.1f, 0.1f, dtype),
                   bias = uniform({n}, 11);
      Tensor out = uniform({m, n}, 12);
      product(x, weight, bias, true, out);
      product(x, weight, Tensor(), false, out);
    }
  }
}

TEST_P(MatmulTest, ResultsDoNotDependOnThreads) {
  const Tensor x = uniform({23, 700}, 13), weight = uniform({301, 700}, 14, -1.0f, 1.0f, DType::bf16);
  std::vector<Tensor> results;
  for (const int threads : {1, 2, 5}) {
    set_thread_count(threads);
    for (const int64_t rows : {1, 23}) {
      Tensor out = zeros(DType::f32, {rows, 301});
      product(x.rows(0, rows), weight, Tensor(), false, out);
      results.push_back(out);
    }
  }
  set_thread_count(0);
  for (size_t i = 2; i < results.size(); ++i) EXPECT_TRUE(same_bits(results[i], results[i % 2]));
}

TEST_P(MatmulTest, EmptyAndSumOverNothing) {
  Tensor nothing = zeros(DType::f32, {0, 5});
  product(zeros(DType::f32, {0, 3}), uniform({5, 3}, 1), Tensor(), false, nothing);
  Tensor no_columns = zeros(DType::f32, {4, 0});
  product(uniform({4, 3}, 1), zeros(DType::f32, {0, 3}), Tensor(), false, no_columns);
  const Tensor bias = integers({5}, 2);
  Tensor out = integers({4, 5}, 3);
  const Tensor before = copy_of(out);
  product(zeros(DType::f32, {4, 0}), zeros(DType::f32, {5, 0}), bias, true, out);
  EXPECT_EQ(value_at(out, 2, 1), value_at(before, 2, 1) + double(bias.data<float>()[1]));
  product(zeros(DType::f32, {4, 0}), zeros(DType::f32, {5, 0}), Tensor(), false, out);
  EXPECT_TRUE(same_bits(out, zeros(DType::f32, {4, 5})));
}

}  // namespace
}  // namespace pare::test
