// column_sums, scale and round: small operations between those of other files.
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kPerThread = 4;  // elements, kThreads apart
constexpr int kRowParts = kThreads / kWarp;

// sums[c] += sum_r x[r, c]: a block has 32 columns, each warp every eighth row; then the warps in order.
__global__ void __launch_bounds__(kThreads) column_sums_kernel(ColumnSumsArgs a) {
  __shared__ float parts[kRowParts][kWarp];
  const int lane = int(threadIdx.x) % kWarp, part = int(threadIdx.x) / kWarp;
  const int64_t column = int64_t(blockIdx.x) * kWarp + lane;
  float sum = 0.0f;
  if (column < a.columns) {
#pragma unroll 4
    for (int64_t row = part; row < a.rows; row += kRowParts) sum += a.x[row * a.stride + column];
  }
  parts[part][lane] = sum;
  __syncthreads();
  if (part != 0 || column >= a.columns) return;
  for (int p = 1; p < kRowParts; ++p) sum += parts[p][lane];
  a.sums[column] += sum;
}

__global__ void __launch_bounds__(kThreads) scale_kernel(ScaleArgs a) {
  const int64_t begin = int64_t(blockIdx.x) * kThreads * kPerThread + threadIdx.x;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int64_t i = begin + j * kThreads;
    if (i < a.count) a.out[i] = a.factor * a.x[i];
  }
}

template <typename Half, typename Convert>
__device__ __forceinline__ void round_each(const RoundArgs& a, Convert convert) {
  Half* out = static_cast<Half*>(a.out);
  const int64_t begin = int64_t(blockIdx.x) * kThreads * kPerThread + threadIdx.x;
#pragma unroll
  for (int j = 0; j < kPerThread; ++j) {
    const int64_t i = begin + j * kThreads;
    if (i < a.count) out[i] = convert(a.x[i]);
  }
}

__global__ void __launch_bounds__(kThreads) round_bf16_kernel(RoundArgs a) {
  round_each<__nv_bfloat16>(a, [](float x) { return __float2bfloat16_rn(x); });
}
__global__ void __launch_bounds__(kThreads) round_f16_kernel(RoundArgs a) {
  round_each<__half>(a, [](float x) { return __float2half_rn(x); });
}

}  // namespace

void CudaTraining::column_sums(const ColumnSumsArgs& a) {
  context_.launch("column_sums", column_sums_kernel,
                  {.grid = blocks_for(a.columns, kWarp), .block = kThreads}, a);
}

void CudaTraining::scale(const ScaleArgs& a) {
  context_.launch("scale", scale_kernel,
                  {.grid = blocks_for(a.count, kThreads * kPerThread), .block = kThreads}, a);
}

void CudaTraining::round(const RoundArgs& a) {
  context_.launch("round", a.dtype == DType::bf16 ? round_bf16_kernel : round_f16_kernel,
                  {.grid = blocks_for(a.count, kThreads * kPerThread), .block = kThreads}, a);
}

}  // namespace pare::cuda
