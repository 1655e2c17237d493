// engine/backends/cuda/packed_inputs.cuh: inputs of low-bit products as bf16, in the order of the layout.
#pragma once

#include "engine/backends/cuda/kernel.h"
#include "engine/backends/cuda/packed_matmul.h"

namespace pare::cuda {

// Inputs of columns [place, place + 4) in the order of the layout, as two words of bf16.
__device__ __forceinline__ uint2 load_inputs(const PackedProduct& p, const float* row, int place,
                                             bool is_wide) {
  float v[4];
  if (is_wide && place + 4 <= p.w.in) {
    const float4 all = *reinterpret_cast<const float4*>(row + place);
    v[0] = all.x, v[1] = all.y, v[2] = all.z, v[3] = all.w;
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = p.w.columns_of != nullptr ? p.w.columns_of[place + i] : place + i;
      v[i] = column >= 0 && column < p.w.in ? row[column] : 0.0f;
    }
  }
  return make_uint2(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]));
}
// Whether load_inputs may take 16 bytes at a time.
__device__ __forceinline__ bool inputs_are_wide(const PackedProduct& p) {
  return p.w.columns_of == nullptr && p.x_stride % 4 == 0 && reinterpret_cast<uintptr_t>(p.x) % 16 == 0;
}
// Byte of column `place` (a multiple of 4) in a row of inputs: the 16 values that lane t of a quad needs for
// a block of 64 stand together.
__device__ __forceinline__ int input_byte(int place) {
  return place / kBlockColumns * 128 + place % 16 / 4 * 32 + place % kBlockColumns / 16 * 8;
}

}  // namespace pare::cuda
