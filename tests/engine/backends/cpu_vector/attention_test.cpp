// Attention against a plain loop in double, over all options and odd sizes.
#include <gtest/gtest.h>

#include <cstring>

#include "engine/backends/cpu/kernels.h"
#include "tests/engine/backends/cpu_vector/support.h"

namespace pare::cpu {
namespace {

struct Problem {
  int64_t sequences = 1, query_tokens = 1, key_tokens = 1, query_offset = 0;
  int64_t heads = 1, kv_heads = 1, head_dim = 64;
  float softcap = 0.0f;
  int64_t window = 0;
  bool causal = true;
  bool cache_layout = false;  // [sequence, kv head, position, d] instead of [sequence, position, kv head, d]
};

std::string describe(const Problem& p) {
  return "sequences " + std::to_string(p.sequences) + ", queries " + std::to_string(p.query_tokens) +
         ", keys " + std::to_string(p.key_tokens) + ", offset " + std::to_string(p.query_offset) +
         ", heads " + std::to_string(p.heads) + "/" + std::to_string(p.kv_heads) + ", head_dim " +
         std::to_string(p.head_dim) + ", softcap " + std::to_string(p.softcap) + ", window " +
         std::to_string(p.window) + (p.causal ? ", causal" : ", full") +
         (p.cache_layout ? ", cache" : ", rows");
}

// Inputs with gaps between rows that hold NaN: reading one shows in the result.
class Inputs {
 public:
  explicit Inputs(const Problem& p, uint32_t seed = 3) : problem_(p) {
    const float gap = std::numeric_limits<float>::quiet_NaN();
    const int64_t q_stride = p.heads * p.head_dim + 3;
    const int64_t capacity = p.key_tokens + 2;
    const int64_t rows = p.sequences * p.query_tokens;
    args_.sequences = p.sequences;
    args_.query_tokens = p.query_tokens;
    args_.key_tokens = p.key_tokens;
    args_.query_offset = p.query_offset;
    args_.heads = p.heads;
    args_.kv_heads = p.kv_heads;
    args_.head_dim = p.head_dim;
    args_.q_stride = q_stride;
    args_.out_stride = q_stride + 2;
    args_.scale = 1.0f / std::sqrt(float(p.head_dim));
    args_.softcap = p.softcap;
    args_.window = p.window;
    args_.causal = p.causal;
    if (p.cache_layout) {
      args_.kv_position_stride = p.head_dim;
      args_.kv_head_stride = capacity * p.head_dim;
      args_.kv_sequence_stride = p.kv_heads * args_.kv_head_stride;
    } else {
      args_.kv_head_stride = p.head_dim;
      args_.kv_position_stride = p.kv_heads * p.head_dim + 1;
      args_.kv_sequence_stride = capacity * args_.kv_position_stride;
    }
    q_.assign(size_t(rows * q_stride), gap);
    k_.assign(size_t(p.sequences * args_.kv_sequence_stride), gap);
    v_ = k_;
    fill(q_, rows, q_stride, p.heads * p.head_dim, seed);
    for (int64_t s = 0; s < p.sequences; ++s) {
      for (int64_t h = 0; h < p.kv_heads; ++h) {
        for (int64_t j = 0; j < p.key_tokens; ++j) {
          const uint32_t row_seed = seed + uint32_t(1 + ((s * p.kv_heads + h) * p.key_tokens + j) * 2);
          const auto k_row = random_floats(p.head_dim, -1.5f, 1.5f, row_seed);
          const auto v_row = random_floats(p.head_dim, -1.0f, 1.0f, row_seed + 1);
          std::memcpy(&k_[size_t(kv(s, h, j))], k_row.data(), k_row.size() * sizeof(float));
          std::memcpy(&v_[size_t(kv(s, h, j))], v_row.data(), v_row.size() * sizeof(float));
        }
      }
    }
  }

