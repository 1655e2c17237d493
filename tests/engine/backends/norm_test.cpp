// rms_norm, layer_norm, rotary on every backend.
#include <cmath>

#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

using NormTest = BackendTest;
PARE_INSTANTIATE_BACKENDS(NormTest);

TEST_P(NormTest, RmsNormAgreesOnAllSizes) {
  for (const int64_t tokens : {1, 2, 7}) {
    for (const int64_t channels : kSizes) {
      for (const bool plus_one : {false, true}) {
        SCOPED_TRACE(testing::Message() << tokens << " x " << channels << " plus one " << plus_one);
        Padded x(uniform({tokens, channels}, 1, -3.0f, 3.0f)), out(tokens, channels, 9);
        const Tensor gain = uniform({channels}, 2, -2.0f, 2.0f);
        ops::rms_norm(x.view(), gain, 1e-5f, plus_one, out.view());
        EXPECT_TRUE(out.padding_is_intact());
        // closed form: the mean square of out / gain is ms / (ms + eps)
        double squares = 0.0, quotient = 0.0;
        for (int64_t c = 0; c < channels; ++c) {
          const double g = value_at(gain.reshaped({1, channels}), 0, c) + (plus_one ? 1.0 : 0.0);
          squares += std::pow(value_at(x.view(), 0, c), 2);
          quotient += std::pow(value_at(out.view(), 0, c) / g, 2);
        }
        EXPECT_NEAR(quotient, double(channels) * squares / (squares + 1e-5 * double(channels)),
                    1e-4 * double(channels));
        Tensor in_place = copy_of(x.view());
        ops::rms_norm(in_place, gain, 1e-5f, plus_one, in_place);
        EXPECT_TRUE(same_bits(in_place, out.view())) << "aliased";
      }
    }
  }
}

TEST_P(NormTest, RmsNormOfZerosIsZeroAndExtremesStayFinite) {
  const Tensor gain = uniform({33}, 3);
  Tensor out = zeros(DType::f32, {2, 33});
  ops::rms_norm(zeros(DType::f32, {2, 33}), gain, 1e-6f, false, out);
  EXPECT_TRUE(same_bits(out, [&] {
    Tensor expected = zeros(DType::f32, {2, 33});  // 0 * negative gain keeps the sign
    for (int64_t i = 0; i < 66; ++i) {
      expected.mutable_data<float>()[i] = 0.0f * gain.data<float>()[i % 33];
    }
    return expected;
  }()));
  ops::rms_norm(uniform({2, 33}, 4, -1e15f, 1e15f), gain, 1e-6f, false, out);
  for (int64_t i = 0; i < out.numel(); ++i) EXPECT_TRUE(std::isfinite(out.data<float>()[i]));
}

TEST_P(NormTest, LayerNormAgreesOnAllSizes) {
  for (const int64_t tokens : {1, 3}) {
    for (const int64_t channels : kSizes) {
      for (const bool has_bias : {false, true}) {
        SCOPED_TRACE(testing::Message() << tokens << " x " << channels << " bias " << has_bias);
        Padded x(uniform({tokens, channels}, 5, -1.0f, 5.0f)), out(tokens, channels);
        const Tensor gain = uniform({channels}, 6), bias = has_bias ? uniform({channels}, 7) : Tensor();
        ops::layer_norm(x.view(), gain, bias, 1e-5f, out.view());
        EXPECT_TRUE(out.padding_is_intact());
        Tensor in_place = copy_of(x.view());
        ops::layer_norm(in_place, gain, bias, 1e-5f, in_place);
        EXPECT_TRUE(same_bits(in_place, out.view())) << "aliased";
      }
    }
  }
}

TEST_P(NormTest, LayerNormHasMeanZeroAndVarianceOne) {
  const int64_t channels = 129;
  const Tensor x = uniform({1, channels}, 8, 2.0f, 9.0f);
  Tensor gain = zeros(DType::f32, {channels}), out = zeros(DType::f32, {1, channels});
  for (int64_t c = 0; c < channels; ++c) gain.mutable_data<float>()[c] = 1.0f;
  ops::layer_norm(x, gain, Tensor(), 0.0f, out);
  double sum = 0.0, squares = 0.0;
  for (int64_t c = 0; c < channels; ++c) {
    sum += value_at(out, 0, c);
    squares += std::pow(value_at(out, 0, c), 2);
  }
  EXPECT_NEAR(sum / double(channels), 0.0, 1e-6);
  EXPECT_NEAR(squares / double(channels), 1.0, 1e-6);
}

