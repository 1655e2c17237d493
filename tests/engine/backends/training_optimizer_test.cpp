// Optimizers, the sum of squares, and fake quantization on every backend.
#include <cstring>

#include "tests/engine/backends/training_support.h"

namespace pare::test {
namespace {

using TrainingOptimizerTest = TrainingTest;
PARE_INSTANTIATE_BACKENDS(TrainingOptimizerTest);

const std::vector<Shape> kShapes{{1, 1}, {3, 7}, {5, 16}, {2, 33}, {7, 129}, {40, 601}};

// A parameter with its moments, and the gradient of each step.
struct State {
  Tensor w, m, v;
  State(const Shape& shape, uint64_t seed)
      : w(uniform(shape, seed)),
        m(uniform(shape, seed + 1, -0.1f, 0.1f)),
        v(uniform(shape, seed + 2, 0.0f, 0.01f)) {}
  State(const State& other) : w(copy_of(other.w)), m(copy_of(other.m)), v(copy_of(other.v)) {}
  State& operator=(const State&) = delete;

  void adamw(Device device, const Tensor& gradient, const Mask* mask, const ops::AdamWStep& step) {
    Tensor w_here = w.on(device), m_here = m.on(device), v_here = v.on(device);
    ops::adamw(w_here, m_here, v_here, gradient.on(device), mask, step);
  }
  void sgd(Device device, const Tensor& gradient, const Mask* mask, const ops::SgdStep& step,
           bool has_momentum) {
    Tensor w_here = w.on(device), m_here = has_momentum ? m.on(device) : Tensor();
    ops::sgd(w_here, m_here, gradient.on(device), mask, step);
  }
};

Mask every_third_removed(int64_t rows, int64_t columns) {
  Mask mask = *Mask::all_kept(rows, columns);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      if ((r + c * 7) % 3 == 0) mask.set(r, c, false);
    }
  }
  return mask;
}

// Source: algorithms.md 7.9.
TEST_P(TrainingOptimizerTest, AdamWGivesThePublishedNumbers) {
  Tensor w = zeros(DType::f32, {1, 1}).on(device()), m = zeros(DType::f32, {1, 1}).on(device());
  Tensor v = zeros(DType::f32, {1, 1}).on(device()), gradient = zeros(DType::f32, {1, 1}).on(device());
  w.mutable_data<float>()[0] = 1.0f;
  ops::AdamWStep step{.lr = 1e-3f, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .decay = 0.1f, .step = 1};
  gradient.mutable_data<float>()[0] = 0.1f;
  ops::adamw(w, m, v, gradient, nullptr, step);
  EXPECT_NEAR(value_at(w, 0, 0), 0.9989000001, 6e-8);
  gradient.mutable_data<float>()[0] = -0.2f;
  step.step = 2;
  ops::adamw(w, m, v, gradient, nullptr, step);
  EXPECT_NEAR(value_at(w, 0, 0), 0.99916621, 1.2e-7);
}

