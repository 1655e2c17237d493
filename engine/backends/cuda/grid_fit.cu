// Grids of groups, plain rounding to them, columns in another order, and the errors of rows.
#include <algorithm>

#include "engine/backends/cuda/columns_class.h"
#include "engine/backends/cuda/grid_math.h"

namespace pare::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kBlocks = 7;  // 72 registers: left alone, the compiler spills to stay at 56

// A warp per group, which comes out of L1 as the same address for all lanes.
__global__ void __launch_bounds__(kWarps* kWarp, kBlocks) fit_grids_kernel(FitGridsArgs a, int64_t groups) {
  const int64_t index = int64_t(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp;
  if (index >= a.rows * groups) return;
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t row = index / groups, begin = index % groups * a.width;
  const int count = int(a.columns - begin < a.width ? a.columns - begin : a.width);
  const float* values = a.values + row * a.stride + begin;
  const float* importance = a.search.importance != nullptr ? a.search.importance + begin : nullptr;

  float low = values[0], high = values[0];
  for (int i = lane; i < count; i += kWarp) {
    low = fminf(low, values[i]);
    high = fmaxf(high, values[i]);
  }
  low = -warp_max(-low);
  high = warp_max(high);

  const DeviceFit fit = fit_by_warp(
      a.format, a.search, low, high, count, [=](int i) { return values[i]; },
      [=](int i) { return importance != nullptr ? importance[i] : 1.0f; });
  int clipped = 0;
  for (int i = lane; i < count; i += kWarp) clipped += is_clipped(a.format, fit.grid, values[i]) ? 1 : 0;
  clipped = warp_sum(clipped);
  if (lane != 0) return;
  a.grids.scales[index] = fit.grid.scale;
  a.grids.zeros[index] = fit.grid.zero;
  a.grids.minimums[index] = fit.grid.minimum;
  a.grids.faults[index] = uint8_t(fit.fault);
  a.grids.clipped[index] = clipped;
}

constexpr int kThreads = 256;

__global__ void round_to_grids_kernel(RoundToGridsArgs a, int64_t groups, int64_t pieces) {
  const int64_t row = blockIdx.x / pieces;
  const int64_t column = blockIdx.x % pieces * kThreads + threadIdx.x;
  if (column >= a.columns) return;
  const int64_t group = row * groups + column / a.width;
  const DeviceGrid grid{a.grids.scales[group], a.grids.zeros[group], a.grids.minimums[group]};
  const float code =
      code_of(a.values[row * a.stride + column], grid, lowest_code(a.format), float(a.format.code_count - 1));
  a.codes[row * a.columns + column] = uint8_t(code);
  a.restored[row * a.columns + column] = value_of(code, grid);
}

template <typename T>
__global__ void permute_columns_kernel(PermuteColumnsArgs a, int64_t pieces) {
  const int64_t row = blockIdx.x / pieces;
  const int64_t position = blockIdx.x % pieces * kThreads + threadIdx.x;
  if (position >= a.columns) return;
  const int64_t column = a.order[position];
  const T* x = static_cast<const T*>(a.x) + row * a.columns;
  T* out = static_cast<T*>(a.out) + row * a.columns;
  if (a.is_scatter) {
    out[column] = x[position];
  } else {
    out[position] = x[column];
  }
}

// A block per row; doubles, in a tree of fixed shape.
__global__ void row_errors_kernel(RowErrorsArgs a) {
  const int64_t row = blockIdx.x;
  const float* x = a.a + row * a.columns;
  const float* y = a.b + row * a.columns;
  double squared = 0.0, size = 0.0, largest = 0.0;
  for (int64_t c = threadIdx.x; c < a.columns; c += blockDim.x) {
    const double difference = double(x[c]) - double(y[c]);
    squared += difference * difference;
    size += double(x[c]) * double(x[c]);
    largest = fmax(largest, fabs(difference));
  }
  squared = block_sum(squared);
  size = block_sum(size);
  largest = block_max(largest, 0.0);
  if (threadIdx.x != 0) return;
  a.sums[row * 3] = squared;
  a.sums[row * 3 + 1] = size;
  a.sums[row * 3 + 2] = largest;
}

constexpr int kMostBins = 2048;

// Counts of integers, so the order in which threads and blocks add theirs does not matter.
__global__ void count_magnitudes_kernel(CountMagnitudesArgs a) {
  __shared__ uint32_t counts[2 * kMostBins];
  for (int i = int(threadIdx.x); i < 2 * a.bins; i += kThreads) counts[i] = 0;
  __syncthreads();
  const double last = double(a.bins - 1);
  for (int64_t row = blockIdx.x; row < a.rows; row += gridDim.x) {
    const float* x = a.x + row * a.stride;
    for (int64_t c = threadIdx.x; c < a.columns; c += kThreads) {
      const double magnitude = fabs(double(x[c]));
      const double place = a.limit > 0.0     ? __ddiv_rn(__dmul_rn(magnitude, double(a.bins)), a.limit)
                           : magnitude > 0.0 ? double(a.bins)
                                             : 0.0;
      const int bin = place < last ? int(place) : a.bins - 1;  // NaN, of which int() is no bin, too
      atomicAdd(&counts[x[c] < 0.0f ? a.bins + bin : bin], 1u);
    }
  }
  __syncthreads();
  for (int i = int(threadIdx.x); i < 2 * a.bins; i += kThreads)
    if (counts[i] != 0)
      atomicAdd(reinterpret_cast<unsigned long long*>(a.counts) + i,
                static_cast<unsigned long long>(counts[i]));
}

}  // namespace

