// engine/backends/cuda/int8_kernels.h: what the kernels of int8_matmul.h share. Internal to them.
#pragma once

#include "engine/backends/cuda/int8_matmul.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {

// A product as kernels see it; shapes as in int8_layout.h.
struct Int8Problem {
  Int8Rows x;
  const uint8_t* codes;
  const float* scales;
  const int32_t* zeros;  // null: no offsets
  const int32_t* sums;
  const float* bias;
  float* out;
  int64_t m, n, out_stride, row_bytes;
  bool is_nibbles, accumulate;
  Int8Segments segments;
};

void launch_int8_vector(Context& context, const Int8Problem& p);
void launch_int8_mma(Context& context, const Int8Problem& p);

// Steps of segment s: [begin, end). The last segment ends with the row, whose last step may be a filling.
struct Int8Steps {
  int64_t begin, end;
};
__device__ __forceinline__ Int8Steps steps_of(const Int8Segments& g, int64_t s) {
  const int64_t group = s / g.per_group, first = group * g.group_steps;
  const int64_t widest = g.widest / kInt8Step;
  const int64_t begin = first + s % g.per_group * widest;
  int64_t end = first + g.group_steps;
  if (end > begin + widest) end = begin + widest;
  if (s + 1 == g.count || end > g.steps) end = g.steps;
  return {begin, end};
}

// (scale_x * scale_w) * float(acc), acc = sum of (q - y) (c - z) from the plain product of codes. Words wrap:
// the sum itself fits by the choice of segments. Every operation rounds by itself; fused ones would give
// other bits.
__device__ __forceinline__ float int8_term(const Int8Problem& p, const RoundedRow& row, int64_t token,
                                           int64_t segment, int64_t n, int32_t dot) {
  auto sum = uint32_t(dot);
  const int64_t at = segment * p.n + n;
  if (p.zeros != nullptr) {
    sum -= uint32_t(p.zeros[at]) * uint32_t(p.x.sums[token * p.segments.count + segment]);
    sum -= uint32_t(row.zero_point) * uint32_t(p.sums[at]);
  }
  return __fmul_rn(__fmul_rn(row.scale, p.scales[at]), __int2float_rn(int32_t(sum)));
}

__device__ __forceinline__ void int8_store(const Int8Problem& p, int64_t token, int64_t n, float total) {
  if (p.bias != nullptr) total = __fadd_rn(total, p.bias[n]);
  float& out = p.out[token * p.out_stride + n];
  out = p.accumulate ? __fadd_rn(out, total) : total;
}

}  // namespace pare::cuda
