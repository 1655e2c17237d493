// attention_backward and the log-sum-exp of attention on every backend: against differences of an attention
// in double that is written here, and against the definition.
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <sstream>
#include <tuple>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/reference/reference_backend.h"
#include "engine/core/parallel.h"
#include "engine/tensor/tolerance.h"
#include "engine/tensor/training_ops.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

using Doubles = std::vector<double>;

struct Form {
  int64_t sequences = 1, tokens = 1, heads = 1, kv_heads = 1, head_dim = 1;
  float softcap = 0.0f;
  int64_t window = 0;
  bool causal = true;

  float scale() const { return 1.3f / std::sqrt(float(head_dim)); }
  int64_t rows() const { return sequences * tokens; }
  bool sees(int64_t i, int64_t j) const { return (!causal || j <= i) && (window == 0 || j > i - window); }
};

std::ostream& operator<<(std::ostream& out, const Form& f) {
  return out << f.sequences << " x " << f.tokens << " tokens, " << f.heads << "/" << f.kv_heads
             << " heads of " << f.head_dim << ", softcap " << f.softcap << ", window " << f.window
             << ", causal " << f.causal;
}

// Inputs with gaps between rows, and room for every result.
struct Problem {
  Form form;
  Tensor q, k, v, dout;
  Padded padded_q, padded_k, padded_v, out, padded_dout, dq, dk, dv;
  Tensor log_sum_exp;

  Problem(const Form& f, uint64_t seed)
      : form(f),
        q(uniform({f.rows(), f.heads * f.head_dim}, seed, -1.5f, 1.5f)),
        k(uniform({f.rows(), f.kv_heads * f.head_dim}, seed + 1, -1.5f, 1.5f)),
        v(uniform({f.rows(), f.kv_heads * f.head_dim}, seed + 2, -1.0f, 1.0f)),
        dout(uniform({f.rows(), f.heads * f.head_dim}, seed + 3, -1.0f, 1.0f)),
        padded_q(q, 5),
        padded_k(k, 6),
        padded_v(v, 6),
        out(q.size(0), q.size(1), 4),
        padded_dout(dout, 7),
        dq(q.size(0), q.size(1), 3),
        dk(k.size(0), k.size(1), 8),
        dv(k.size(0), k.size(1), 8),
        log_sum_exp(zeros(DType::f32, {f.rows(), f.heads})) {}

  double norm(const Tensor& x) const {  // largest of a head
    double largest = 0.0;
    for (int64_t i = 0; i < x.numel(); i += form.head_dim) {
      double squares = 0.0;
      for (int64_t d = i; d < i + form.head_dim; ++d)
        squares += double(x.data<float>()[d]) * double(x.data<float>()[d]);
      largest = std::max(largest, std::sqrt(squares));
    }
    return largest;
  }
  // What tolerance::attention_gradient asks for.
  double terms() const {
    return double(form.scale()) * norm(dout) * norm(v) * 1.5;  // q and k are below 1.5
  }
  // Of scores, from operands that the backend rounds.
  double score_error(double roundoff) const {
    return double(form.scale()) * (2.0 + roundoff) * roundoff * norm(q) * norm(k);
  }

  void forward(Backend& backend) {
    AttentionArgs args{.q = padded_q.view().data<float>(),
                       .k = padded_k.view().raw(),
                       .v = padded_v.view().raw(),
                       .out = out.view().mutable_data<float>(),
                       .kv_dtype = DType::f32,
                       .sequences = form.sequences,
                       .query_tokens = form.tokens,
                       .key_tokens = form.tokens,
                       .query_offset = 0,
                       .heads = form.heads,
                       .kv_heads = form.kv_heads,
                       .head_dim = form.head_dim,
                       .q_stride = padded_q.view().row_stride(),
                       .out_stride = out.view().row_stride(),
                       .kv_sequence_stride = form.tokens * padded_k.view().row_stride(),
                       .kv_head_stride = form.head_dim,
                       .kv_position_stride = padded_k.view().row_stride(),
                       .scale = form.scale(),
                       .softcap = form.softcap,
                       .window = form.window,
                       .causal = form.causal};
    args.log_sum_exp = log_sum_exp.mutable_data<float>();
    backend.attention(args);
  }

