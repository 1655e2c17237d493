// engine/backends/cuda/grid_math.h: grids of groups of weights in kernels: the float operations of
// quantize/grid* and quantize/lanes in their order, none of them contracted, so that grids and codes are the
// same bytes.
#pragma once

#include "engine/backends/cuda/kernel.h"
#include "engine/tensor/column_solver.h"

namespace pare::cuda {

struct DeviceGrid {
  float scale = 1.0f, zero = 0.0f, minimum = 0.0f;
};
struct DeviceFit {
  DeviceGrid grid;
  GridFault fault = GridFault::none;
};

// Rounds half to even for |x| < 2^22.
__device__ __forceinline__ float round_half_even(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23
  return __fsub_rn(__fadd_rn(x, kMagic), kMagic);
}

__device__ __forceinline__ float lowest_code(const GridFormat& f) {
  return f.is_symmetric && f.is_narrow ? 1.0f : 0.0f;
}

// The code nearest to `value`, as a float.
__device__ __forceinline__ float code_of(float value, const DeviceGrid& grid, float bottom, float top) {
  float ratio = __fdiv_rn(__fsub_rn(value, grid.minimum), grid.scale);
  ratio = fminf(fmaxf(ratio, -1048576.0f), 1048576.0f);
  return fminf(fmaxf(__fadd_rn(round_half_even(ratio), grid.zero), bottom), top);
}

__device__ __forceinline__ float value_of(float code, const DeviceGrid& grid) {
  return __fadd_rn(grid.minimum, __fmul_rn(grid.scale, __fsub_rn(code, grid.zero)));
}

// u (value - restored)^2 as squared_error() of quantize/grid_error makes it: by the reciprocal of the scale.
__device__ __forceinline__ float weighted_square(float value, float importance, const DeviceGrid& grid,
                                                 float inverse, float bottom, float top) {
  float ratio = __fmul_rn(__fsub_rn(value, grid.minimum), inverse);
  ratio = fminf(fmaxf(ratio, -1048576.0f), 1048576.0f);
  const float code = fminf(fmaxf(__fadd_rn(round_half_even(ratio), grid.zero), bottom), top);
  const float difference = __fsub_rn(value_of(code, grid), value);
  return __fmul_rn(importance, __fmul_rn(difference, difference));
}

namespace detail {

__device__ __forceinline__ float round_to(DType dtype, float value) {
  switch (dtype) {
    case DType::f16:
      return __half2float(__float2half_rn(value));
    case DType::bf16:
      return __bfloat162float(__float2bfloat16_rn(value));
    default:
      return value;
  }
}

struct ScaleRange {
  float smallest, smallest_normal, largest;
};

__device__ __forceinline__ ScaleRange scale_range(DType dtype) {
  constexpr float kSmallestNormal = 1.17549435e-38f;
  if (dtype == DType::f16) return {5.9604645e-08f, 6.103515625e-05f, 65504.0f};
  if (dtype == DType::bf16)
    return {__uint_as_float(0x00010000u), kSmallestNormal, __uint_as_float(0x7f7f0000u)};
  return {__uint_as_float(1u), kSmallestNormal, __uint_as_float(0x7f7fffffu)};
}

__device__ __forceinline__ DeviceFit with_scale(const GridFormat& f, double scale) {
  DeviceFit fit;
  const ScaleRange range = scale_range(f.scale_dtype);
  if (f.is_symmetric) {  // no code may stand for an infinity
    const int top = f.code_count / 2 - (f.is_narrow ? 1 : 0);
    const double slack = f.scale_dtype == DType::f32 ? 0x1p-23 : 0x1p-7;
    const double cap = __dmul_rn(__ddiv_rn(double(__uint_as_float(0x7f7fffffu)), double(top)), 1.0 - slack);
    scale = scale < cap ? scale : cap;
  }
  if (scale < double(range.smallest_normal)) {
    fit.fault = scale < double(range.smallest) ? GridFault::too_small : GridFault::raised;
    fit.grid.scale = range.smallest_normal;
  } else if (scale > double(range.largest)) {
    fit.fault = GridFault::too_large;
    fit.grid.scale = range.largest;
  } else {
    fit.grid.scale = fminf(round_to(f.scale_dtype, float(scale)), range.largest);
  }
  return fit;
}

}  // namespace detail

// The grid that covers [low, high]: fit_range() of quantize/grid for integer schemes.
__device__ __forceinline__ DeviceFit fit_range(const GridFormat& f, float low, float high) {
  constexpr float kSmallestNormal = 1.17549435e-38f;
  const int top = f.code_count - 1;
  DeviceFit fit;
  if (f.has_minimum) {
    const double width = double(high) - double(low);
    if (width > 0.0 && width >= double(kSmallestNormal)) fit = detail::with_scale(f, __ddiv_rn(width, top));
    fit.grid.minimum = detail::round_to(f.scale_dtype, low);
    if (!isfinite(fit.grid.minimum)) {
      fit.fault = GridFault::too_large;
      fit.grid.minimum = copysignf(detail::scale_range(f.scale_dtype).largest, low);
    }
    return fit;
  }
  low = fminf(low, 0.0f);
  high = fmaxf(high, 0.0f);
  const float largest = fmaxf(-low, high);
  const bool is_zero = largest < kSmallestNormal;
  if (f.is_symmetric) {
    const double steps = f.is_narrow ? double(f.code_count / 2 - 1) : double(top) / 2.0;
    if (!is_zero) fit = detail::with_scale(f, __ddiv_rn(double(largest), steps));
    fit.grid.zero = float(f.code_count / 2);
    return fit;
  }
  if (!is_zero) {
    fit = detail::with_scale(f, __ddiv_rn(double(high) - double(low), double(top)));
    const double zero = rint(__ddiv_rn(-double(low), double(fit.grid.scale)));
    fit.grid.zero = float(fmin(fmax(zero, 0.0), double(top)));
  }
  return fit;
}

// The range of attempt `step` of a search, shrunken.
__device__ __forceinline__ DeviceFit fit_shrunken(const GridFormat& f, float low, float high, int step,
                                                  int grid) {
  const float factor = float(1.0 - __ddiv_rn(double(step), double(grid)));
  return fit_range(f, __fmul_rn(factor, low), __fmul_rn(factor, high));
}

// Whether the value lies more than half a step outside of what the codes reach.
__device__ __forceinline__ bool is_clipped(const GridFormat& f, const DeviceGrid& grid, float value) {
  const float half = __fmul_rn(grid.scale, 0.5f);
  const float low = value_of(0.0f, grid), high = value_of(float(f.code_count - 1), grid);
  return value < __fsub_rn(low, half) || value > __fadd_rn(high, half);
}

// A sum as the sixteen partial sums of the host: element i belongs to sum i % 16; the total is their sum in
// order, in double. value_at(i), importance_at(i) for i < count; kIsWhole: count is a multiple of 16, so that
// the loads of sixteen may be wide ones. Elements of importance 0 then change nothing.
template <bool kIsWhole = false, typename Value, typename Importance>
__device__ __forceinline__ double group_error(const GridFormat& f, const DeviceGrid& grid, int count,
                                              Value value_at, Importance importance_at) {
  constexpr int kSums = 16;
  const float bottom = lowest_code(f), top = float(f.code_count - 1), inverse = __fdiv_rn(1.0f, grid.scale);
  float sums[kSums] = {};
  for (int first = 0; first < count; first += kSums) {
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      if (kIsWhole || first + i < count)
        sums[i] = __fadd_rn(sums[i], weighted_square(value_at(first + i), importance_at(first + i), grid,
                                                     inverse, bottom, top));
    }
  }
  double total = 0.0;
#pragma unroll
  for (int i = 0; i < kSums; ++i) total += double(sums[i]);
  return total;
}

