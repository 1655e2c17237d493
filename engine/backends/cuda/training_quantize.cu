// fake_quantize with its gradient, and the steps of grids; codes are found in float, by the same operations
// as on every other backend (division and rounding are exact, nothing is contracted).
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 4;  // elements, kThreads apart: as many loads under way

__device__ __forceinline__ float clamped(float x, float low, float high) {  // NaN stays
  return x < low ? low : (x > high ? high : x);
}

// Which group an element is in; divisions of 32 bits where they suffice.
struct GroupIndex {
  int64_t columns, group_width, groups;
  __device__ __forceinline__ int64_t of(int64_t i) const {
    if (i <= 0xffffffff && columns <= 0xffffffff) {
      const uint32_t row = uint32_t(i) / uint32_t(columns), column = uint32_t(i) - row * uint32_t(columns);
      const uint32_t width = group_width < columns ? uint32_t(group_width) : uint32_t(columns);
      return int64_t(row) * groups + int64_t(column / width);
    }
    const int64_t row = i / columns;
    return row * groups + (i - row * columns) / group_width;
  }
};

// out = s * (clamp(rint(w / s) + zero, low, high) - zero)
__global__ void __launch_bounds__(kThreads) fake_quantize_kernel(FakeQuantizeArgs a, GroupIndex index) {
  const int64_t count = a.rows * a.columns;
  const int64_t begin = int64_t(blockIdx.x) * kThreads * kPerThread + threadIdx.x;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int64_t i = begin + j * kThreads;
    if (i >= count) return;
    const int64_t group = index.of(i);
    const float scale = a.scales[group], zero = a.zeros != nullptr ? a.zeros[group] : 0.0f;
    const float code = clamped(rintf(a.weight[i] / scale) + zero, a.low, a.high);
    a.out[i] = scale * (code - zero);
  }
}

// dweight = dout where low <= rint(w / s) + zero <= high, else 0
// dscales += step_gradient * sum dout * (inside: rint(w / s) - w / s; below: low - zero; above: high - zero)
// One warp per group; sums in double, lane by lane, then in a tree.
__global__ void __launch_bounds__(kThreads)
    fake_quantize_backward_kernel(FakeQuantizeBackwardArgs a, int64_t groups) {
  const int64_t group = int64_t(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (group >= a.rows * groups) return;  // the whole warp
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t row = group / groups, begin = (group - row * groups) * a.group_width;
  const int64_t end = begin + a.group_width < a.columns ? begin + a.group_width : a.columns;
  const float scale = a.scales[group], zero = a.zeros != nullptr ? a.zeros[group] : 0.0f;
  double sum = 0.0;
  for (int64_t column = begin + lane; column < end; column += kWarp) {
    const int64_t i = row * a.columns + column;
    const float quotient = a.weight[i] / scale, nearest = rintf(quotient), code = nearest + zero;
    const float dout = a.dout[i];
    const bool is_below = code<a.low, is_above = code> a.high;
    const float slope = is_below ? a.low - zero : (is_above ? a.high - zero : nearest - quotient);
    sum += double(dout) * double(slope);
    a.dweight[i] = is_below || is_above ? 0.0f : dout;
  }
  if (a.dscales == nullptr) return;
  sum = warp_sum(sum);
  if (lane == 0) a.dscales[group] = float(double(a.dscales[group]) + double(a.step_gradient) * sum);
}

__device__ __forceinline__ float rounded(DType dtype, float x) {
  if (dtype == DType::f16) return __half2float(__float2half_rn(x));
  if (dtype == DType::bf16) return __bfloat162float(__float2bfloat16_rn(x));
  return x;
}

__global__ void __launch_bounds__(kThreads) bound_steps_kernel(BoundStepsArgs a) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t count = a.count == 1 ? a.scale_count : a.count;
  if (i >= count) return;
  // With one step every thread bounds it again: that gives the same number however often it is done.
  const float step = a.steps[a.count == 1 ? 0 : i];
  const float bounded = isfinite(step) ? clamped(step, a.least, a.most) : nanf("");
  a.scales[i] = isfinite(bounded) ? rounded(a.dtype, bounded) : bounded;
  if (i < a.count) a.steps[i] = bounded;
}

}  // namespace

void CudaTraining::fake_quantize(const FakeQuantizeArgs& a) {
  const GroupIndex index{a.columns, a.group_width, (a.columns + a.group_width - 1) / a.group_width};
  context_.launch("fake_quantize", fake_quantize_kernel,
                  {.grid = blocks_for(a.rows * a.columns, kThreads * kPerThread), .block = kThreads}, a,
                  index);
}

void CudaTraining::fake_quantize_backward(const FakeQuantizeBackwardArgs& a) {
  const int64_t groups = (a.columns + a.group_width - 1) / a.group_width;
  context_.launch("fake_quantize_backward", fake_quantize_backward_kernel,
                  {.grid = blocks_for(a.rows * groups, kThreads / kWarp), .block = kThreads}, a, groups);
}

void CudaTraining::bound_steps(const BoundStepsArgs& a) {
  context_.launch("bound_steps", bound_steps_kernel,
                  {.grid = blocks_for(a.count == 1 ? a.scale_count : a.count, kThreads), .block = kThreads},
                  a);
}

}  // namespace pare::cuda
