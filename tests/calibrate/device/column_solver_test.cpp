// Parts of the column loops that a sweep does not reach by itself: energies, permutations, odd sizes.
#include "engine/tensor/column_solver.h"

#include <gtest/gtest.h>

#include <numeric>

#include "calibrate/output_error.h"
#include "tests/calibrate/device/device.h"
#include "tests/quantize/problem.h"

namespace pare::test {
namespace {

class ColumnSolverTest : public DeviceTest {};

TEST_F(ColumnSolverTest, EnergiesAreThoseOfTheDefinition) {
  for (const auto& [out, in] : {std::pair<int64_t, int64_t>{1, 1}, {3, 127}, {129, 130}, {130, 300}}) {
    const Tensor a = random_weight(out, in, 1), b = random_weight(out, in, 2), moment = correlated_moment(in);
    const double expected = energy_of(a, &b, moment);
    EXPECT_NEAR(device_energy(there(a), there(b), there(moment)).value(), expected, 1e-5 * expected);
    const double alone = energy_of(a, nullptr, moment);
    EXPECT_NEAR(output_energy(a, there(moment)).value(), alone, 1e-5 * alone);
  }
}

TEST_F(ColumnSolverTest, ColumnsGoThereAndBack) {
  for (const int64_t in : {1, 7, 257, 600}) {
    std::vector<int32_t> order(static_cast<size_t>(in));
    std::iota(order.begin(), order.end(), 0);
    std::reverse(order.begin(), order.end());
    if (in > 3) std::swap(order[1], order[3]);
    const Tensor x = random_weight(5, in), device = there(x);
    const Tensor on_device = device_order(order, kGpu).value();
    const Tensor gathered = with_columns(device, on_device, /*is_scatter=*/false).value();
    const Tensor seen = here(gathered);
    for (int64_t r = 0; r < 5; ++r)
      for (int64_t i = 0; i < in; ++i)
        ASSERT_EQ(seen.data<float>()[r * in + i], x.data<float>()[r * in + order[size_t(i)]]);
    EXPECT_TRUE(same_bytes(here(with_columns(gathered, on_device, /*is_scatter=*/true).value()), x));
  }
}

TEST_F(ColumnSolverTest, ErrorsOfRows) {
  const Tensor a = random_weight(3, 301, 1), b = random_weight(3, 301, 2);
  const MatrixErrors errors = device_errors(there(a), there(b)).value();
  double squared = 0.0, size = 0.0, largest = 0.0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double difference = double(a.data<float>()[i]) - double(b.data<float>()[i]);
    squared += difference * difference;
    size += double(a.data<float>()[i]) * double(a.data<float>()[i]);
    largest = std::max(largest, std::abs(difference));
  }
  EXPECT_NEAR(errors.squared, squared, 1e-12 * squared);
  EXPECT_NEAR(errors.size, size, 1e-12 * size);
  EXPECT_EQ(errors.largest, largest);
}

TEST_F(ColumnSolverTest, TheDiagonalOfAMoment) {
  const Tensor moment = correlated_moment(33);
  EXPECT_EQ(moment_diagonal(there(moment)).value(), moment_diagonal(moment).value());
}

}  // namespace
}  // namespace pare::test
