// Keys and values of any form to rows of bf16, padded with zeros to the width of the kernel's tiles.
#include "engine/backends/cuda/attention_convert.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;

// A thread writes 8 columns of a key or value: blockIdx.y is 0 or 1.
__global__ void convert_keys_kernel(AttentionCall a, uint16_t* copies, int64_t unit_stride,
                                    int64_t values_offset, int first_unit, int64_t pieces, int width,
                                    bool reads_vectors) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= pieces) return;
  const int per_row = width / 8, column = int(i % per_row) * 8;
  const int64_t row = i / per_row;
  const int key = int(row % a.key_tokens), unit = int(row / a.key_tokens);
  const AttentionUnit u = attention_unit(a, first_unit + unit);
  const bool is_key = blockIdx.y == 0;
  const int64_t keys = keys_offset(a, u), grids = grids_offset(a, u);
  float x[8];
  if (a.form == KvForm::f32) {
    const float* source =
        static_cast<const float*>(is_key ? a.k : a.v) + keys + int64_t(key) * a.kv_position_stride;
    load_floats_8(x, source, column, a.head_dim, reads_vectors);
  } else {
#pragma unroll
    for (int e = 0; e < 8; ++e)
      x[e] = column + e < a.head_dim ? kv_component(a, is_key, keys, grids, key, column + e) : 0.0f;
  }
  uint16_t* target =
      copies + (is_key ? 0 : values_offset) + int64_t(unit) * unit_stride + int64_t(key) * width + column;
  *reinterpret_cast<uint4*>(target) =
      make_uint4(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7]));
}

}  // namespace

Bf16Keys copyable_keys(const AttentionCall& call) {
  return {.k = static_cast<const uint16_t*>(call.k),
          .v = static_cast<const uint16_t*>(call.v),
          .unit_stride = 0,
          .position_stride = call.kv_position_stride,
          .first_unit = 0,
          .columns = call.head_dim};
}

Bf16Keys convert_keys(Context& context, const AttentionCall& call, const AttentionPlan& plan,
                      int64_t first_unit, int64_t units) {
  auto* copies = static_cast<uint16_t*>(context.scratch(plan.scratch_bytes));
  const int64_t width = plan.padded_head_dim, unit_stride = int64_t(call.key_tokens) * width;
  const int64_t values_offset = int64_t(plan.scratch_bytes) / 2 / int64_t(sizeof(uint16_t));
  const int64_t pieces = units * unit_stride / 8;
  const bool reads_vectors = is_aligned(call.k, 16) && is_aligned(call.v, 16) && call.head_dim % 4 == 0 &&
                             call.kv_position_stride % 4 == 0 && call.kv_head_stride % 4 == 0 &&
                             call.kv_sequence_stride % 4 == 0;
  if (copies != nullptr) {
    context.launch("attention_convert", convert_keys_kernel,
                   {.grid = dim3(blocks_for(pieces, kThreads), 2), .block = kThreads}, call, copies,
                   unit_stride, values_offset, int(first_unit), pieces, int(width), reads_vectors);
  }
  return {.k = copies,
          .v = copies + values_offset,
          .unit_stride = unit_stride,
          .position_stride = width,
          .first_unit = int(first_unit),
          .columns = int(width)};
}

}  // namespace pare::cuda