  void backward(Backend& backend) {
    backend.training()->attention_backward({.q = padded_q.view().data<float>(),
                                            .k = padded_k.view().data<float>(),
                                            .v = padded_v.view().data<float>(),
                                            .out = out.view().data<float>(),
                                            .log_sum_exp = log_sum_exp.data<float>(),
                                            .dout = padded_dout.view().data<float>(),
                                            .dq = dq.view().mutable_data<float>(),
                                            .dk = dk.view().mutable_data<float>(),
                                            .dv = dv.view().mutable_data<float>(),
                                            .sequences = form.sequences,
                                            .tokens = form.tokens,
                                            .heads = form.heads,
                                            .kv_heads = form.kv_heads,
                                            .head_dim = form.head_dim,
                                            .q_stride = padded_q.view().row_stride(),
                                            .kv_stride = padded_k.view().row_stride(),
                                            .out_stride = out.view().row_stride(),
                                            .dout_stride = padded_dout.view().row_stride(),
                                            .dq_stride = dq.view().row_stride(),
                                            .dkv_stride = dk.view().row_stride(),
                                            .scale = form.scale(),
                                            .softcap = form.softcap,
                                            .window = form.window,
                                            .causal = form.causal});
    for (const Padded* x : {&dq, &dk, &dv}) EXPECT_TRUE(x->padding_is_intact());
  }
};

// Within tolerance::attention_gradient.
void expect_close(const char* name, const Problem& p, const Tensor& got, const Tensor& want,
                  double roundoff = 0.0) {
  double largest = 0.0, difference = 0.0;
  int64_t at = 0;
  for (int64_t i = 0; i < want.numel(); ++i) {
    const int64_t row = i / want.size(1), column = i % want.size(1);
    const double error = std::abs(value_at(got, row, column) - value_at(want, row, column));
    largest = std::max(largest, std::abs(value_at(want, row, column)));
    if (!(error <= difference)) {
      difference = error;
      at = i;
    }
  }
  const Form& f = p.form;
  const double bound = tolerance::attention_gradient(f.head_dim, f.tokens * f.heads / f.kv_heads, largest,
                                                     p.terms(), roundoff, p.score_error(roundoff));
  EXPECT_LE(difference, bound) << name << " at row " << at / want.size(1) << ", column " << at % want.size(1)
                               << ", largest " << largest;
}

// sum(dout out) of an attention in double, and per row and head the log-sum-exp.
double objective(const Form& f, const Doubles& q, const Doubles& k, const Doubles& v, const Tensor& dout,
                 Doubles* log_sum_exp) {
  double total = 0.0;
  const int64_t group = f.heads / f.kv_heads, width = f.heads * f.head_dim,
                kv_width = f.kv_heads * f.head_dim;
  for (int64_t row = 0; row < f.rows(); ++row) {
    const int64_t sequence = row / f.tokens, i = row % f.tokens;
    for (int64_t h = 0; h < f.heads; ++h) {
      double sum = 0.0, weighted = 0.0;
      for (int64_t j = 0; j < f.tokens; ++j) {
        if (!f.sees(i, j)) continue;
        double score = 0.0, value = 0.0;
        for (int64_t d = 0; d < f.head_dim; ++d) {
          const auto key = size_t((sequence * f.tokens + j) * kv_width + h / group * f.head_dim + d);
          const int64_t query = h * f.head_dim + d;
          score += q[size_t(row * width + query)] * k[key];
          value += v[key] * value_at(dout, row, query);
        }
        score *= double(f.scale());
        if (f.softcap > 0.0f) score = double(f.softcap) * std::tanh(score / double(f.softcap));
        sum += std::exp(score);
        weighted += std::exp(score) * value;
      }
      total += weighted / sum;
      if (log_sum_exp != nullptr) log_sum_exp->push_back(std::log(sum));
    }
  }
  return total;
}

