// engine/backends/cuda/quantized_decode.h: a QuantizedTensor in device memory, four weights at a time: the
// definition of quantized_tensor.h for kernels that are not in a hurry. Bit for bit what dequantize() gives.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "engine/backends/cuda/kernel.h"
#include "engine/tensor/quantized_tensor.h"

namespace pare::cuda {

static __device__ const float kNf4OnDevice[16] = {
    kNf4Codebook[0],  kNf4Codebook[1],  kNf4Codebook[2],  kNf4Codebook[3], kNf4Codebook[4],  kNf4Codebook[5],
    kNf4Codebook[6],  kNf4Codebook[7],  kNf4Codebook[8],  kNf4Codebook[9], kNf4Codebook[10], kNf4Codebook[11],
    kNf4Codebook[12], kNf4Codebook[13], kNf4Codebook[14], kNf4Codebook[15]};

// Element of an f32, bf16 or f16 array as float.
__device__ __forceinline__ float load_as_float(const void* array, DType dtype, int64_t index) {
  if (dtype == DType::f16) return __half2float(static_cast<const __half*>(array)[index]);
  if (dtype == DType::bf16) return __bfloat162float(static_cast<const __nv_bfloat16*>(array)[index]);
  return static_cast<const float*>(array)[index];
}

// f16 and the float8 formats share their exponent's base: e5m2 is the upper byte of f16, e4m3 (without
// infinities, 0x7f is NaN) has a quarter of its exponents and is exact in f16 after a shift by one.
__device__ __forceinline__ float f8_e5m2_value(uint32_t code) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(code << 8)));
}
__device__ __forceinline__ float f8_e4m3_value(uint32_t code) {
  const uint32_t magnitude = code & 0x7fu;
  if (magnitude == 0x7fu) return __uint_as_float(0x7fc00000u | ((code & 0x80u) << 24));
  const auto half = static_cast<unsigned short>(((code & 0x80u) << 8) | (magnitude << 7));
  return __half2float(__ushort_as_half(half)) * 256.0f;  // biases 15 and 7
}

// What a kernel needs of a QuantizedTensor; pointers into the device's memory.
struct QuantizedView {
  const uint8_t* codes;        // [out, row_bytes]
  const void* scales;          // [out, groups] of scale_dtype, or one
  const uint8_t* zero_points;  // or null
  const void* minimums;        // or null
  const int32_t* group_index;  // [in] or null
  const float* codebook;       // [2^bits] or null: nf4
  int64_t out, in, row_bytes, groups;
  int group_width, bits;
  QuantScheme::Kind kind;
  DType scale_dtype, float_type;
  bool has_one_scale;
  float centre;  // what is subtracted from symmetric integer codes

  static QuantizedView of(const QuantizedTensor& tensor) {
    const QuantScheme& scheme = tensor.scheme;
    const int64_t in = tensor.in();
    const bool is_centred = scheme.kind == QuantScheme::Kind::integer && scheme.is_symmetric();
    return {.codes = tensor.codes.data<uint8_t>(),
            .scales = tensor.scales.raw(),
            .zero_points = tensor.zero_points.defined() ? tensor.zero_points.data<uint8_t>() : nullptr,
            .minimums = tensor.minimums.defined() ? tensor.minimums.raw() : nullptr,
            .group_index = tensor.group_index.defined() ? tensor.group_index.data<int32_t>() : nullptr,
            .codebook = tensor.codebook.defined() ? tensor.codebook.data<float>() : nullptr,
            .out = tensor.out(),
            .in = in,
            .row_bytes = scheme.row_bytes(in),
            .groups = scheme.groups(in),
            .group_width = int(scheme.group_width(in)),
            .bits = scheme.bits,
            .kind = scheme.kind,
            .scale_dtype = scheme.scale_dtype,
            .float_type = scheme.float_type,
            .has_one_scale = scheme.granularity == QuantScheme::Granularity::tensor,
            .centre = is_centred ? float(scheme.symmetric_zero_point()) : 0.0f};
  }

  // The next `count` codes, up to four, from a column that four divides; the first in the low bits, `bits`
  // each. Reads no byte beyond theirs.
  __device__ __forceinline__ uint64_t codes_at(int64_t row, int64_t column, int count) const {
    const int64_t first = column * bits;  // four divides it
    const uint8_t* packed = codes + row * row_bytes + (first >> 3);
    const int shift = int(first & 7), bytes = (shift + count * bits + 7) >> 3;
    uint64_t window = 0;
#pragma unroll
    for (int b = 0; b < 5; ++b) {
      if (b < bytes) window |= uint64_t(packed[b]) << (8 * b);
    }
    return window >> shift;
  }
  // The real number of a code before scale and offset.
  __device__ __forceinline__ float value_of(uint32_t code) const {
    if (kind == QuantScheme::Kind::integer) return float(int(code)) - centre;
    if (kind == QuantScheme::Kind::codebook) return codebook != nullptr ? codebook[code] : kNf4OnDevice[code];
    return float_type == DType::f8_e4m3 ? f8_e4m3_value(code) : f8_e5m2_value(code);
  }
  // Place of the scale of a weight.
  __device__ __forceinline__ int64_t grid_at(int64_t row, int64_t column) const {
    if (has_one_scale) return 0;
    const int group = group_index != nullptr ? group_index[column] : int(column) / group_width;
    return row * groups + group;
  }
  // weights[j] of columns column + j, j < count <= 4, where four divides column; the others stay.
  __device__ __forceinline__ void weights_at(int64_t row, int64_t column, int count,
                                             float (&weights)[4]) const {
    uint64_t window = codes_at(row, column, count);
    const uint32_t mask = (1u << bits) - 1u;
    int64_t grid = -1;
    float scale = 0.0f, zero = 0.0f, minimum = 0.0f;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (j >= count) continue;
      const int64_t place = grid_at(row, column + j);
      if (place != grid) {
        grid = place;
        scale = load_as_float(scales, scale_dtype, grid);
        if (zero_points != nullptr) zero = float(int(zero_points[grid]));
        if (minimums != nullptr) minimum = load_as_float(minimums, scale_dtype, grid);
      }
      const float value = value_of(uint32_t(window) & mask);
      window >>= bits;
      // never contracted into one rounding: the definition has two
      weights[j] =
          minimums != nullptr ? __fadd_rn(minimum, __fmul_rn(scale, value)) : __fmul_rn(scale, value - zero);
    }
  }
};

}  // namespace pare::cuda