TEST_P(TrainingOptimizerTest, AdamWFollowsTheFormulaInDouble) {
  ops::AdamWStep step{.gradient_scale = 0.5f, .lr = 1e-2f, .beta2 = 0.95f, .eps = 1e-6f, .decay = 0.1f};
  for (const Shape& shape : kShapes) {
    State state(shape, 1);
    for (step.step = 1; step.step <= 3; ++step.step) {
      const State before = state;
      const Tensor gradient = uniform(shape, uint64_t(10 + step.step), -2.0f, 2.0f);
      state.adamw(device(), gradient, nullptr, step);
      const double beta1 = double(step.beta1), beta2 = double(step.beta2), lr = double(step.lr);
      for (int64_t r = 0; r < shape[0]; ++r) {
        for (int64_t c = 0; c < shape[1]; ++c) {
          const double g = 0.5 * value_at(gradient, r, c), w = value_at(before.w, r, c);
          const double m = beta1 * value_at(before.m, r, c) + (1.0 - beta1) * g;
          const double v = beta2 * value_at(before.v, r, c) + (1.0 - beta2) * g * g;
          const double t = double(step.step);
          const double change = lr * (m / (1.0 - std::pow(beta1, t))) /
                                (std::sqrt(v / (1.0 - std::pow(beta2, t))) + double(step.eps));
          ASSERT_NEAR(value_at(state.m, r, c), m, 4.0 * kUnitRoundoff * (std::abs(m) + std::abs(g)));
          ASSERT_NEAR(value_at(state.v, r, c), v, 4.0 * kUnitRoundoff * v);
          // The sum of m may cancel: its error is that of its terms.
          const double share = lr * 4.0 * (std::abs(g) + 0.2) / (std::sqrt(v) + 1e-9);
          ASSERT_NEAR(value_at(state.w, r, c), w - lr * double(step.decay) * w - change,
                      kUnitRoundoff * (2.0 * std::abs(w) + 8.0 * share));
        }
      }
    }
  }
}

TEST_P(TrainingOptimizerTest, SmallDecayIsNotLost) {
  // 1 - lr decay would be 1 - 1e-6 with an error of 6 %: the decay of many steps must come out right.
  Tensor w = uniform({1, 1}, 5, 1.0f, 1.0f).on(device());
  Tensor none = zeros(DType::f32, {1, 1}).on(device()), first = zeros(DType::f32, {1, 1}).on(device());
  Tensor second = zeros(DType::f32, {1, 1}).on(device());
  ops::adamw(w, first, second, none, nullptr, {.lr = 1e-5f, .decay = 0.3f});
  EXPECT_NEAR(1.0 - value_at(w, 0, 0), 3e-6, 6e-8);
}

TEST_P(TrainingOptimizerTest, RemovedWeightsStayZero) {
  for (const Shape& shape : kShapes) {
    const Mask mask = every_third_removed(shape[0], shape[1]);
    Tensor gradient = uniform(shape, 3, -1.0f, 1.0f);
    for (const bool is_adamw : {true, false}) {
      State masked(shape, 4), free(shape, 4);
      Tensor wild = copy_of(gradient);
      for (int64_t i = 0; i < wild.numel(); ++i) {
        if (!mask.kept(i / shape[1], i % shape[1])) wild.mutable_data<float>()[i] = INFINITY;
      }
      if (is_adamw) {
        masked.adamw(device(), wild, &mask, {.lr = 0.1f, .decay = 0.1f});
        free.adamw(device(), gradient, nullptr, {.lr = 0.1f, .decay = 0.1f});
      } else {
        masked.sgd(device(), wild, &mask, {.lr = 0.1f, .momentum = 0.9f, .decay = 0.1f}, true);
        free.sgd(device(), gradient, nullptr, {.lr = 0.1f, .momentum = 0.9f, .decay = 0.1f}, true);
        free.v = masked.v;  // not touched by either
      }
      for (int64_t r = 0; r < shape[0]; ++r) {
        for (int64_t c = 0; c < shape[1]; ++c) {
          const bool kept = mask.kept(r, c);
          ASSERT_EQ(value_at(masked.w, r, c), kept ? value_at(free.w, r, c) : 0.0) << r << ", " << c;
          ASSERT_EQ(value_at(masked.m, r, c), kept ? value_at(free.m, r, c) : 0.0);
          if (is_adamw) {
            ASSERT_EQ(value_at(masked.v, r, c), kept ? value_at(free.v, r, c) : 0.0);
          }
          ASSERT_FALSE(!kept && std::signbit(value_at(masked.w, r, c)));
        }
      }
    }
  }
}

