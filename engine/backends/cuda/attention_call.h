// engine/backends/cuda/attention_call.h: one attention as its kernels see it, and the launchers of the
// kernels.
#pragma once

#include <cstdint>

#include "engine/backends/cuda/attention_plan.h"
#include "engine/backends/cuda/context.h"

namespace pare::cuda {

// AttentionArgs with integers of the width that kernels count in. A unit is (sequence, kv head), its row r
// the query token r / group with head kv_head * group + r % group.
struct AttentionCall {
  const float* q;
  float* out;
  float* log_sum_exp;  // [sequences * query_tokens, heads] or null
  const void* k;
  const void* v;
  const uint16_t* k_scales;
  const uint16_t* v_scales;
  const uint8_t* k_zeros;
  const uint8_t* v_zeros;
  const int32_t*
      lengths;  // [sequences] on the device, or null: key_tokens and query_offset hold for all of them
  int64_t q_stride, out_stride;
  int64_t kv_sequence_stride, kv_head_stride, kv_position_stride, grid_head_stride;
  float scale, softcap;
  int sequences, query_tokens, key_tokens, query_offset, length_offset;
  int kv_heads, group, head_dim, rows;
  int window;  // 0: none; else at most key_tokens + query_tokens, which hides nothing either
  bool causal;
  KvForm form;
};
AttentionCall attention_call(const AttentionArgs& args, const int32_t* lengths, int32_t length_offset);

// The kernels of attention_plan.h. `is_dependent` as in attention_decode.h.
void run_attention_exact(Context& context, const AttentionCall& call, const AttentionPlan& plan);
void run_attention_prefill(Context& context, const AttentionCall& call, const AttentionPlan& plan);
void run_attention_decode(Context& context, const AttentionCall& call, const AttentionPlan& plan,
                          bool is_dependent);

}  // namespace pare::cuda
