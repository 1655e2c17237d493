#include "calibrate/output_error.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/parallel.h"
#include "tests/quantize/problem.h"

namespace pare::test {
namespace {

class OutputError : public testing::Test {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }
  void TearDown() override { set_thread_count(0); }
};

TEST_F(OutputError, EnergyIsTheQuadraticForm) {
  for (const int64_t out : {1, 7, 1030})  // rows go through in parts of 1024
    for (const int64_t in : {1, 33, 64}) {
      const Tensor weight = random_weight(out, in), moment = correlated_moment(in);
      const double expected = energy_of(weight, nullptr, moment);
      EXPECT_NEAR(output_energy(weight, moment).value(), expected, 1e-4 * expected) << out << " " << in;
    }
}

TEST_F(OutputError, RelativeErrorOfKnownMatrices) {
  const Tensor weight = random_weight(9, 16), moment = correlated_moment(16);
  EXPECT_EQ(relative_output_error(weight, weight, moment).value(), 0.0);
  EXPECT_NEAR(relative_output_error(weight, times(weight, 0.75f), moment).value(), 0.25, 1e-5);
  EXPECT_NEAR(relative_output_error(weight, times(weight, -1.0f), moment).value(), 2.0, 1e-4);
  // With no correlation it is the plain relative error.
  const Tensor other = random_weight(9, 16, 2);
  const double plain = std::sqrt(energy_of(weight, &other, scaled_identity(16, 1.0f)) /
                                 energy_of(weight, nullptr, scaled_identity(16, 1.0f)));
  EXPECT_NEAR(relative_output_error(weight, other, scaled_identity(16, 3.0f)).value(), plain, 1e-5);
}

TEST_F(OutputError, NoOutputNoError) {
  const Tensor weight = times(random_weight(3, 8), 0.0f);
  EXPECT_EQ(relative_output_error(weight, weight, correlated_moment(8)).value(), 0.0);
  EXPECT_EQ(
      relative_output_error(random_weight(3, 8), random_weight(3, 8, 2), scaled_identity(8, 0.0f)).value(),
      0.0);
}

TEST_F(OutputError, SameForAnyThreadCount) {
  const Tensor weight = random_weight(150, 96), moment = correlated_moment(96),
               other = random_weight(150, 96, 2);
  set_thread_count(1);
  const double one = relative_output_error(weight, other, moment).value();
  set_thread_count(3);
  EXPECT_EQ(relative_output_error(weight, other, moment).value(), one);
}

}  // namespace
}  // namespace pare::test
