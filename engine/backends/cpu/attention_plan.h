// engine/backends/cpu/attention_plan.h: how attention is cut into items of work, by shape alone.
//
// An item is a block of query rows that share one key/value head of one sequence. Its rows are (position,
// head in the group), position-major, so that grouped query heads share each block of keys and values.
#pragma once

#include <cstdint>

#include "engine/tensor/training_backend.h"

namespace pare::cpu {

constexpr int64_t kAttentionKeys = 64;              // keys in a block; blocks begin at multiples of it
constexpr int64_t kAttentionHeadDim = 512;          // largest head that the tiled kernel takes
static_assert(kAttentionHeadDim >= kKvHeadDim);     // codes are decoded by the tiled kernel alone
constexpr int64_t kAttentionScratch = 126'976;      // floats that the tiled kernels may use
constexpr int64_t kAttentionBackwardHeadDim = 256;  // largest head that the tiled backward takes

struct AttentionPlan {
  bool is_tiled;           // false: head_dim above kAttentionHeadDim, rows one by one
  int64_t heads_per_item;  // of one group
  int64_t positions_per_item;
  int64_t head_chunks;      // items per group and position block
  int64_t position_blocks;  // items per sequence and head chunk
  int64_t padded_head_dim;  // multiple of 16
  int64_t items;
};

AttentionPlan plan_attention(const AttentionArgs& args);

// The backward is cut by chunks of positions, for queries and for keys; its blocks are rows of queries, as
// above, against kAttentionKeys keys.
struct AttentionBackwardPlan {
  bool is_tiled;         // false: head_dim above kAttentionBackwardHeadDim, pair by pair
  int64_t chunk_tokens;  // a multiple of kAttentionKeys
  int64_t chunks;
  int64_t rows;             // at most, in a block
  int64_t heads_per_block;  // of one group
  int64_t padded_head_dim;  // multiple of 16
};

AttentionBackwardPlan plan_attention_backward(const AttentionBackwardArgs& args);

// kAttentionScratch floats of the calling thread, aligned to 64 bytes. Not on the stack: it may be as small
// as 256 KiB.
float* attention_scratch();

}  // namespace pare::cpu