Doubles doubles_of(const Tensor& x) {
  Doubles values;
  for (int64_t i = 0; i < x.numel(); ++i) values.push_back(value_at(x, i / x.size(1), i % x.size(1)));
  return values;
}

// d objective / d x by central differences, as a tensor of x's shape.
Tensor slopes(const Problem& p, Doubles& q, Doubles& k, Doubles& v, Doubles& x, const Tensor& like) {
  constexpr double kStep = 1e-5;
  const Tensor result = zeros(DType::f32, like.shape());
  for (size_t i = 0; i < x.size(); ++i) {
    const double kept = x[i];
    x[i] = kept + kStep;
    const double above = objective(p.form, q, k, v, p.dout, nullptr);
    x[i] = kept - kStep;
    const double below = objective(p.form, q, k, v, p.dout, nullptr);
    x[i] = kept;
    result.mutable_data<float>()[i] = float((above - below) / (2.0 * kStep));
  }
  return result;
}

class TrainingAttentionTest : public testing::TestWithParam<std::string> {
 protected:
  Backend& tested() { return tested_backend(GetParam()); }
};
PARE_INSTANTIATE_BACKENDS(TrainingAttentionTest);

TEST_P(TrainingAttentionTest, GradientsAreTheSlopesOfAttention) {
  const double roundoff = tested().operand_roundoff();
  for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {4, 2}, {3, 1}}) {
    for (const int64_t window : {0, 3}) {
      for (const float softcap : {0.0f, 1.5f}) {
        for (const bool causal : {true, false}) {
          const Form form{.sequences = 2,
                          .tokens = 7,
                          .heads = heads,
                          .kv_heads = kv_heads,
                          .head_dim = 5,
                          .softcap = softcap,
                          .window = window,
                          .causal = causal};
          SCOPED_TRACE(testing::Message() << form);
          Problem p(form, 21);
          p.forward(tested());
          p.backward(tested());
          Doubles q = doubles_of(p.q), k = doubles_of(p.k), v = doubles_of(p.v), log_sum_exp;
          objective(form, q, k, v, p.dout, &log_sum_exp);
          const double score_error = p.score_error(roundoff);
          for (size_t i = 0; i < log_sum_exp.size(); ++i)
            EXPECT_NEAR(double(p.log_sum_exp.data<float>()[i]), log_sum_exp[i], 1e-6 + score_error);
          expect_close("dq", p, p.dq.view(), slopes(p, q, k, v, q, p.q), roundoff);
          expect_close("dk", p, p.dk.view(), slopes(p, q, k, v, k, p.k), roundoff);
          expect_close("dv", p, p.dv.view(), slopes(p, q, k, v, v, p.v), roundoff);
        }
      }
    }
  }
}

// The definition's results, computed once for all levels.
Problem& definition_of(const Form& form) {
  static std::map<std::string, std::unique_ptr<Problem>> known;
  std::ostringstream name;
  name << form;
  std::unique_ptr<Problem>& want = known[name.str()];
  if (want == nullptr) {
    want = std::make_unique<Problem>(form, 22);
    want->forward(oracle());
    want->backward(oracle());
  }
  return *want;
}

void compare_with_definition(Backend& tested, const Form& form) {
  SCOPED_TRACE(testing::Message() << form);
  const double roundoff = tested.operand_roundoff();
  Problem& want = definition_of(form);
  Problem p(form, 22);
  p.forward(tested);
  const double score_error = p.score_error(roundoff);
  for (int64_t i = 0; i < want.log_sum_exp.numel(); ++i) {
    ASSERT_NEAR(p.log_sum_exp.data<float>()[i], want.log_sum_exp.data<float>()[i], 4e-6 + score_error) << i;
  }
  p.backward(tested);
  expect_close("dq", p, p.dq.view(), want.dq.view(), roundoff);
  expect_close("dk", p, p.dk.view(), want.dk.view(), roundoff);
  expect_close("dv", p, p.dv.view(), want.dv.view(), roundoff);
}

