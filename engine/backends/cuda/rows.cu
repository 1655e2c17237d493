// positions, gather_rows, scatter_rows
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void positions_kernel(PositionsArgs a) {
  const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < a.count) a.out[i] = int32_t(a.first + i % a.period);
}

// One block per row; consecutive threads take consecutive channels.
__global__ void gather_rows_kernel(GatherRowsArgs a) {
  const int64_t i = blockIdx.x;
  const float* x = a.x + a.index[i] / a.divisor * a.x_stride;
  for (int64_t c = threadIdx.x; c < a.channels; c += blockDim.x) a.out[i * a.out_stride + c] = x[c];
}

__global__ void scatter_rows_kernel(ScatterRowsArgs a) {
  const int64_t i = blockIdx.x;
  const int32_t place = a.index[i];
  float* out = a.out + place / a.divisor * a.out_stride;
  const float scale = a.scales[place];
  for (int64_t c = threadIdx.x; c < a.channels; c += blockDim.x) out[c] += scale * a.x[i * a.x_stride + c];
}

}  // namespace

void CudaBackend::positions(const PositionsArgs& a) {
  context_->launch("positions", positions_kernel, {.grid = blocks_for(a.count, kThreads), .block = kThreads},
                   a);
}

void CudaBackend::gather_rows(const GatherRowsArgs& a) {
  context_->launch("gather_rows", gather_rows_kernel, {.grid = blocks_for(a.count, 1), .block = kThreads}, a);
}

void CudaBackend::scatter_rows(const ScatterRowsArgs& a) {
  context_->launch("scatter_rows", scatter_rows_kernel, {.grid = blocks_for(a.count, 1), .block = kThreads},
                   a);
}

}  // namespace pare::cuda
