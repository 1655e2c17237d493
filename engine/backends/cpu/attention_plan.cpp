#include "engine/backends/cpu/attention_plan.h"

#include <algorithm>

namespace pare::cpu {
namespace {

// Rows of an item: enough to pay for transposing a block of keys, few enough that queries, outputs and the
// block of keys and values stay in the second-level cache (and inside kAttentionScratch).
int64_t rows_per_item(int64_t head_dim) {
  if (head_dim <= 128) return 96;
  return head_dim <= 256 ? 48 : 24;
}

int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

AttentionPlan plan_attention(const AttentionArgs& args) {
  const int64_t group = args.heads / args.kv_heads;
  const int64_t rows = rows_per_item(args.head_dim);
  AttentionPlan plan{};
  plan.is_tiled = args.head_dim <= kAttentionHeadDim;
  plan.heads_per_item = std::min(group, rows);
  plan.positions_per_item = std::min(args.query_tokens, rows / plan.heads_per_item);
  plan.head_chunks = divide_up(group, plan.heads_per_item);
  plan.position_blocks = divide_up(args.query_tokens, plan.positions_per_item);
  plan.padded_head_dim = divide_up(args.head_dim, 16) * 16;
  plan.items = args.sequences * args.kv_heads * plan.head_chunks * plan.position_blocks;
  return plan;
}

AttentionBackwardPlan plan_attention_backward(const AttentionBackwardArgs& args) {
  constexpr int64_t kItems = 24;  // squares that a round should have at least
  constexpr int64_t kChunks = 8;  // rounds are as many as chunks
  AttentionBackwardPlan plan{};
  plan.is_tiled = args.head_dim <= kAttentionBackwardHeadDim;
  const int64_t blocks = divide_up(args.tokens, kAttentionKeys);
  const int64_t wanted = std::min(kChunks, divide_up(kItems, args.sequences * args.kv_heads));
  plan.chunk_tokens = divide_up(blocks, wanted) * kAttentionKeys;
  plan.chunks = divide_up(args.tokens, plan.chunk_tokens);
  plan.rows = 48;
  plan.heads_per_block = std::min(args.heads / args.kv_heads, plan.rows);
  plan.padded_head_dim = divide_up(args.head_dim, 16) * 16;
  return plan;
}

float* attention_scratch() {
  alignas(64) static thread_local float scratch[kAttentionScratch];
  return scratch;
}

}  // namespace pare::cpu