void CudaColumnSolver::count_magnitudes(const CountMagnitudesArgs& a) {
  PARE_ASSERT(a.bins <= kMostBins, "[cuda] {} bins", a.bins);
  // Few blocks, since each adds all of its counts to the whole; rows of a block stay below 2^32 values.
  const int64_t blocks = std::min<int64_t>(a.rows, 4 * context_.multiprocessors());
  context_.launch("count_magnitudes", count_magnitudes_kernel, {.grid = unsigned(blocks), .block = kThreads},
                  a);
}

void CudaColumnSolver::fit_grids(const FitGridsArgs& a) {
  const int64_t groups = (a.columns + a.width - 1) / a.width;
  context_.launch("fit_grids", fit_grids_kernel,
                  {.grid = blocks_for(a.rows * groups, kWarps), .block = kWarps * kWarp}, a, groups);
}

void CudaColumnSolver::round_to_grids(const RoundToGridsArgs& a) {
  const int64_t groups = (a.columns + a.width - 1) / a.width, pieces = (a.columns + kThreads - 1) / kThreads;
  context_.launch("round_to_grids", round_to_grids_kernel,
                  {.grid = blocks_for(a.rows * pieces, 1), .block = kThreads}, a, groups, pieces);
}

void CudaColumnSolver::permute_columns(const PermuteColumnsArgs& a) {
  const int64_t pieces = (a.columns + kThreads - 1) / kThreads;
  const LaunchShape shape{.grid = blocks_for(a.rows * pieces, 1), .block = kThreads};
  PARE_ASSERT(a.element_bytes == 1 || a.element_bytes == 4, "[cuda] {} bytes per element", a.element_bytes);
  if (a.element_bytes == 1) {
    context_.launch("permute_columns", permute_columns_kernel<uint8_t>, shape, a, pieces);
  } else {
    context_.launch("permute_columns", permute_columns_kernel<uint32_t>, shape, a, pieces);
  }
}

void CudaColumnSolver::row_errors(const RowErrorsArgs& a) {
  context_.launch("row_errors", row_errors_kernel, {.grid = blocks_for(a.rows, 1), .block = kThreads}, a);
}

}  // namespace pare::cuda
