// attention and attention_cached on every backend.
#include <cmath>
#include <limits>

#include "engine/tensor/tolerance.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

class AttentionTest : public BackendTest {
 protected:
  // Of a mean of values, as a share of the largest; 0 on backends that do not round operands.
  double rounding() { return tolerance::rounded_mean(tested().operand_roundoff()); }
};
PARE_INSTANTIATE_BACKENDS(AttentionTest);

struct Problem {
  ops::AttentionShape shape;
  Tensor q, k, v;  // [sequences * tokens, heads * head_dim]
};

Problem problem(const ops::AttentionShape& s, uint64_t seed) {
  return {.shape = s,
          .q = uniform({s.sequences * s.query_tokens, s.heads * s.head_dim}, seed),
          .k = uniform({s.sequences * s.key_tokens, s.kv_heads * s.head_dim}, seed + 1),
          .v = uniform({s.sequences * s.key_tokens, s.kv_heads * s.head_dim}, seed + 2, -2.0f, 2.0f)};
}

// [sequences * key_tokens, kv_heads * head_dim] as [sequences, kv_heads, capacity, head_dim]; positions
// behind key_tokens hold NaN, which would show in the result if they were read.
Tensor cache_of(const Tensor& matrix, const ops::AttentionShape& s, int64_t capacity) {
  const Tensor cache = zeros(DType::f32, {s.sequences, s.kv_heads, capacity, s.head_dim});
  float* data = cache.mutable_data<float>();
  for (int64_t i = 0; i < cache.numel(); ++i) data[i] = std::numeric_limits<float>::quiet_NaN();
  for (int64_t i = 0; i < s.sequences; ++i) {
    for (int64_t h = 0; h < s.kv_heads; ++h) {
      for (int64_t j = 0; j < s.key_tokens; ++j) {
        for (int64_t d = 0; d < s.head_dim; ++d) {
          data[((i * s.kv_heads + h) * capacity + j) * s.head_dim + d] =
              float(value_at(matrix, i * s.key_tokens + j, h * s.head_dim + d));
        }
      }
    }
  }
  return cache;
}

// Runs the plain form with gaps between rows and the cached form; returns the plain result.
Tensor run_both(const Problem& p) {
  const ops::AttentionShape& s = p.shape;
  Padded q(p.q), k(p.k, 6), v(p.v, 6), out(p.q.size(0), p.q.size(1), 4);
  ops::attention(q.view(), k.view(), v.view(), s, out.view());
  EXPECT_TRUE(out.padding_is_intact());
  Tensor cached = zeros(DType::f32, p.q.shape());
  ops::attention_cached(p.q, cache_of(p.k, s, s.key_tokens + 3), cache_of(p.v, s, s.key_tokens + 3), s,
                        cached);
  EXPECT_TRUE(same_bits(cached, out.view())) << "cached form";
  return copy_of(out.view());
}

TEST_P(AttentionTest, AgreesOnAllForms) {
  for (const auto& [heads, kv_heads] : {std::pair{1, 1}, {4, 2}, {6, 1}, {3, 3}}) {
    for (const int64_t head_dim : {1, 7, 16, 33, 64}) {
      for (const auto& [queries, offset] : {std::pair{1, 0}, {1, 18}, {3, 0}, {5, 12}, {17, 0}}) {
        for (const int64_t window : {0, 1, 4}) {
          for (const float softcap : {0.0f, 5.0f}) {
            for (const bool causal : {true, false}) {
              const ops::AttentionShape shape{.sequences = 2,
                                              .query_tokens = queries,
                                              .key_tokens = queries + offset + (causal ? 0 : 2),
                                              .query_offset = offset,
                                              .heads = heads,
                                              .kv_heads = kv_heads,
                                              .head_dim = head_dim,
                                              .scale = 1.0f / std::sqrt(float(head_dim)),
                                              .softcap = softcap,
                                              .window = window,
                                              .causal = causal};
              SCOPED_TRACE(testing::Message() << heads << "/" << kv_heads << " heads of " << head_dim << ", "
                                              << queries << " queries from " << offset << ", window "
                                              << window << ", softcap " << softcap << ", causal " << causal);
              run_both(problem(shape, 11));
            }
          }
        }
      }
    }
  }
}