TEST_P(TrainingOptimizerTest, SgdFollowsTheFormula) {
  for (const Shape& shape : kShapes) {
    for (const bool has_momentum : {false, true}) {
      State state(shape, 6);
      const State before = state;
      const Tensor gradient = uniform(shape, 7);
      state.sgd(device(), gradient, nullptr,
                {.gradient_scale = 2.0f, .lr = 0.1f, .momentum = 0.9f, .decay = 0.01f}, has_momentum);
      for (int64_t r = 0; r < shape[0]; ++r) {
        for (int64_t c = 0; c < shape[1]; ++c) {
          const double w = value_at(before.w, r, c), lr = double(0.1f);
          double step = 2.0 * value_at(gradient, r, c);
          if (has_momentum) {
            step += double(0.9f) * value_at(before.m, r, c);
            ASSERT_NEAR(value_at(state.m, r, c), step, 4.0 * kUnitRoundoff);
          }
          ASSERT_NEAR(value_at(state.w, r, c), w - lr * double(0.01f) * w - lr * step, 4.0 * kUnitRoundoff);
        }
      }
      if (!has_momentum) {
        EXPECT_TRUE(same_bits(state.m, before.m));
      }
    }
  }
}

TEST_P(TrainingOptimizerTest, SumOfSquares) {
  for (const int64_t count : {0, 1, 15, 17, 1000, 16'385, 70'001}) {
    const Tensor x = integers({count}, 8, -9, 9);
    double want = 0.0;
    for (int64_t i = 0; i < count; ++i) want += std::pow(double(x.data<float>()[i]), 2);
    EXPECT_EQ(ops::sum_of_squares(x.on(device())), want) << count;  // small integers: exact in any order
  }
  Tensor large = zeros(DType::f32, {2});
  large.mutable_data<float>()[0] = 3e30f;
  EXPECT_NEAR(ops::sum_of_squares(large.on(device())), std::pow(double(3e30f), 2), 1e46);
}

TEST_P(TrainingOptimizerTest, SameBytesForAnyNumberOfThreads) {
  const Shape shape{301, 703};
  const Mask mask = every_third_removed(301, 703);
  const Tensor gradient = uniform(shape, 9);
  const Tensor scales = uniform({301, 11}, 10, 0.1f, 0.2f);
  double first_sum = 0.0;
  std::vector<Tensor> first;
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    State state(shape, 11), masked(shape, 11);
    state.adamw(device(), gradient, nullptr, {});
    masked.adamw(device(), gradient, &mask, {});
    Tensor dweight = copy_of(gradient).on(device()), dscales = zeros(DType::f32, {301, 11}).on(device());
    ops::fake_quantize_backward(state.w.on(device()), scales.on(device()), Tensor(), 64, {-4.0f, 3.0f}, 0.1f,
                                dweight, dweight, dscales);
    const double sum = ops::sum_of_squares(state.w.on(device()));
    const std::vector<Tensor> results{state.w, state.m, state.v, masked.w, dweight, dscales};
    if (first.empty()) {
      first = results;
      first_sum = sum;
    }
    EXPECT_EQ(std::memcmp(&sum, &first_sum, sizeof sum), 0);
    for (size_t i = 0; i < results.size(); ++i) EXPECT_TRUE(same_bits(results[i], first[i])) << i;
  }
}

// A matrix that has every case: inside, on ties, below and above the range, and zero.
struct GridCase {
  int64_t rows, columns, group_width;
  ops::CodeRange range;
  bool has_zeros;
  Tensor weight, scales, zeros_of_groups, dout;

