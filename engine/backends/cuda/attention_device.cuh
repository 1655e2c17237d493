// engine/backends/cuda/attention_device.cuh: what the kernels of attention share: which keys a row sees,
// where rows and components stand.
#pragma once

#include "engine/backends/cuda/attention_call.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {

constexpr float kLog2E = 1.44269504088896340736f, kLn2 = 0.69314718055994530942f;
constexpr float kNoScore = -INFINITY;  // of a key that is not seen, and the maximum of none

// One key/value head of one sequence, with its lengths read.
struct AttentionUnit {
  int sequence, kv_head, key_tokens, query_offset;
};
__device__ __forceinline__ AttentionUnit attention_unit(const AttentionCall& a, int unit) {
  AttentionUnit u{unit / a.kv_heads, unit % a.kv_heads, a.key_tokens, a.query_offset};
  if (a.lengths != nullptr) {
    u.key_tokens = max(0, min(a.lengths[u.sequence] + a.length_offset, a.key_tokens));
    u.query_offset = u.key_tokens - a.query_tokens;
  }
  return u;
}

// Keys first .. end - 1. Both grow with the row.
struct KeyRange {
  int first, end;
};
__device__ __forceinline__ KeyRange keys_of_row(const AttentionCall& a, const AttentionUnit& u, int row) {
  if (row >= a.rows) return {0, 0};
  const int position = u.query_offset + row / a.group;
  return {a.window > 0 ? max(0, position - a.window + 1) : 0,
          a.causal ? min(u.key_tokens, position + 1) : u.key_tokens};
}
// Union of the ranges of rows first_row .. first_row + count - 1.
__device__ __forceinline__ KeyRange keys_of_rows(const AttentionCall& a, const AttentionUnit& u,
                                                 int first_row, int count) {
  return {keys_of_row(a, u, first_row).first, keys_of_row(a, u, min(first_row + count, a.rows) - 1).end};
}

// Element (row, 0) of a matrix of queries or outputs.
__device__ __forceinline__ int64_t row_offset(const AttentionCall& a, const AttentionUnit& u, int row,
                                              int64_t stride) {
  const int token = row / a.group, head = u.kv_head * a.group + row % a.group;
  return (int64_t(u.sequence) * a.query_tokens + token) * stride + int64_t(head) * a.head_dim;
}
__device__ __forceinline__ int64_t log_sum_exp_offset(const AttentionCall& a, const AttentionUnit& u,
                                                      int row) {
  const int token = row / a.group, head = u.kv_head * a.group + row % a.group;
  return (int64_t(u.sequence) * a.query_tokens + token) * (int64_t(a.kv_heads) * a.group) + head;
}

// Element (key 0, component 0) of keys and values; of their grids.
__device__ __forceinline__ int64_t keys_offset(const AttentionCall& a, const AttentionUnit& u) {
  return int64_t(u.sequence) * a.kv_sequence_stride + int64_t(u.kv_head) * a.kv_head_stride;
}
__device__ __forceinline__ int64_t grids_offset(const AttentionCall& a, const AttentionUnit& u) {
  return (int64_t(u.sequence) * a.kv_heads + u.kv_head) * a.grid_head_stride;
}

// Component d of a key or value of any form, as kv_value() of kv_quant.h gives it.
__device__ __forceinline__ float kv_component(const AttentionCall& a, bool is_key, int64_t keys,
                                              int64_t grids, int j, int d) {
  const void* data = is_key ? a.k : a.v;
  const int64_t at = keys + int64_t(j) * a.kv_position_stride;
  if (a.form == KvForm::f32) return static_cast<const float*>(data)[at + d];
  if (a.form == KvForm::bf16)
    return __uint_as_float(uint32_t(static_cast<const uint16_t*>(data)[at + d]) << 16);
  const float scale = __half2float(__ushort_as_half((is_key ? a.k_scales : a.v_scales)[grids + j]));
  const uint8_t* codes = static_cast<const uint8_t*>(data) + at;
  if (a.form == KvForm::int8) return __fmul_rn(scale, float(codes[d]) - 128.0f);
  const int half = (a.head_dim + 1) / 2;
  const int code = d < half ? codes[d] & 15 : codes[d - half] >> 4;
  return __fmul_rn(scale, float(code) - float((is_key ? a.k_zeros : a.v_zeros)[grids + j]));
}

}  // namespace pare::cuda
