// softmax, cross_entropy, divergence on every backend.
#include <cmath>

#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

using LogitsTest = BackendTest;
PARE_INSTANTIATE_BACKENDS(LogitsTest);

struct Losses {
  Tensor log_sum_exp, nll, best;
};

Losses cross_entropy(const Tensor& logits, const std::vector<int32_t>& targets) {
  const int64_t rows = logits.size(0);
  Losses losses{zeros(DType::f64, {rows}), zeros(DType::f64, {rows}), zeros(DType::i32, {rows})};
  ops::cross_entropy(logits, indices(targets), losses.log_sum_exp, losses.nll, losses.best);
  return losses;
}

double divergence(const Tensor& p, const Tensor& q) {
  const std::vector<int32_t> ignored(size_t(p.size(0)), -1);
  Tensor kl = zeros(DType::f64, {p.size(0)});
  ops::divergence(p, q, cross_entropy(p, ignored).log_sum_exp, cross_entropy(q, ignored).log_sum_exp, kl);
  return kl.data<double>()[0];
}

TEST_P(LogitsTest, SoftmaxAgreesAndSumsToOne) {
  for (const int64_t columns : kSizes) {
    for (const float range : {1.0f, 30.0f, 200.0f}) {
      SCOPED_TRACE(testing::Message() << columns << " columns, range " << range);
      Padded x(uniform({3, columns}, 1, -range, range)), out(3, columns, 6);
      ops::softmax(x.view(), out.view());
      EXPECT_TRUE(out.padding_is_intact());
      double sum = 0.0;
      for (int64_t c = 0; c < columns; ++c) sum += value_at(out.view(), 2, c);
      EXPECT_NEAR(sum, 1.0, 1e-6);
      ops::softmax(x.view(), x.view());
      EXPECT_TRUE(same_bits(x.view(), out.view())) << "aliased";
    }
  }
}

TEST_P(LogitsTest, SoftmaxOfHugeScoresDoesNotOverflow) {
  Tensor x = zeros(DType::f32, {1, 3}), out = zeros(DType::f32, {1, 3});
  const float scores[] = {3e38f, -3e38f, 3e38f};
  std::copy_n(scores, 3, x.mutable_data<float>());
  ops::softmax(x, out);
  EXPECT_EQ(out.data<float>()[0], 0.5f);
  EXPECT_EQ(out.data<float>()[1], 0.0f);
  EXPECT_EQ(out.data<float>()[2], 0.5f);
}

TEST_P(LogitsTest, CrossEntropyAgrees) {
  for (const int64_t columns : {1, 2, 7, 16, 17, 129, 1000, 32003}) {
    SCOPED_TRACE(testing::Message() << columns << " columns");
    Padded logits(uniform({4, columns}, 2, -20.0f, 20.0f));
    const std::vector<int32_t> targets{0, -1, int32_t(columns - 1), int32_t(columns / 2)};
    const Losses losses = cross_entropy(logits.view(), targets);
    EXPECT_EQ(losses.nll.data<double>()[1], 0.0) << "a negative target is ignored";
    for (int64_t r = 0; r < 4; ++r) {
      // an independent sum: naive, without a shift, which is safe for |logit| <= 20
      double sum = 0.0;
      for (int64_t c = 0; c < columns; ++c) sum += std::exp(value_at(logits.view(), r, c));
      EXPECT_NEAR(losses.log_sum_exp.data<double>()[r], std::log(sum), 2e-6);
      if (targets[size_t(r)] < 0) continue;
      EXPECT_NEAR(losses.nll.data<double>()[r],
                  std::log(sum) - value_at(logits.view(), r, targets[size_t(r)]), 2e-6);
    }
  }
}

TEST_P(LogitsTest, UniformLogitsCostTheLogarithmOfTheVocabulary) {
  const Losses losses = cross_entropy(zeros(DType::f32, {1, 50257}), {17});
  EXPECT_NEAR(losses.nll.data<double>()[0], std::log(50257.0), 1e-6);
  EXPECT_EQ(losses.best.data<int32_t>()[0], 0) << "the smallest id wins a tie";
}

TEST_P(LogitsTest, BestIsTheSmallestIdAmongTies) {
  for (const int64_t columns : {2, 16, 33, 130, 1025}) {
    for (const int64_t first : {int64_t{0}, columns / 3, columns - 2}) {
      Tensor logits = uniform({1, columns}, 3);
      logits.mutable_data<float>()[first] = 7.5f;
      logits.mutable_data<float>()[columns - 1] = 7.5f;
      EXPECT_EQ(cross_entropy(logits, {0}).best.data<int32_t>()[0], first) << columns;
    }
  }
}

TEST_P(LogitsTest, DivergenceAgrees) {
  for (const int64_t columns : {1, 2, 7, 16, 17, 129, 1000, 5003}) {
    SCOPED_TRACE(testing::Message() << columns << " columns");
    Padded p(uniform({3, columns}, 4, -5.0f, 5.0f)), q(uniform({3, columns}, 5, -5.0f, 5.0f), 9);
    const double kl = divergence(p.view(), q.view());
    EXPECT_GE(kl, -1e-6) << "never negative";
    EXPECT_NEAR(divergence(p.view(), p.view()), 0.0, 1e-12) << "zero against itself";
  }
}

// KL of two Bernoulli distributions in closed form.
TEST_P(LogitsTest, DivergenceOfTwoCoins) {
  Tensor p = zeros(DType::f32, {1, 2}), q = zeros(DType::f32, {1, 2});
  p.mutable_data<float>()[0] = float(std::log(3.0));  // 3/4, 1/4
  q.mutable_data<float>()[1] = float(std::log(4.0));  // 1/5, 4/5
  const double expected = 0.75 * std::log(0.75 / 0.2) + 0.25 * std::log(0.25 / 0.8);
  EXPECT_NEAR(divergence(p, q), expected, 1e-6);
}

TEST_P(LogitsTest, EmptyRowsAreNothingToDo) {
  Tensor none = zeros(DType::f32, {0, 7}), empty = zeros(DType::f64, {0}), best = zeros(DType::i32, {0});
  ops::softmax(none, none);
  ops::cross_entropy(none, indices({}), empty, empty, best);
  ops::divergence(none, none, empty, empty, empty);
}

}  // namespace
}  // namespace pare::test
