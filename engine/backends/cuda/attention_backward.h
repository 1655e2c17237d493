// engine/backends/cuda/attention_backward.h: one backward of attention as its kernels see it.
#pragma once

#include "engine/backends/cuda/attention_convert.h"

namespace pare::cuda {

// AttentionBackwardArgs for units first_unit ..; rows as in attention_call.h. `scratch` pointers begin at
// first_unit.
struct BackwardCall {
  const float* q;
  const float* k;
  const float* v;
  const float* out;
  const float* log_sum_exp;
  const float* dout;
  float* dq;
  float* dk;
  float* dv;
  int64_t q_stride, kv_stride, out_stride, dout_stride, dq_stride, dkv_stride;
  float scale, softcap;
  int tokens, kv_heads, group, head_dim, rows, window, first_unit;
  bool causal;
  float* delta;  // [units, rows]: sum of dout * out of a row

  __device__ __forceinline__ int64_t token_of_row(int unit, int row) const {
    return int64_t(unit / kv_heads) * tokens + row / group;
  }
  __device__ __forceinline__ int head_of_row(int unit, int row) const {
    return unit % kv_heads * group + row % group;
  }
  // Element (row, 0) of queries, outputs and their gradients; (key, 0) of keys, values and theirs.
  __device__ __forceinline__ int64_t row_at(int unit, int row, int64_t stride) const {
    return token_of_row(unit, row) * stride + int64_t(head_of_row(unit, row)) * head_dim;
  }
  __device__ __forceinline__ int64_t key_at(int unit, int key, int64_t stride) const {
    return (int64_t(unit / kv_heads) * tokens + key) * stride + int64_t(unit % kv_heads) * head_dim;
  }
  __device__ __forceinline__ KeyRange keys_of(int row) const {
    const int position = row / group;
    return {window > 0 ? max(0, position - window + 1) : 0, causal ? position + 1 : tokens};
  }
  // Rows that see key `key`: first .. end - 1.
  __device__ __forceinline__ KeyRange rows_of(int key) const {
    return {causal ? key * group : 0, window > 0 ? min(tokens, key + window) * group : rows};
  }
};

void launch_backward_exact(Context& context, const BackwardCall& call, const AttentionBackwardPlan& plan,
                           int64_t units);
void launch_backward_tensor(Context& context, const BackwardCall& call, const AttentionBackwardPlan& plan,
                            int64_t units, unsigned char* scratch);

}  // namespace pare::cuda