// The grid of a group that reaches from low to high, as `search` chooses it: by all lanes of a warp, which
// all get it. Every lane tries its share of the ranges, so that each error is one thread's sum in the order
// of the host; the widest range wins ties.
template <bool kIsWhole = false, typename Value, typename Importance>
__device__ __forceinline__ DeviceFit fit_by_warp(const GridFormat& f, const RangeSearch& search, float low,
                                                 float high, int count, Value value_at,
                                                 Importance importance_at) {
  double best = __longlong_as_double(0x7ff0000000000000ll);
  int chosen = 0;  // also where no error is finite
  for (int step = int(threadIdx.x) % 32; step < search.steps; step += 32) {
    const DeviceGrid grid = fit_shrunken(f, low, high, step, search.grid).grid;
    const double error = group_error<kIsWhole>(f, grid, count, value_at, importance_at);
    if (error < best) {
      best = error;
      chosen = step;
    }
  }
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    const double other = __shfl_xor_sync(kAllLanes, best, offset);
    const int step = __shfl_xor_sync(kAllLanes, chosen, offset);
    if (other < best || (other == best && step < chosen)) {
      best = other;
      chosen = step;
    }
  }
  return chosen == 0 ? fit_range(f, low, high) : fit_shrunken(f, low, high, chosen, search.grid);
}

}  // namespace pare::cuda
