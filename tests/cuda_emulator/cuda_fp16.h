// tests/cuda_emulator/cuda_fp16.h: half precision as CUDA C++ knows it.
#pragma once

#include <cstdint>

#include "cuda_runtime.h"
#include "engine/tensor/float_formats.h"

struct __half {
  uint16_t x = 0;
  __half() = default;
  __half(float value) : x(pare::float_to_f16(value)) {}  // NOLINT: implicit as in CUDA
  operator float() const { return pare::f16_to_float(x); }  // NOLINT
};
struct alignas(4) __half2 {
  __half x, y;
};
using half = __half;
using half2 = __half2;

inline __half __float2half(float value) { return __half(value); }
inline __half __float2half_rn(float value) { return __half(value); }
inline float __half2float(__half value) { return float(value); }
inline __half2 __floats2half2_rn(float low, float high) { return {low, high}; }
inline __half2 __float22half2_rn(float2 v) { return {v.x, v.y}; }
inline __half2 __float2half2_rn(float v) { return {v, v}; }
inline float2 __half22float2(__half2 v) { return {float(v.x), float(v.y)}; }
inline float __low2float(__half2 v) { return float(v.x); }
inline float __high2float(__half2 v) { return float(v.y); }
inline __half2 __halves2half2(__half low, __half high) { return {low, high}; }
inline __half2 __half2half2(__half v) { return {v, v}; }
inline unsigned short __half_as_ushort(__half v) { return v.x; }
inline __half __ushort_as_half(unsigned short bits) {
  __half v;
  v.x = bits;
  return v;
}
// one rounding, as the instructions have
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return {float(double(float(a.x)) * double(float(b.x)) + double(float(c.x))),
          float(double(float(a.y)) * double(float(b.y)) + double(float(c.y)))};
}
inline __half2 __hmul2(__half2 a, __half2 b) { return {float(a.x) * float(b.x), float(a.y) * float(b.y)}; }
inline __half2 __hadd2(__half2 a, __half2 b) { return {float(a.x) + float(b.x), float(a.y) + float(b.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) { return {float(a.x) - float(b.x), float(a.y) - float(b.y)}; }
