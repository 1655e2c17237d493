// tests/cuda_emulator/cuda_bf16.h: bf16 as CUDA C++ knows it.
#pragma once

#include <cstdint>

#include "cuda_runtime.h"
#include "engine/tensor/float_formats.h"

struct __nv_bfloat16 {
  uint16_t x = 0;
  __nv_bfloat16() = default;
  __nv_bfloat16(float value) : x(pare::float_to_bf16(value)) {}  // NOLINT: implicit as in CUDA
  operator float() const { return pare::bf16_to_float(x); }      // NOLINT
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
using __nv_bfloat16_raw = uint16_t;
using nv_bfloat16 = __nv_bfloat16;
using nv_bfloat162 = __nv_bfloat162;

inline __nv_bfloat16 __float2bfloat16(float value) { return __nv_bfloat16(value); }
inline __nv_bfloat16 __float2bfloat16_rn(float value) { return __nv_bfloat16(value); }
inline float __bfloat162float(__nv_bfloat16 value) { return float(value); }
inline __nv_bfloat162 __floats2bfloat162_rn(float low, float high) { return {low, high}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {v.x, v.y}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {float(v.x), float(v.y)}; }
inline float __low2float(__nv_bfloat162 v) { return float(v.x); }
inline float __high2float(__nv_bfloat162 v) { return float(v.y); }
inline __nv_bfloat162 __halves2bfloat162(__nv_bfloat16 low, __nv_bfloat16 high) { return {low, high}; }
inline __nv_bfloat162 __bfloat162bfloat162(__nv_bfloat16 v) { return {v, v}; }
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 v) { return v.x; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits) {
  __nv_bfloat16 v;
  v.x = bits;
  return v;
}
// one rounding, as the instructions have
inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c) {
  return {float(double(float(a.x)) * double(float(b.x)) + double(float(c.x))),
          float(double(float(a.y)) * double(float(b.y)) + double(float(c.y)))};
}
inline __nv_bfloat162 __hmul2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return {float(a.x) * float(b.x), float(a.y) * float(b.y)};
}
inline __nv_bfloat162 __hadd2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return {float(a.x) + float(b.x), float(a.y) + float(b.y)};
}
inline __nv_bfloat162 __hsub2(__nv_bfloat162 a, __nv_bfloat162 b) {
  return {float(a.x) - float(b.x), float(a.y) - float(b.y)};
}
