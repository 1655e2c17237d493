// tests/cuda_emulator/cuda_emulator/builtins.h: keywords, vector types and built-in variables of CUDA C++.
#pragma once

#include <cmath>
#include <cstdint>

#include "cuda_emulator/simt.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__  // the standard library spells an attribute with this word
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__ static
#define __shared__ static thread_local
#define __align__(n) alignas(n)

namespace emulator {
// Without constructors: variables of a host thread that cost nothing to reach.
struct Dim3Pod {
  unsigned x, y, z;
};
}  // namespace emulator

using uint3 = emulator::Uint3;
using dim3 = emulator::Dim3;
extern __thread emulator::Uint3 threadIdx, blockIdx;
extern __thread emulator::Dim3Pod blockDim, gridDim;
inline constexpr int warpSize = 32;

#define EMULATOR_VECTOR(T, name)                                                              \
  struct alignas(sizeof(T) * 2) name##2 { T x, y; };                                          \
  struct name##3 { T x, y, z; };                                                              \
  struct alignas(sizeof(T) * 4 > 16 ? 16 : sizeof(T) * 4) name##4 { T x, y, z, w; };          \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; }                                  \
  inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                          \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTOR(float, float)
EMULATOR_VECTOR(double, double)
EMULATOR_VECTOR(int, int)
EMULATOR_VECTOR(short, short)
EMULATOR_VECTOR(unsigned short, ushort)
EMULATOR_VECTOR(signed char, char)
EMULATOR_VECTOR(unsigned char, uchar)
EMULATOR_VECTOR(long long, longlong)
EMULATOR_VECTOR(unsigned long long, ulonglong)
#undef EMULATOR_VECTOR
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
