// Rounded inputs on every backend: the numbers that the integer product multiplies, and gradients by their
// formula.
#include <cmath>
#include <limits>

#include "engine/tensor/integer_product.h"
#include "tests/engine/backends/training_support.h"

namespace pare::test {
namespace {

using TrainingInputsTest = TrainingTest;
PARE_INSTANTIATE_BACKENDS(TrainingInputsTest);

using Mode = ActivationQuant::Mode;
const std::vector<ActivationQuant>& activations() {
  static const std::vector<ActivationQuant> all{
      {.symmetric = true},
      {.symmetric = false},
      {.mode = Mode::static_tensor, .symmetric = true, .scale = 0.006f},
      {.mode = Mode::static_tensor, .symmetric = false, .scale = 0.005f, .zero_point = -19}};
  return all;
}

// The step of a static one, as a parameter; what `activation` itself says is not read.
struct Rounding {
  ActivationQuant activation;
  Tensor step;
};
Rounding rounding_of(const ActivationQuant& activation, Device device) {
  Rounding rounding{.activation = activation, .step = Tensor()};
  if (activation.mode != Mode::static_tensor) return rounding;
  rounding.step = zeros(DType::f32, {1, 1}).on(device);
  rounding.step.mutable_data<float>()[0] = activation.scale;
  rounding.activation.scale = 123.0f;
  return rounding;
}

TEST_P(TrainingInputsTest, AreWhatTheProductMultiplies) {
  for (const auto& [rows, columns] :
       {std::pair<int64_t, int64_t>{1, 1}, {7, 33}, {9, 70}, {5, 129}, {3, 515}, {2, 1500}, {1, 17'000}}) {
    for (const ActivationQuant& activation : activations()) {
      SCOPED_TRACE(testing::Message() << rows << "x" << columns << " " << activation.text());
      Padded x(uniform({rows, columns}, 20), 3), out(uniform({rows, columns}, 21), 4);
      if (rows > 6) {  // zeros, tiny values, one sign, and what is no number
        for (int64_t c = 0; c < columns; ++c) {
          element(x.view(), 0, c) = 0.0f;
          element(x.view(), 1, c) *= 1e-30f;
          element(x.view(), 2, c) = -std::fabs(element(x.view(), 2, c));
        }
        element(x.view(), 3, columns - 1) = std::numeric_limits<float>::quiet_NaN();
        element(x.view(), 4, 0) = -INFINITY;
      }
      const Rounding rounding = rounding_of(activation, device());
      Tensor target = out.view().on(device());
      ops::round_inputs(x.view().on(device()), rounding.activation, rounding.step, target);
      EXPECT_TRUE(out.padding_is_intact());
      std::vector<int8_t> codes(size_t(columns), 0);
      for (int64_t r = 0; r < rows; ++r) {
        const RoundedRow row = round_activations(activation, &element(x.view(), r, 0), columns, codes.data());
        for (int64_t c = 0; c < columns; ++c) {
          const float want = row.scale * float(int(codes[size_t(c)]) - row.zero_point);
          const float got = element(out.view(), r, c);
          ASSERT_TRUE(std::isnan(want) ? std::isnan(got) : got == want && !(got == 0.0f && std::signbit(got)))
              << r << ", " << c << ": " << got << " for " << want;
        }
      }
      Tensor same = x.view().on(device());  // in place
      ops::round_inputs(same, rounding.activation, rounding.step, same);
      if (rows <= 6) {
        EXPECT_TRUE(same_bits(x.view(), out.view()));
      }
    }
  }
}

TEST_P(TrainingInputsTest, GradientsOfStepsAndInputs) {
  constexpr double kShare = 0.03;
  for (const auto& [rows, columns] :
       {std::pair<int64_t, int64_t>{1, 1}, {9, 70}, {300, 33}, {3, 515}, {2, 1500}, {1, 17'000}}) {
    for (size_t i = 2; i < activations().size(); ++i) {
      const ActivationQuant& activation = activations()[i];
      SCOPED_TRACE(testing::Message() << rows << "x" << columns << " " << activation.text());
      Padded x(uniform({rows, columns}, 22), 3), dx(uniform({rows, columns}, 23), 4);
      const Tensor dout = copy_of(dx.view());
      const Rounding rounding = rounding_of(activation, device());
      Tensor dstep = zeros(DType::f32, {1, 1}).on(device()), there = dx.view().on(device());
      dstep.mutable_data<float>()[0] = 0.25f;
      ops::round_inputs_backward(x.view().on(device()), rounding.activation, rounding.step, kShare, there,
                                 dstep);
      EXPECT_TRUE(dx.padding_is_intact());
      const double low = activation.lowest_code() - activation.zero_point,
                   high = activation.highest_code() - activation.zero_point;
      double sum = 0.0, size = 0.0;
      int64_t outside = 0;
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          const double quotient = double(element(x.view(), r, c) / activation.scale);
          const double nearest = std::nearbyint(quotient), d = value_at(dout, r, c);
          const bool is_outside = nearest < low || nearest > high;
          const double slope = nearest < low ? low : nearest > high ? high : nearest - quotient;
          sum += d * slope;
          size += std::fabs(d * slope);
          outside += is_outside ? 1 : 0;
          ASSERT_EQ(value_at(dx.view(), r, c), is_outside ? 0.0 : d) << r << ", " << c;
        }
      }
      if (rows * columns > 100) {
        EXPECT_GT(outside, 0);
      }
      EXPECT_NEAR(double(dstep.data<float>()[0]), 0.25 + kShare * sum,
                  4.0 * kUnitRoundoff * (kShare * size + 0.25));
    }
  }
}

}  // namespace
}  // namespace pare::test