  GridCase(int64_t r, int64_t c, int64_t width, ops::CodeRange codes, bool with_zeros)
      : rows(r), columns(c), group_width(width), range(codes), has_zeros(with_zeros) {
    const int64_t groups = (c + width - 1) / width;
    const double reach = 1.3 * double(codes.high - codes.low);
    weight = uniform({r, c}, 20, float(-0.1 * reach), float(0.1 * reach));
    scales = uniform({r, groups}, 21, 0.05f, 0.3f);
    dout = uniform({r, c}, 22);
    if (with_zeros) zeros_of_groups = integers({r, groups}, 23, int(codes.low), int(codes.high));
    for (int64_t i = 0; i < r * c; i += 3) {  // ties of w / s, on both sides of 0
      weight.mutable_data<float>()[i] = scale(i) * (float(i % 9) - 4.5f);
    }
  }
  int64_t group(int64_t i) const {
    return i / columns * ((columns + group_width - 1) / group_width) + i % columns / group_width;
  }
  float scale(int64_t i) const { return scales.data<float>()[group(i)]; }
  float zero(int64_t i) const { return has_zeros ? zeros_of_groups.data<float>()[group(i)] : 0.0f; }
  // The code before it is brought into the range. Whole numbers of this size are exact in float.
  double code(int64_t i) const {
    return std::nearbyint(double(weight.data<float>()[i] / scale(i))) + double(zero(i));
  }
};

std::vector<GridCase> grid_cases() {
  std::vector<GridCase> cases;
  for (const auto& [rows, columns, width] :
       {std::tuple{1, 1, 1}, {3, 7, 7}, {2, 64, 32}, {5, 70, 32}, {4, 129, 64}, {3, 33, 5}, {2, 200, 1000}}) {
    cases.emplace_back(rows, columns, width, ops::CodeRange{-4.0f, 3.0f}, false);
    cases.emplace_back(rows, columns, width, ops::CodeRange{-127.0f, 127.0f}, false);
    cases.emplace_back(rows, columns, width, ops::CodeRange{0.0f, 15.0f}, true);
  }
  return cases;
}

TEST_P(TrainingOptimizerTest, FakeQuantizeGivesScaleTimesCode) {
  for (const GridCase& grid : grid_cases()) {
    SCOPED_TRACE(testing::Message() << grid.weight.shape().text() << " groups of " << grid.group_width);
    Tensor out = zeros(DType::f32, grid.weight.shape()).on(device());
    ops::fake_quantize(grid.weight.on(device()), grid.scales.on(device()), on(grid.zeros_of_groups, device()),
                       grid.group_width, grid.range, out);
    for (int64_t i = 0; i < out.numel(); ++i) {
      const double code = std::clamp(grid.code(i), double(grid.range.low), double(grid.range.high));
      const float want = grid.scale(i) * float(code - double(grid.zero(i)));
      ASSERT_EQ(out.data<float>()[i], want) << i;
      ASSERT_FALSE(want == 0.0f && std::signbit(out.data<float>()[i])) << "-0 at " << i;
    }
  }
}

TEST_P(TrainingOptimizerTest, StepGradientsFollowTheFormula) {
  for (const GridCase& grid : grid_cases()) {
    SCOPED_TRACE(testing::Message() << grid.weight.shape().text() << " groups of " << grid.group_width);
    const float factor = 0.25f;
    const Tensor before = uniform(grid.scales.shape(), 24);
    Tensor dweight = zeros(DType::f32, grid.weight.shape()).on(device()),
           dscales = copy_of(before).on(device());
    ops::fake_quantize_backward(grid.weight.on(device()), grid.scales.on(device()),
                                on(grid.zeros_of_groups, device()), grid.group_width, grid.range, factor,
                                grid.dout.on(device()), dweight, dscales);
    Row sums(size_t(before.numel()), 0.0), sizes = sums;
    for (int64_t i = 0; i < dweight.numel(); ++i) {
      const double code = grid.code(i), zero = double(grid.zero(i)),
                   dout = double(grid.dout.data<float>()[i]);
      const bool is_below = code<double(grid.range.low), is_above = code> double(grid.range.high);
      const double quotient = double(grid.weight.data<float>()[i] / grid.scale(i));
      const double slope = is_below   ? double(grid.range.low) - zero
                           : is_above ? double(grid.range.high) - zero
                                      : std::nearbyint(quotient) - quotient;
      ASSERT_EQ(dweight.data<float>()[i], is_below || is_above ? 0.0f : float(dout)) << i;
      sums[size_t(grid.group(i))] += dout * slope;
      sizes[size_t(grid.group(i))] += std::abs(dout * slope);
    }
    for (int64_t g = 0; g < before.numel(); ++g) {
      const double was = double(before.data<float>()[g]), want = was + double(factor) * sums[size_t(g)];
      ASSERT_NEAR(dscales.data<float>()[g], want, 4.0 * kUnitRoundoff * (1.0 + sizes[size_t(g)])) << g;
    }
    // In the place of dout, and without steps.
    Tensor aliased = copy_of(grid.dout).on(device()), none;
    ops::fake_quantize_backward(grid.weight.on(device()), grid.scales.on(device()),
                                on(grid.zeros_of_groups, device()), grid.group_width, grid.range, factor,
                                aliased, aliased, none);
    EXPECT_TRUE(same_bits(aliased, dweight));
  }
}

