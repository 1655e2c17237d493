// Which kernel serves an attention, and how it is cut.
#include "engine/backends/cuda/attention_plan.h"

#include <gtest/gtest.h>

namespace pare::cuda {
namespace {

constexpr int kMultiprocessors = 132;

AttentionArgs arguments(int64_t query_tokens, int64_t key_tokens, int64_t head_dim, int64_t heads = 32,
                        int64_t kv_heads = 8) {
  AttentionArgs a{};
  a.kv_dtype = DType::bf16;
  a.sequences = 1;
  a.query_tokens = query_tokens;
  a.key_tokens = key_tokens;
  a.query_offset = key_tokens - query_tokens;
  a.heads = heads;
  a.kv_heads = kv_heads;
  a.head_dim = head_dim;
  a.kv_position_stride = head_dim;
  a.kv_head_stride = key_tokens * head_dim;
  a.kv_sequence_stride = kv_heads * key_tokens * head_dim;
  a.causal = true;
  return a;
}

TEST(AttentionPlan, TheTableServesEverything) {
  for (const int64_t head_dim : {1, 64, 100, 128, 256, 257, 512}) {
    for (const int64_t queries : {1, 16, 17, 500}) {
      AttentionArgs a = arguments(queries, 500, head_dim);
      EXPECT_EQ(choose_attention_kernel(a, MathMode::f32), AttentionKernel::exact);
      const AttentionKernel kernel = choose_attention_kernel(a, MathMode::bf16);
      EXPECT_EQ(kernel, head_dim > 256  ? AttentionKernel::exact
                        : queries <= 16 ? AttentionKernel::decode
                                        : AttentionKernel::prefill);
      float log_sum_exp = 0.0f;
      a.log_sum_exp = &log_sum_exp;
      EXPECT_NE(choose_attention_kernel(a, MathMode::bf16), AttentionKernel::decode);
    }
  }
  EXPECT_NE(describe_attention_kernels().find("decode"), std::string::npos);
}

TEST(AttentionPlan, AForcedKernelServesWhatItSupports) {
  force_attention_kernel(AttentionKernel::prefill);
  EXPECT_EQ(choose_attention_kernel(arguments(1, 9, 64), MathMode::bf16), AttentionKernel::prefill);
  EXPECT_EQ(choose_attention_kernel(arguments(1, 9, 64), MathMode::f32), AttentionKernel::exact);
  force_attention_kernel(std::nullopt);
  EXPECT_EQ(choose_attention_kernel(arguments(1, 9, 64), MathMode::bf16), AttentionKernel::decode);
}

// Tiles cover all rows, shared memory is that of one block of an A100 at most, half of it where two are to
// run.
TEST(AttentionPlan, TilesCoverTheRowsAndFit) {
  for (const AttentionKernelRow& row : attention_kernels()) {
    for (const int64_t head_dim : {1, 64, 72, 96, 128, 192, 256, 512}) {
      for (const auto& [heads, kv_heads] : {std::pair{32, 8}, {12, 12}, {71, 1}}) {
        const AttentionArgs a = arguments(16, 4000, head_dim, heads, kv_heads);
        if (!row.supports(a, MathMode::bf16)) continue;
        const AttentionPlan plan = plan_attention(a, row.kernel, kMultiprocessors);
        EXPECT_GE(plan.row_tiles * plan.tile_rows, plan.rows);
        EXPECT_LT((plan.row_tiles - 1) * plan.tile_rows, plan.rows);
        EXPECT_EQ(plan.rows, 16 * heads / kv_heads);
        EXPECT_GE(plan.padded_head_dim * plan.column_tiles, head_dim);
        EXPECT_LE(plan.shared_bytes, size_t{82} * 1024 * (head_dim > 128 ? 2 : 1))
            << row.name << " " << head_dim;
      }
    }
  }
}

TEST(AttentionPlan, LongContextsAreSplitOverTheMultiprocessors) {
  const auto splits = [](int64_t keys, int64_t sequences, int64_t window) {
    AttentionArgs a = arguments(1, keys, 128);
    a.sequences = sequences;
    a.window = window;
    return plan_attention(a, AttentionKernel::decode, kMultiprocessors).splits;
  };
  EXPECT_EQ(splits(256, 1, 0), 1);     // not worth a second kernel
  EXPECT_EQ(splits(2048, 1, 0), 16);   // shares of 128 keys
  EXPECT_EQ(splits(32768, 1, 0), 33);  // 8 units: two blocks per multiprocessor
  EXPECT_EQ(splits(32768, 64, 0), 1);  // enough blocks without
  EXPECT_EQ(splits(32768, 1, 200), 1);
}

// Copies of keys and values: none for aligned bf16, at most 64 MiB at a time (or one unit), all units in the
// end.
TEST(AttentionPlan, CopiesAreBounded) {
  AttentionArgs a = arguments(2048, 2048, 128);
  EXPECT_FALSE(plan_attention(a, AttentionKernel::prefill, kMultiprocessors).converts);
  a.kv_position_stride += 1;
  EXPECT_TRUE(plan_attention(a, AttentionKernel::prefill, kMultiprocessors).converts);
  a.kv_dtype = DType::f32;
  for (const int64_t keys : {1, 2048, 200'000, 2'000'000}) {
    a.key_tokens = keys;
    a.sequences = 9;
    const AttentionPlan plan = plan_attention(a, AttentionKernel::prefill, kMultiprocessors);
    const size_t unit = size_t(keys) * 128 * 2 * 2;
    EXPECT_GE(plan.scratch_bytes, size_t(plan.units_per_pass) * unit);
    EXPECT_LE(plan.scratch_bytes, std::max(size_t{64} << 20, unit + 512));
    EXPECT_GE(plan.units_per_pass, 1);
    EXPECT_LE(plan.units_per_pass, 72);
  }
}

TEST(AttentionPlan, GradientsUseTensorCoresUpToTheWidthThatFits) {
  AttentionBackwardArgs a{};
  a.sequences = 2;
  a.tokens = 100;
  a.heads = 6;
  a.kv_heads = 2;
  for (const int64_t head_dim : {1, 64, 80, 128, 129, 520}) {
    a.head_dim = head_dim;
    const AttentionBackwardPlan plan = plan_attention_backward(a, MathMode::bf16);
    EXPECT_EQ(plan.is_tensor, head_dim <= 128);
    EXPECT_FALSE(plan_attention_backward(a, MathMode::f32).is_tensor);
    EXPECT_EQ(plan.rows, 300);
    EXPECT_EQ(plan.row_tiles, 5);
    EXPECT_EQ(plan.key_tiles, 2);
    EXPECT_GE(plan.padded_head_dim * plan.column_tiles, head_dim);
    EXPECT_EQ(plan.units_per_pass, 4);
  }
}

}  // namespace
}  // namespace pare::cuda