TEST_P(TrainingAttentionTest, AgreesAtAllSizes) {
  if (GetParam() == "reference") GTEST_SKIP() << "the definition itself";
  for (const int64_t head_dim : {1, 8, 16, 64, 80, 128, 256, 272, 520}) {
    for (const int64_t tokens : {1, 7, 64, 65, 130}) {
      if (head_dim > 128 && tokens > 65) continue;
      compare_with_definition(tested(), {.tokens = tokens, .heads = 3, .kv_heads = 1, .head_dim = head_dim});
    }
  }
}

TEST_P(TrainingAttentionTest, AgreesOnAllForms) {
  if (GetParam() == "reference") GTEST_SKIP() << "the definition itself";
  for (const auto& [heads, kv_heads] : {std::pair{2, 2}, {7, 1}}) {
    for (const int64_t window : {0, 1, 63, 100}) {
      for (const float softcap : {0.0f, 2.0f}) {
        for (const bool causal : {true, false}) {
          compare_with_definition(tested(), {.sequences = 2,
                                             .tokens = 150,
                                             .heads = heads,
                                             .kv_heads = kv_heads,
                                             .head_dim = 24,
                                             .softcap = softcap,
                                             .window = window,
                                             .causal = causal});
        }
      }
    }
  }
}

// More chunks, more heads in a group than rows in a block, and heads beyond the tiles with every mask.
TEST_P(TrainingAttentionTest, AgreesAcrossTheCutsOfThePlan) {
  if (GetParam() == "reference") GTEST_SKIP() << "the definition itself";
  compare_with_definition(tested(), {.tokens = 600, .heads = 1, .kv_heads = 1, .head_dim = 16});
  compare_with_definition(tested(), {.tokens = 600, .head_dim = 9, .window = 70, .causal = false});
  compare_with_definition(tested(),
                          {.tokens = 257, .heads = 2, .kv_heads = 2, .head_dim = 64, .window = 200});
  compare_with_definition(tested(), {.tokens = 70, .heads = 100, .kv_heads = 1, .head_dim = 3});
  compare_with_definition(tested(), {.tokens = 9, .heads = 49, .kv_heads = 1, .head_dim = 160});
  for (const bool causal : {true, false}) {
    compare_with_definition(tested(), {.tokens = 67,
                                       .heads = 2,
                                       .kv_heads = 1,
                                       .head_dim = 260,
                                       .softcap = 3.0f,
                                       .window = 20,
                                       .causal = causal});
  }
}

// Rows of p sum to 1, so the gradients of values sum to those of outputs.
TEST_P(TrainingAttentionTest, GradientsOfValuesSumToThoseOfOutputs) {
  const Form form{.tokens = 130, .heads = 4, .kv_heads = 2, .head_dim = 16};
  Problem p(form, 23);
  p.forward(tested());
  p.backward(tested());
  for (int64_t c = 0; c < 32; ++c) {
    double got = 0.0, want = 0.0, magnitude = 0.0;
    for (int64_t row = 0; row < form.rows(); ++row) {
      got += value_at(p.dv.view(), row, c);
      for (int64_t h = 0; h < 2; ++h) {
        const double gradient = value_at(p.dout, row, (c / 16 * 2 + h) * 16 + c % 16);
        want += gradient;
        magnitude += std::abs(gradient);
      }
    }
    EXPECT_NEAR(got, want, 1e-4 + tolerance::rounded_mean(tested().operand_roundoff()) * magnitude) << c;
  }
}