  AttentionArgs args(float* out) const {
    AttentionArgs a = args_;
    a.q = q_.data();
    a.k = k_.data();
    a.v = v_.data();
    a.out = out;
    a.kv_dtype = DType::f32;
    return a;
  }
  int64_t out_floats() const { return problem_.sequences * problem_.query_tokens * args_.out_stride; }

  // out[s, i, h, :] by the formula of backend.h
  std::vector<double> exact(int64_t s, int64_t i, int64_t h) const {
    const Problem& p = problem_;
    const int64_t position = p.query_offset + i;
    const int64_t kv_head = h / (p.heads / p.kv_heads);
    const float* q = &q_[size_t((s * p.query_tokens + i) * args_.q_stride + h * p.head_dim)];
    std::vector<double> out(size_t(p.head_dim), 0.0);
    double total = 0.0;
    for (int64_t j = 0; j < p.key_tokens; ++j) {
      if (p.causal && j > position) continue;
      if (p.window > 0 && j <= position - p.window) continue;
      double score = 0.0;
      for (int64_t d = 0; d < p.head_dim; ++d)
        score += double(q[d]) * double(k_[size_t(kv(s, kv_head, j) + d)]);
      score *= double(args_.scale);
      if (p.softcap > 0.0f) score = double(p.softcap) * std::tanh(score / double(p.softcap));
      const double weight = std::exp(score);
      total += weight;
      for (int64_t d = 0; d < p.head_dim; ++d)
        out[size_t(d)] += weight * double(v_[size_t(kv(s, kv_head, j) + d)]);
    }
    for (double& value : out) value /= total;
    return out;
  }

