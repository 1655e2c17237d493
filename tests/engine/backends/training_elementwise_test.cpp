// Gradients of activations, rotary, softmax and embedding on every backend: the definition against
// differences, the others against the definition.
#include <numbers>

#include "tests/engine/backends/training_support.h"

namespace pare::test {
namespace {

using TrainingElementwiseTest = TrainingTest;
PARE_INSTANTIATE_BACKENDS(TrainingElementwiseTest);

constexpr Activation kKinds[] = {Activation::identity, Activation::relu,      Activation::silu,
                                 Activation::gelu,     Activation::gelu_tanh, Activation::quick_gelu};
const std::vector<int64_t> kFew{1, 3, 15, 16, 17, 33, 65, 129};

double evaluate(Activation kind, double x) {
  switch (kind) {
    case Activation::identity:
      return x;
    case Activation::relu:
      return std::max(x, 0.0);
    case Activation::silu:
      return x / (1.0 + std::exp(-x));
    case Activation::gelu:
      return x * 0.5 * (1.0 + std::erf(x / std::numbers::sqrt2));
    case Activation::gelu_tanh:
      return 0.5 * x * (1.0 + std::tanh(std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Activation::quick_gelu:
      return x / (1.0 + std::exp(-1.702 * x));
  }
  return 0.0;
}

TEST_P(TrainingElementwiseTest, SlopesAreDerivatives) {
  for (const Activation kind : kKinds) {
    SCOPED_TRACE(int(kind));
    const Tensor x = uniform({1, 400}, 1, -9.0f, 9.0f), ones = zeros(DType::f32, {1, 400});
    std::fill_n(ones.mutable_data<float>(), 400, 1.0f);
    Tensor dx = zeros(DType::f32, {1, 400}).on(device());
    ops::activation_backward(kind, x.on(device()), ones.on(device()), dx);
    for (int64_t c = 0; c < 400; ++c) {
      const double want =
          derivative([&](const Row& at) { return evaluate(kind, at[0]); }, {value_at(x, 0, c)}, 0);
      ASSERT_NEAR(value_at(dx, 0, c), want, 1e-6) << "x " << value_at(x, 0, c);
    }
  }
}

TEST_P(TrainingElementwiseTest, SlopesOfLargeAndSpecialNumbers) {
  const std::vector<float> values{0.0f, -0.0f, 1e-30f, -1e-30f, 30.0f, -30.0f, 1e4f, -1e4f, 1e25f, -1e25f};
  const auto count = int64_t(values.size());
  const Tensor x = zeros(DType::f32, {1, count}), dout = uniform({1, count}, 2, 0.5f, 1.0f);
  std::copy(values.begin(), values.end(), x.mutable_data<float>());
  for (const Activation kind : kKinds) {
    Tensor dx = zeros(DType::f32, {1, count}).on(device()),
           want = zeros(DType::f32, {1, count}).on(reference());
    ops::activation_backward(kind, x.on(device()), dout.on(device()), dx);
    ops::activation_backward(kind, x.on(reference()), dout.on(reference()), want);
    EXPECT_TRUE(close(dx, want, [](int64_t, int64_t) { return 16.0 * kUnitRoundoff; })) << int(kind);
  }
  Tensor nan = zeros(DType::f32, {1, 1}), out = zeros(DType::f32, {1, 1}).on(device());
  nan.mutable_data<float>()[0] = std::nanf("");
  for (const Activation kind : kKinds) {
    ops::activation_backward(kind, nan.on(device()), nan.on(device()), out);
    EXPECT_TRUE(std::isnan(value_at(out, 0, 0))) << int(kind);
  }
}

TEST_P(TrainingElementwiseTest, ActivationsAgreeWithStridesAndInPlace) {
  for (const Activation kind : kKinds) {
    for (const int64_t columns : kFew) {
      SCOPED_TRACE(testing::Message() << int(kind) << " of " << columns);
      Padded x(uniform({5, columns}, 3, -4.0f, 4.0f), 5), dout(uniform({5, columns}, 4), 3),
          dx(5, columns, 7);
      Tensor got = dx.view().on(device()), want = zeros(DType::f32, {5, columns}).on(reference());
      const Tensor x_view = x.view(), dout_view = dout.view();
      ops::activation_backward(kind, x_view.on(device()), dout_view.on(device()), got);
      ops::activation_backward(kind, x_view.on(reference()), dout_view.on(reference()), want);
      EXPECT_TRUE(close(got, want, [&](int64_t r, int64_t c) {
        return 16.0 * kUnitRoundoff * std::abs(value_at(dout_view, r, c));
      }));
      EXPECT_TRUE(dx.padding_is_intact());
      Tensor aliased = copy_of(dout_view).on(device());
      ops::activation_backward(kind, x_view.on(device()), aliased, aliased);
      EXPECT_TRUE(same_bits(aliased, got));
    }
  }
}

TEST_P(TrainingElementwiseTest, GatedActivationsAgreeWithStridesAndInPlace) {
  for (const Activation kind : kKinds) {
    for (const int64_t columns : kFew) {
      SCOPED_TRACE(testing::Message() << int(kind) << " of " << columns);
      const Tensor gate = uniform({3, columns}, 5, -4.0f, 4.0f), up = uniform({3, columns}, 6);
      const Tensor dout = uniform({3, columns}, 7);
      Padded dgate(3, columns, 4), dup(3, columns, 6);
      Tensor got_gate = dgate.view().on(device()), got_up = dup.view().on(device());
      Tensor want_gate = zeros(DType::f32, {3, columns}).on(reference()),
             want_up = copy_of(dout).on(reference());
      ops::gated_activation_backward(kind, gate.on(device()), up.on(device()), dout.on(device()), got_gate,
                                     got_up);
      ops::gated_activation_backward(kind, gate.on(reference()), up.on(reference()), dout.on(reference()),
                                     want_gate, want_up);
      EXPECT_TRUE(close(got_gate, want_gate, [&](int64_t r, int64_t c) {
        return 16.0 * kUnitRoundoff * std::abs(value_at(dout, r, c) * value_at(up, r, c));
      }));
      EXPECT_TRUE(close(got_up, want_up, [&](int64_t r, int64_t c) {
        const double d = std::abs(value_at(dout, r, c));
        return d * 2.0 * tolerance::activation(kind, value_at(gate, r, c)) + kUnitRoundoff * d;
      }));
      EXPECT_TRUE(dgate.padding_is_intact() && dup.padding_is_intact());
      // Of the product f(gate) up, by differences.
      const double slope = derivative([&](const Row& at) { return evaluate(kind, at[0]) * at[1]; },
                                      {value_at(gate, 1, 0), value_at(up, 1, 0)}, 0);
      EXPECT_NEAR(value_at(got_gate, 1, 0), slope * value_at(dout, 1, 0), 1e-6);
      // Outputs in the place of gate and up, and of dout.
      Tensor own_gate = copy_of(gate).on(device()), own_up = copy_of(up).on(device());
      ops::gated_activation_backward(kind, own_gate, own_up, dout.on(device()), own_gate, own_up);
      EXPECT_TRUE(same_bits(own_gate, got_gate) && same_bits(own_up, got_up));
      Tensor own_dout = copy_of(dout).on(device());
      ops::gated_activation_backward(kind, gate.on(device()), up.on(device()), own_dout, own_dout, got_up);
      EXPECT_TRUE(same_bits(own_dout, got_gate));
    }
  }
}

TEST_P(TrainingElementwiseTest, SoftmaxGradientIsTheDerivative) {
  const auto softmax = [](const Row& x) {
    Row out;
    double total = 0.0;
    for (const double v : x) total += std::exp(v);
    for (const double v : x) out.push_back(std::exp(v) / total);
    return out;
  };
  for (const int64_t columns : kFew) {
    const Tensor x = uniform({2, columns}, 8, -3.0f, 3.0f), dout = uniform({2, columns}, 9);
    const Tensor out = zeros(DType::f32, {2, columns});
    for (int64_t r = 0; r < 2; ++r) {
      const Row p = softmax(row_of(x, r));
      for (int64_t c = 0; c < columns; ++c) element(out, r, c) = float(p[size_t(c)]);
    }
    Padded dx(2, columns);
    Tensor got = dx.view().on(device());
    ops::softmax_backward(out.on(device()), dout.on(device()), got);
    EXPECT_TRUE(dx.padding_is_intact());
    for (int64_t r = 0; r < 2; ++r) {
      const Row weights = row_of(dout, r);
      for (int64_t c = 0; c < columns; ++c) {
        const double want =
            derivative([&](const Row& at) { return dot(softmax(at), weights); }, row_of(x, r), size_t(c));
        ASSERT_NEAR(value_at(got, r, c), want, 1e-6 * value_at(out, r, c) + 1e-9);
      }
    }
    Tensor aliased = copy_of(dout).on(device());
    ops::softmax_backward(out.on(device()), aliased, aliased);
    EXPECT_TRUE(same_bits(aliased, got));
  }
}

// A rotation keeps lengths and angles: the gradient is the way back, to the rounding of two products.
TEST_P(TrainingElementwiseTest, RotaryTurnsBack) {
  for (const int64_t heads : {1, 3}) {
    for (const int64_t head_dim : {2, 7, 16, 34, 64}) {
      const int64_t half = std::max<int64_t>(1, head_dim / 4);
      const Tensor angles = uniform({9, half}, 10, -3.0f, 3.0f), positions = indices({0, 8, 3, 3, 5});
      Tensor cosines = zeros(DType::f32, {9, half}), sines = zeros(DType::f32, {9, half});
      for (int64_t i = 0; i < 9 * half; ++i) {
        cosines.mutable_data<float>()[i] = std::cos(angles.data<float>()[i]);
        sines.mutable_data<float>()[i] = std::sin(angles.data<float>()[i]);
      }
      const Tensor start = uniform({5, heads * head_dim}, 11);
      Padded x(start);
      Tensor view = x.view().on(device());
      ops::rotary(view, positions.on(device()), cosines.on(device()), sines.on(device()), heads);
      if (half > 1) {
        EXPECT_FALSE(same_bits(view, start));
      }
      ops::rotary_backward(view, positions.on(device()), cosines.on(device()), sines.on(device()), heads);
      EXPECT_TRUE(close(view, start, [](int64_t, int64_t) { return 8.0 * kUnitRoundoff; }));
      EXPECT_TRUE(x.padding_is_intact());
    }
  }
}

TEST_P(TrainingElementwiseTest, EmbeddingAddsTheTokensOfAnId) {
  for (const int64_t channels : {1, 7, 64, 129, 300}) {
    const Tensor ids = indices({3, 0, 3, 5, 3, 0}), dout = integers({6, channels}, 12);
    const Tensor before = integers({7, channels}, 13);
    Padded wide(dout);
    Tensor dtable = copy_of(before).on(device());
    ops::embedding_backward(ids.on(device()), wide.view().on(device()), 2.0f, dtable);
    for (int64_t row = 0; row < 7; ++row) {
      for (int64_t c = 0; c < channels; ++c) {  // small integers: exact in any order
        double want = value_at(before, row, c);
        for (int64_t t = 0; t < 6; ++t) {
          if (ids.data<int32_t>()[t] == row) want += 2.0 * value_at(dout, t, c);
        }
        ASSERT_EQ(value_at(dtable, row, c), want) << row << ", " << c;
      }
    }
  }
}

TEST_P(TrainingElementwiseTest, SameBytesForAnyNumberOfThreads) {
  const int64_t tokens = 300, channels = 517;
  const Tensor x = uniform({tokens, channels}, 14, -3.0f, 3.0f), dout = uniform({tokens, channels}, 15);
  std::vector<int32_t> list(tokens);
  for (int64_t t = 0; t < tokens; ++t) list[size_t(t)] = int32_t(t % 7);
  const Tensor ids = indices(list);
  std::vector<Tensor> results;
  for (const int threads : {1, 2, 3}) {
    set_thread_count(threads);
    Tensor dx = zeros(DType::f32, {tokens, channels}).on(device()),
           dup = zeros(DType::f32, {tokens, channels}).on(device());
    Tensor soft = zeros(DType::f32, {tokens, channels}).on(device()),
           dtable = zeros(DType::f32, {7, channels}).on(device());
    ops::gated_activation_backward(Activation::gelu, x.on(device()), x.on(device()), dout.on(device()), dx,
                                   dup);
    ops::softmax_backward(x.on(device()), dout.on(device()), soft);
    ops::embedding_backward(ids.on(device()), dout.on(device()), 0.7f, dtable);
    if (results.empty()) {
      results = {dx, dup, soft, dtable};
      continue;
    }
    EXPECT_TRUE(same_bits(dx, results[0]) && same_bits(dup, results[1]) && same_bits(soft, results[2]));
    EXPECT_TRUE(same_bits(dtable, results[3]));
  }
}

TEST_P(TrainingElementwiseTest, EmptyTensorsAreNothingToDo) {
  Tensor x = zeros(DType::f32, {0, 16}).on(device()), table = uniform({2, 16}, 1).on(device());
  const Tensor before = copy_of(table);
  ops::activation_backward(Activation::silu, x, x, x);
  ops::gated_activation_backward(Activation::silu, x, x, x, x, x);
  ops::softmax_backward(x, x, x);
  ops::embedding_backward(indices({}).on(device()), x, 1.0f, table);
  EXPECT_TRUE(same_bits(table, before));
}

}  // namespace
}  // namespace pare::test