// Tables of `positions` rows for a rotation by position * base^(-k / half).
std::pair<Tensor, Tensor> tables(int64_t positions, int64_t half) {
  Tensor cosines = zeros(DType::f32, {positions, half}), sines = zeros(DType::f32, {positions, half});
  for (int64_t p = 0; p < positions; ++p) {
    for (int64_t k = 0; k < half; ++k) {
      const double angle = double(p) * std::pow(10000.0, -double(k) / double(half));
      cosines.mutable_data<float>()[p * half + k] = float(std::cos(angle));
      sines.mutable_data<float>()[p * half + k] = float(std::sin(angle));
    }
  }
  return {cosines, sines};
}

TEST_P(NormTest, RotaryAgreesAndKeepsLengths) {
  for (const int64_t heads : {1, 3}) {
    for (const int64_t head_dim : {2, 7, 16, 31, 34, 64, 128}) {
      for (const int64_t half : {int64_t{1}, head_dim / 4, head_dim / 2}) {
        if (half == 0) continue;
        SCOPED_TRACE(testing::Message() << heads << " heads of " << head_dim << ", rotary " << 2 * half);
        const auto [cosines, sines] = tables(40, half);
        const Tensor positions = indices({0, 39, 7, 7, 12});
        Padded x(uniform({5, heads * head_dim}, 9));
        const Tensor before = copy_of(x.view());
        ops::rotary(x.view(), positions, cosines, sines, heads);
        EXPECT_TRUE(x.padding_is_intact());
        EXPECT_TRUE(same_bits(x.view().rows(0, 1), before.rows(0, 1))) << "position 0 does not rotate";
        for (int64_t k = 0; k < half; ++k) {  // each pair is a rotation of the plane
          const double was = std::hypot(value_at(before, 1, k), value_at(before, 1, k + half));
          EXPECT_NEAR(std::hypot(value_at(x.view(), 1, k), value_at(x.view(), 1, k + half)), was, 1e-6);
        }
        for (int64_t d = 2 * half; d < head_dim; ++d) {
          EXPECT_EQ(value_at(x.view(), 1, d), value_at(before, 1, d)) << "component beyond rotary_dim";
        }
      }
    }
  }
}

// <rotate(q, i), rotate(k, j)> depends on i - j only.
TEST_P(NormTest, RotaryScoresDependOnDistance) {
  const int64_t half = 16;
  const auto [cosine_table, sine_table] = tables(40, half);
  const Tensor cosines = cosine_table, sines = sine_table;
  const auto score = [&](int32_t i, int32_t j) {
    Tensor q = uniform({1, 2 * half}, 10), k = uniform({1, 2 * half}, 11);
    ops::rotary(q, indices({i}), cosines, sines, 1);
    ops::rotary(k, indices({j}), cosines, sines, 1);
    double sum = 0.0;
    for (int64_t d = 0; d < 2 * half; ++d) sum += value_at(q, 0, d) * value_at(k, 0, d);
    return sum;
  };
  EXPECT_NEAR(score(3, 1), score(39, 37), 1e-5);
  EXPECT_NEAR(score(9, 9), score(0, 0), 1e-5);
  EXPECT_GT(std::abs(score(9, 2) - score(0, 0)), 1e-3);
}

TEST_P(NormTest, EmptyTensorsAreNothingToDo) {
  Tensor x = zeros(DType::f32, {0, 16}), out = zeros(DType::f32, {0, 16});
  ops::rms_norm(x, uniform({16}, 1), 1e-5f, false, out);
  ops::layer_norm(x, uniform({16}, 1), Tensor(), 1e-5f, out);
  const auto [cosines, sines] = tables(2, 4);
  ops::rotary(x, indices({}), cosines, sines, 2);
}

}  // namespace
}  // namespace pare::test