 private:
  int64_t kv(int64_t s, int64_t h, int64_t j) const {
    return s * args_.kv_sequence_stride + h * args_.kv_head_stride + j * args_.kv_position_stride;
  }
  static void fill(std::vector<float>& values, int64_t rows, int64_t stride, int64_t columns, uint32_t seed) {
    for (int64_t r = 0; r < rows; ++r) {
      const auto row = random_floats(columns, -1.5f, 1.5f, seed + 7'919 * uint32_t(r + 1));
      std::memcpy(&values[size_t(r * stride)], row.data(), row.size() * sizeof(float));
    }
  }

  Problem problem_;
  AttentionArgs args_{};
  std::vector<float> q_, k_, v_;
};

std::vector<float> run(Isa isa, const Inputs& inputs) {
  std::vector<float> out(size_t(inputs.out_floats()), -7.0f);
  const AttentionArgs args = inputs.args(out.data());
  const AttentionPlan plan = plan_attention(args);
  for (int64_t item = 0; item < plan.items; ++item) kernels(isa).attention(args, plan, item);
  return out;
}

// Scores err by a few roundings per term; a score error e changes a weight by the factor exp(e), and weights
// sum to 1.
double bound(const Problem& p) {
  const double epsilon = 1.2e-7;
  const double score = 1.5 * 1.5 * double(p.head_dim) / std::sqrt(double(p.head_dim));
  return epsilon *
         (4.0 * std::sqrt(double(p.head_dim)) * score + 4.0 * std::sqrt(double(p.key_tokens)) + 8.0);
}

void expect_exact(Isa isa, const Problem& p) {
  const Inputs inputs(p);
  const std::vector<float> out = run(isa, inputs);
  const int64_t stride = inputs.args(nullptr).out_stride;
  for (int64_t s = 0; s < p.sequences; ++s) {
    for (int64_t i = 0; i < p.query_tokens; ++i) {
      const float* row = &out[size_t((s * p.query_tokens + i) * stride)];
      for (int64_t h = 0; h < p.heads; ++h) {
        const std::vector<double> exact = inputs.exact(s, i, h);
        for (int64_t d = 0; d < p.head_dim; ++d) {
          ASSERT_NEAR(double(row[h * p.head_dim + d]), exact[size_t(d)], bound(p))
              << isa_name(isa) << ": " << describe(p) << " at s " << s << ", i " << i << ", h " << h << ", d "
              << d;
        }
      }
      for (int64_t c = p.heads * p.head_dim; c < stride; ++c)
        ASSERT_EQ(row[c], -7.0f) << "gap written: " << describe(p);
    }
  }
}

class AttentionTest : public testing::TestWithParam<Isa> {};

TEST_P(AttentionTest, AllOptionsTogether) {
  for (const bool causal : {true, false}) {
    for (const int64_t window : {0, 1, 5, 70}) {
      for (const float softcap : {0.0f, 1.5f}) {
        for (const bool cache : {true, false}) {
          expect_exact(GetParam(), {.sequences = 2,
                                    .query_tokens = 13,
                                    .key_tokens = 137,
                                    .query_offset = 124,
                                    .heads = 6,
                                    .kv_heads = 2,
                                    .head_dim = 16,
                                    .softcap = softcap,
                                    .window = window,
                                    .causal = causal,
                                    .cache_layout = cache});
        }
      }
    }
  }
}

TEST_P(AttentionTest, HeadDimensions) {
  for (const int64_t head_dim :
       {1, 2, 7, 15, 16, 17, 31, 32, 48, 64, 65, 80, 96, 127, 128, 129, 256, 257, 512}) {
    expect_exact(GetParam(), {.query_tokens = 9,
                              .key_tokens = 71,
                              .query_offset = 62,
                              .heads = 2,
                              .kv_heads = 1,
                              .head_dim = head_dim});
  }
}

TEST_P(AttentionTest, HeadsBeyondTheTiledKernel) {
  for (const int64_t window : {0, 3, 66}) {
    for (const float softcap : {0.0f, 1.5f}) {
      expect_exact(GetParam(), {.query_tokens = 3,
                                .key_tokens = 133,
                                .query_offset = 130,
                                .heads = 2,
                                .kv_heads = 1,
                                .head_dim = kAttentionHeadDim + 1,
                                .softcap = softcap,
                                .window = window});
    }
  }
}

TEST_P(AttentionTest, KeysAroundTheBlockSize) {
  for (const int64_t keys : {1, 2, 3, 15, 16, 17, 63, 64, 65, 127, 128, 129}) {
    expect_exact(GetParam(), {.query_tokens = 1,
                              .key_tokens = keys,
                              .query_offset = keys - 1,
                              .heads = 3,
                              .kv_heads = 3,
                              .head_dim = 24});
    expect_exact(GetParam(),
                 {.query_tokens = keys, .key_tokens = keys, .heads = 1, .kv_heads = 1, .head_dim = 8});
    expect_exact(
        GetParam(),
        {.query_tokens = 2, .key_tokens = keys, .heads = 4, .kv_heads = 1, .head_dim = 8, .causal = false});
  }
}

TEST_P(AttentionTest, QueriesAroundTheBlockSize) {
  for (const int64_t queries : {5, 6, 7, 31, 32, 33, 95, 96, 97, 193}) {
    expect_exact(GetParam(),
                 {.query_tokens = queries, .key_tokens = queries, .heads = 3, .kv_heads = 1, .head_dim = 8});
  }
  // More heads in a group than rows in an item.
  expect_exact(
      GetParam(),
      {.query_tokens = 2, .key_tokens = 5, .query_offset = 3, .heads = 101, .kv_heads = 1, .head_dim = 4});
}

// A row must not depend on which other rows are computed in the same call: decoding equals prefill, byte for
// byte.
TEST_P(AttentionTest, OneQueryAtATimeGivesTheSameBytes) {
  for (const int64_t window : {0, 20}) {
    const int64_t tokens = 150;
    const Problem whole{.query_tokens = tokens,
                        .key_tokens = tokens,
                        .heads = 4,
                        .kv_heads = 2,
                        .head_dim = 20,
                        .window = window};
    const Inputs inputs(whole);
    const std::vector<float> expected = run(GetParam(), inputs);
    std::vector<float> out(expected.size(), -7.0f);
    for (int64_t i = 0; i < tokens; ++i) {
      AttentionArgs args = inputs.args(out.data());
      args.q += i * args.q_stride;
      args.out += i * args.out_stride;
      args.query_tokens = 1;
      args.query_offset = i;
      args.key_tokens = i + 1;
      const AttentionPlan plan = plan_attention(args);
      for (int64_t item = 0; item < plan.items; ++item) kernels(GetParam()).attention(args, plan, item);
    }
    EXPECT_EQ(std::memcmp(out.data(), expected.data(), out.size() * sizeof(float)), 0) << "window " << window;
  }
}

// Scores far apart: the online softmax must rescale, and nothing may overflow.
TEST_P(AttentionTest, LargeScores) {
  const Problem p{.query_tokens = 3, .key_tokens = 200, .query_offset = 197, .head_dim = 16};
  const Inputs inputs(p);
  std::vector<float> out(size_t(inputs.out_floats()));
  AttentionArgs args = inputs.args(out.data());
  args.scale = 300.0f;
  const AttentionPlan plan = plan_attention(args);
  for (int64_t item = 0; item < plan.items; ++item) kernels(GetParam()).attention(args, plan, item);
  // One key wins by far: the output is its value.
  for (int64_t i = 0; i < p.query_tokens; ++i) {
    const float* q = args.q + i * args.q_stride;
    const float* k = static_cast<const float*>(args.k);
    int64_t best = 0;
    double best_score = -1e30;
    for (int64_t j = 0; j <= p.query_offset + i; ++j) {
      double score = 0.0;
      for (int64_t d = 0; d < p.head_dim; ++d)
        score += double(q[d]) * double(k[j * args.kv_position_stride + d]);
      if (score > best_score) {
        best_score = score;
        best = j;
      }
    }
    const float* v = static_cast<const float*>(args.v) + best * args.kv_position_stride;
    for (int64_t d = 0; d < p.head_dim; ++d) EXPECT_NEAR(out[size_t(i * args.out_stride + d)], v[d], 1e-3);
  }
}

TEST_P(AttentionTest, NanInAQueryReachesItsRowOnly) {
  const Problem p{.query_tokens = 4, .key_tokens = 4, .heads = 2, .kv_heads = 1, .head_dim = 8};
  const Inputs inputs(p);
  std::vector<float> out(size_t(inputs.out_floats()));
  AttentionArgs args = inputs.args(out.data());
  std::vector<float> q(args.q, args.q + p.query_tokens * args.q_stride);
  q[size_t(2 * args.q_stride + 1)] = std::numeric_limits<float>::quiet_NaN();  // query 2, head 0
  args.q = q.data();
  const AttentionPlan plan = plan_attention(args);
  for (int64_t item = 0; item < plan.items; ++item) kernels(GetParam()).attention(args, plan, item);
  for (int64_t i = 0; i < p.query_tokens; ++i) {
    for (int64_t c = 0; c < 16; ++c)
      EXPECT_EQ(std::isnan(out[size_t(i * args.out_stride + c)]), i == 2 && c < 8);
  }
}

TEST(AttentionPlanTest, ScratchSufficesForEveryHead) {
  for (int64_t head_dim = 1; head_dim <= kAttentionHeadDim; ++head_dim) {
    AttentionArgs args{};
    args.sequences = args.heads = args.kv_heads = 1;
    args.query_tokens = args.key_tokens = 4'096;
    args.head_dim = head_dim;
    const AttentionPlan plan = plan_attention(args);
    const int64_t rows = plan.heads_per_item * plan.positions_per_item;
    const int64_t floats = (rows + 5) / 6 * 6 * head_dim + rows * plan.padded_head_dim +
                           kAttentionKeys * head_dim + rows * 16 + rows +
                           kAttentionKeys * plan.padded_head_dim + 6 * 16;
    EXPECT_TRUE(plan.is_tiled);
    ASSERT_LE(floats, kAttentionScratch) << head_dim;
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, AttentionTest, testing::ValuesIn(host_levels()),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

}  // namespace
}  // namespace pare::cpu
