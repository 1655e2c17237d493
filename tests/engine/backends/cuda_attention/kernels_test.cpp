// Each kernel of attention by itself, against the definition, at the edges of its tiles.
#include "engine/backends/cuda/attention_plan.h"

#include <cmath>

#include "engine/backends/cuda/cuda_backend.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::cuda {
namespace {

using namespace pare::test;

// Forces a kernel while it lives.
struct Forced {
  explicit Forced(AttentionKernel kernel) { force_attention_kernel(kernel); }
  ~Forced() { force_attention_kernel(std::nullopt); }
};

class CudaAttentionTest : public BackendTest {};
INSTANTIATE_TEST_SUITE_P(Backends, CudaAttentionTest, testing::Values("cuda_bf16"),
                         [](const testing::TestParamInfo<std::string>& info) { return info.param; });

// Runs on the check backend, which compares with the reference.
Tensor attend(const ops::AttentionShape& s, uint64_t seed) {
  Padded q(uniform({s.sequences * s.query_tokens, s.heads * s.head_dim}, seed), 4);
  const Tensor k = uniform({s.sequences * s.key_tokens, s.kv_heads * s.head_dim}, seed + 1);
  const Tensor v = uniform({s.sequences * s.key_tokens, s.kv_heads * s.head_dim}, seed + 2, -2.0f, 2.0f);
  Padded out(q.view().size(0), q.view().size(1), 4);
  ops::attention(q.view(), k, v, s, out.view());
  EXPECT_TRUE(out.padding_is_intact());
  return copy_of(out.view());
}

ops::AttentionShape shape(int64_t queries, int64_t keys, int64_t head_dim, int64_t heads, int64_t kv_heads) {
  return {.sequences = 1,
          .query_tokens = queries,
          .key_tokens = keys,
          .query_offset = keys - queries,
          .heads = heads,
          .kv_heads = kv_heads,
          .head_dim = head_dim,
          .scale = 1.0f / std::sqrt(float(head_dim))};
}

TEST_P(CudaAttentionTest, PrefillOfEveryWidth) {
  const Forced forced(AttentionKernel::prefill);
  for (const int64_t head_dim : {64, 72, 96, 128, 160}) attend(shape(33, 70, head_dim, 3, 1), 1);
}

TEST_P(CudaAttentionTest, PrefillWithEveryMask) {
  const Forced forced(AttentionKernel::prefill);
  for (const int64_t window : {0, 1, 20, 64}) {
    for (const bool causal : {true, false}) {
      ops::AttentionShape s = shape(70, 133, 40, 2, 1);
      s.window = window;
      s.causal = causal;
      s.softcap = causal ? 0.0f : 3.0f;
      attend(s, 2);
    }
  }
}

TEST_P(CudaAttentionTest, PrefillOfSeveralSequencesAndTiles) {
  const Forced forced(AttentionKernel::prefill);
  ops::AttentionShape s = shape(130, 130, 24, 2, 2);
  s.sequences = 2;
  attend(s, 3);
  s.scale = -0.4f;  // the largest product then has the smallest score
  attend(s, 4);
  s.scale = 0.0f;
  attend(s, 5);
}

TEST_P(CudaAttentionTest, DecodeOfEveryWidthAndGroup) {
  const Forced forced(AttentionKernel::decode);
  for (const int64_t head_dim : {5, 64, 80, 128, 136, 256}) {
    for (const auto& [heads, kv_heads] : {std::pair{2, 2}, {8, 1}, {11, 1}, {17, 1}}) {
      for (const int64_t keys : {1, 15, 65, 130}) attend(shape(1, keys, head_dim, heads, kv_heads), 6);
    }
  }
}

// Splits, windows that begin within a share, several query tokens with masks of their own.
TEST_P(CudaAttentionTest, DecodeOverSplitKeys) {
  const Forced forced(AttentionKernel::decode);
  for (const int64_t queries : {1, 5}) {
    for (const int64_t window : {0, 300}) {
      ops::AttentionShape s = shape(queries, 701, 64, 4, 2);
      s.window = window;
      s.softcap = window > 0 ? 4.0f : 0.0f;
      AttentionArgs a{};
      a.sequences = 1;
      a.query_tokens = queries;
      a.key_tokens = 701;
      a.heads = 4;
      a.kv_heads = 2;
      a.head_dim = 64;
      a.window = window;
      ASSERT_GT(plan_attention(a, AttentionKernel::decode, 8).splits, 1);
      attend(s, 7);
    }
  }
}

// The kernels agree with each other, not only with the reference: the same queries, one by one and together.
TEST_P(CudaAttentionTest, KernelsAgree) {
  const ops::AttentionShape s = shape(16, 90, 64, 4, 2);
  const Tensor decode = attend(s, 8);
  const Forced forced(AttentionKernel::prefill);
  const Tensor prefill = attend(s, 8);
  for (int64_t i = 0; i < decode.numel(); ++i)
    EXPECT_NEAR(decode.data<float>()[i], prefill.data<float>()[i], 0x1p-7) << i;
}

}  // namespace
}  // namespace pare::cuda
