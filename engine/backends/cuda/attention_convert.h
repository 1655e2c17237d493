// engine/backends/cuda/attention_convert.h: keys and values as bf16 rows that tiles can be copied from; rows
// of floats.
#pragma once

#include <algorithm>

#include "engine/backends/cuda/attention_device.cuh"

namespace pare::cuda {

inline bool is_aligned(const void* p, size_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

// Keys and values of units first_unit .. , 16-byte aligned rows of `columns` (a multiple of 8) bf16.
struct Bf16Keys {
  const uint16_t* k;
  const uint16_t* v;
  int64_t unit_stride;  // of a converted copy; 0: where the call has them
  int64_t position_stride;
  int first_unit, columns;

  __device__ __forceinline__ int64_t offset(const AttentionCall& a, const AttentionUnit& u, int unit) const {
    return unit_stride > 0 ? int64_t(unit - first_unit) * unit_stride : keys_offset(a, u);
  }
};

Bf16Keys copyable_keys(const AttentionCall& call);
// Writes the copy of some units to context.scratch(plan.scratch_bytes).
Bf16Keys convert_keys(Context& context, const AttentionCall& call, const AttentionPlan& plan,
                      int64_t first_unit, int64_t units);

// How scores become exponents of 2: exponent * score, or exponent * cap * tanh(|scale| score / cap) with
// softcap, the score being that of queries times `query`. A scale that is not positive goes into the queries
// (then `exponent` belongs to scale 1, and -1 * |scale| is all that is left of it), so that the largest score
// has the largest exponent.
struct ScoreFactors {
  float query, exponent;
};
inline ScoreFactors score_factors(float scale, float softcap) {
  if (softcap > 0.0f) return {scale < 0.0f ? -1.0f : 1.0f, kLog2E};
  return scale > 0.0f ? ScoreFactors{1.0f, scale * kLog2E} : ScoreFactors{scale, kLog2E};
}

// x[i] = row[column + i], 0 from `columns` on. `vectors`: the row is aligned to 16 bytes, columns a multiple
// of 4.
__device__ __forceinline__ void load_floats_8(float (&x)[8], const float* row, int column, int columns,
                                              bool vectors) {
  if (vectors) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      float4 part = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
      if (column + i < columns) part = *reinterpret_cast<const float4*>(row + column + i);
      x[i] = part.x;
      x[i + 1] = part.y;
      x[i + 2] = part.z;
      x[i + 3] = part.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = column + i < columns ? row[column + i] : 0.0f;
  }
}

// row[column] = x, row[column + 1] = y where they exist. `pairs`: rows are aligned to 8 bytes, columns even.
__device__ __forceinline__ void store_pair(float* row, int column, int columns, float x, float y,
                                           bool pairs) {
  if (column >= columns) return;
  if (pairs) {
    *reinterpret_cast<float2*>(row + column) = make_float2(x, y);
    return;
  }
  row[column] = x;
  if (column + 1 < columns) row[column + 1] = y;
}

}  // namespace pare::cuda