// What lies outside the range moves with the step: there the formula is a true derivative.
TEST_P(TrainingOptimizerTest, StepGradientOutsideIsTheDerivative) {
  const Tensor weight = integers({1, 40}, 25, 50, 90), scales = uniform({1, 1}, 26, 0.5f, 1.0f);
  const Tensor dout = uniform({1, 40}, 27);
  Tensor dweight = zeros(DType::f32, {1, 40}).on(device()), dscales = zeros(DType::f32, {1, 1}).on(device());
  ops::fake_quantize_backward(weight.on(device()), scales.on(device()), Tensor(), 40, {-8.0f, 7.0f}, 1.0f,
                              dout.on(device()), dweight, dscales);
  const double want = derivative(
      [&](const Row& step) {
        double sum = 0.0;
        for (int64_t c = 0; c < 40; ++c)
          sum += value_at(dout, 0, c) *
                 (step[0] * std::clamp(std::nearbyint(value_at(weight, 0, c) / step[0]), -8.0, 7.0));
        return sum;
      },
      row_of(scales, 0), 0);
  EXPECT_NEAR(value_at(dscales, 0, 0), want, 1e-5);
}

TEST_P(TrainingOptimizerTest, SixteenBitsAreAsGoodAsNone) {
  const Tensor weight = uniform({4, 130}, 28), dout = uniform({4, 130}, 29),
               scales = zeros(DType::f32, {4, 1});
  const float step = 1.0f / 32'000.0f;
  std::fill_n(scales.mutable_data<float>(), 4, step);
  Tensor out = zeros(DType::f32, {4, 130}).on(device()), dweight = copy_of(out).on(device());
  Tensor dscales = zeros(DType::f32, {4, 1}).on(device());
  const ops::CodeRange range{-32'768.0f, 32'767.0f};
  ops::fake_quantize(weight.on(device()), scales.on(device()), Tensor(), 130, range, out);
  ops::fake_quantize_backward(weight.on(device()), scales.on(device()), Tensor(), 130, range,
                              1.0f / std::sqrt(130.0f * 32'767.0f), dout.on(device()), dweight, dscales);
  EXPECT_TRUE(close(out, weight, [&](int64_t, int64_t) { return 0.501 * double(step); }));
  EXPECT_TRUE(same_bits(dweight, dout));
  for (int64_t r = 0; r < 4; ++r)
    EXPECT_LT(std::abs(value_at(dscales, r, 0)), 0.5 * 130.0 / std::sqrt(130.0 * 32'767.0));
}

TEST_P(TrainingOptimizerTest, NothingIsLostOnNaN) {
  Tensor weight = zeros(DType::f32, {1, 3}), scales = uniform({1, 1}, 30, 1.0f, 1.0f);
  weight.mutable_data<float>()[1] = std::nanf("");
  Tensor out = zeros(DType::f32, {1, 3}).on(device());
  ops::fake_quantize(weight.on(device()), scales.on(device()), Tensor(), 3, {-8.0f, 7.0f}, out);
  EXPECT_TRUE(std::isnan(value_at(out, 0, 1)) && value_at(out, 0, 0) == 0.0);
}

}  // namespace
}  // namespace pare::test