TEST_P(AttentionTest, AgreesOverManyKeys) {
  for (const auto& [queries, offset] : {std::pair{1, 700}, {70, 0}, {64, 65}, {129, 300}}) {
    for (const int64_t window : {0, 63, 128}) {
      const ops::AttentionShape shape{.sequences = 1,
                                      .query_tokens = queries,
                                      .key_tokens = queries + offset,
                                      .query_offset = offset,
                                      .heads = 2,
                                      .kv_heads = 1,
                                      .head_dim = 128,
                                      .scale = 0.3f,
                                      .window = window};
      SCOPED_TRACE(testing::Message() << queries << " queries from " << offset << ", window " << window);
      run_both(problem(shape, 12));
    }
  }
}

// Scores 0, so every visible value has the same weight: the result is the mean of what the mask lets through.
TEST_P(AttentionTest, EqualScoresGiveTheMeanOfVisibleValues) {
  for (const int64_t window : {0, 3}) {
    for (const bool causal : {true, false}) {
      const ops::AttentionShape shape{.sequences = 1,
                                      .query_tokens = 6,
                                      .key_tokens = 11,
                                      .query_offset = 5,
                                      .heads = 2,
                                      .kv_heads = 1,
                                      .head_dim = 5,
                                      .scale = 1.0f,
                                      .window = window,
                                      .causal = causal};
      Problem p = problem(shape, 13);
      p.q = zeros(DType::f32, p.q.shape());
      const Tensor out = run_both(p);
      for (int64_t i = 0; i < 6; ++i) {
        const int64_t position = 5 + i;
        double sum = 0.0;
        int count = 0;
        for (int64_t j = 0; j < 11; ++j) {
          if ((causal && j > position) || (window > 0 && j <= position - window)) continue;
          sum += value_at(p.v, j, 2);
          ++count;
        }
        EXPECT_EQ(count, (window > 0 ? 3 : int(position + 1)) + (causal ? 0 : int(10 - position)));
        EXPECT_NEAR(value_at(out, i, 2), sum / count, 1e-6 + 2.0 * rounding());
        EXPECT_EQ(value_at(out, i, 2), value_at(out, i, 7)) << "both heads share the values";
      }
    }
  }
}

// One key that outweighs the others by far: its value comes back exactly. Scores are large, so a softmax that
// does not subtract the largest one overflows.
TEST_P(AttentionTest, ADominantKeyIsCopied) {
  const ops::AttentionShape shape{.sequences = 1,
                                  .query_tokens = 1,
                                  .key_tokens = 70,
                                  .query_offset = 69,
                                  .heads = 2,
                                  .kv_heads = 2,
                                  .head_dim = 16,
                                  .scale = 1.0f};
  Problem p = problem(shape, 14);
  for (int64_t c = 0; c < 32; ++c) {
    p.q.mutable_data<float>()[c] = 20.0f;
    for (int64_t j = 0; j < 70; ++j) p.k.mutable_data<float>()[j * 32 + c] = j == 41 ? 3.0f : -3.0f;
  }
  const Tensor out = run_both(p);
  for (int64_t c = 0; c < 32; ++c) {
    const double value = value_at(p.v, 41, c);
    EXPECT_NEAR(value_at(out, 0, c), value,
                rounding() * std::abs(value));  // exactly, where operands are not rounded
  }
}

// Query head h reads key-value head h / (heads / kv_heads).
TEST_P(AttentionTest, GroupedHeadsReadTheirOwnKeys) {
  const ops::AttentionShape shape{.sequences = 1,
                                  .query_tokens = 2,
                                  .key_tokens = 2,
                                  .query_offset = 0,
                                  .heads = 6,
                                  .kv_heads = 2,
                                  .head_dim = 1,
                                  .scale = 1.0f,
                                  .causal = false};
  Problem p = problem(shape, 15);
  for (int64_t j = 0; j < 2; ++j) {
    p.v.mutable_data<float>()[j * 2] = 10.0f;
    p.v.mutable_data<float>()[j * 2 + 1] = 20.0f;
  }
  const Tensor out = run_both(p);
  for (int64_t h = 0; h < 6; ++h) {
    const double value = h < 3 ? 10.0 : 20.0;
    EXPECT_NEAR(value_at(out, 1, h), value, (4.0 * tolerance::kUnitRoundoff + rounding()) * value);
  }
}

TEST_P(AttentionTest, EmptyQueriesAreNothingToDo) {
  const ops::AttentionShape shape{.sequences = 1,
                                  .query_tokens = 0,
                                  .key_tokens = 4,
                                  .query_offset = 0,
                                  .heads = 2,
                                  .kv_heads = 2,
                                  .head_dim = 8,
                                  .scale = 1.0f};
  const Problem p = problem(shape, 16);
  Tensor out = zeros(DType::f32, {0, 16});
  ops::attention(p.q, p.k, p.v, shape, out);
}

}  // namespace
}  // namespace pare::test