// The value of one key is copied, whatever the query: only its value has a gradient.
TEST_P(TrainingAttentionTest, OneTokenHasNoGradientOfScores) {
  Problem p({.tokens = 1, .heads = 2, .kv_heads = 1, .head_dim = 8}, 24);
  p.forward(tested());
  p.backward(tested());
  // the value's gradient is that of two outputs, below 1 each; the difference that is left of scores, two
  // roundings
  const double roundoff = tested().operand_roundoff(), bound = 1e-6 + 2.0 * tolerance::rounded_mean(roundoff);
  const double rest = 1e-6 + 2.0 * (2.0 * tolerance::rounded_mean(roundoff)) * p.terms();
  for (int64_t c = 0; c < 8; ++c) {
    EXPECT_NEAR(value_at(p.dv.view(), 0, c), value_at(p.dout, 0, c) + value_at(p.dout, 0, c + 8), bound);
    EXPECT_NEAR(value_at(p.dk.view(), 0, c), 0.0, rest);
    EXPECT_NEAR(value_at(p.dq.view(), 0, c), 0.0, rest);
  }
}

TEST_P(TrainingAttentionTest, SameBytesForAnyNumberOfThreads) {
  for (const int64_t head_dim : {40, 300}) {
    const Form form{
        .sequences = 1, .tokens = 330, .heads = 4, .kv_heads = 2, .head_dim = head_dim, .window = 250};
    if (GetParam() == "reference" && head_dim > 256) continue;
    const auto run = [&](int threads) {
      set_thread_count(threads);
      Problem p(form, 25);
      p.forward(tested());
      p.backward(tested());
      return p;
    };
    Problem one = run(1), three = run(3);
    set_thread_count(0);
    EXPECT_TRUE(same_bits(one.log_sum_exp, three.log_sum_exp));
    EXPECT_TRUE(same_bits(one.dq.view(), three.dq.view()));
    EXPECT_TRUE(same_bits(one.dk.view(), three.dk.view()));
    EXPECT_TRUE(same_bits(one.dv.view(), three.dv.view()));
  }
}

Tensor on(Device device, const Tensor& x) {
  Tensor copy = *Tensor::allocate(x.dtype(), x.shape(), device);
  std::copy_n(x.data<float>(), x.numel(), copy.mutable_data<float>());
  return copy;
}

TEST(TrainingAttentionOpsTest, HandOverWhatTheyAreGiven) {
  install_backend(make_reference_backend());
  install_backend(make_cpu_backend());
  const Form form{
      .sequences = 2, .tokens = 12, .heads = 4, .kv_heads = 2, .head_dim = 8, .softcap = 4.0f, .window = 5};
  Problem want(form, 26);
  want.forward(oracle());
  want.backward(oracle());
  for (const Device device : {Device::reference(), Device::cpu()}) {
    const Tensor q = on(device, want.q), k = on(device, want.k), v = on(device, want.v),
                 dout = on(device, want.dout);
    const ops::AttentionShape shape{.sequences = 2,
                                    .query_tokens = 12,
                                    .key_tokens = 12,
                                    .query_offset = 0,
                                    .heads = 4,
                                    .kv_heads = 2,
                                    .head_dim = 8,
                                    .scale = form.scale(),
                                    .softcap = 4.0f,
                                    .window = 5,
                                    .causal = true};
    const auto like = [&](const Tensor& x) { return *Tensor::allocate(DType::f32, x.shape(), device); };
    Tensor out = like(q), log_sum_exp = like(want.log_sum_exp), dq = like(q), dk = like(k), dv = like(v),
           same = like(q);
    ops::attention_training(q, k, v, shape, out, log_sum_exp);
    ops::attention_backward(q, k, v, shape, out, log_sum_exp, dout, dq, dk, dv);
    expect_close("out", want, out, want.out.view());
    expect_close("dq", want, dq, want.dq.view());
    expect_close("dk", want, dk, want.dk.view());
    expect_close("dv", want, dv, want.dv.view());
    ops::attention(q, k, v, shape, same);
    EXPECT_TRUE(same_bits(same, out)) << "the log-sum-exp changes nothing else";
  }
}

}  // namespace
}  // namespace pare::test
