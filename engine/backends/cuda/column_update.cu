// update_rest, output_energy: float products around a sweep, in IEEE floats whatever the math mode, since
// errors that are carried on must not be rounded to bf16.
//
// Tiles of 128 x 128 of the result, 256 threads with 8 x 8 sums each: per step of 16 a thread reads 16 floats
// of shared memory for 64 multiply-adds. The next step's operands wait in registers while this one computes.
#include "engine/backends/cuda/columns_class.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

constexpr int kTile = 128;
constexpr int kDepth = 16;
constexpr int kThreads = 256;
constexpr int kPitch = kTile + 4;
constexpr int kLoads = kTile * kDepth / kThreads;  // of a thread, per operand and step

struct alignas(16) Operands {
  float a[kDepth][kPitch];  // [k, row]
  float b[kDepth][kPitch];  // [k, column]
};

// sums[i][j] += sum over k in [first, last) of a_at(row i, k) b_at(k, column j), k in order. a_at and b_at
// give zero outside of their matrices.
template <typename A, typename B>
__device__ __forceinline__ void add_product(float (&sums)[8][8], int64_t first, int64_t last, A a_at, B b_at,
                                            Operands& shared) {
  const int thread = int(threadIdx.x);
  const int row = thread / 16 * 4, column = thread % 16 * 4;
  float next_a[kLoads], next_b[kLoads];
  const auto fetch = [&](int64_t k) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int64_t ka = k + thread % kDepth, kb = k + thread / kTile + i * (kThreads / kTile);
      next_a[i] = ka < last ? a_at(thread / kDepth + i * (kThreads / kDepth), ka) : 0.0f;
      next_b[i] = kb < last ? b_at(kb, thread % kTile) : 0.0f;
    }
  };
  fetch(first);
  for (int64_t k = first; k < last; k += kDepth) {
    __syncthreads();  // the step before has read its operands
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      shared.a[thread % kDepth][thread / kDepth + i * (kThreads / kDepth)] = next_a[i];
      shared.b[thread / kTile + i * (kThreads / kTile)][thread % kTile] = next_b[i];
    }
    __syncthreads();
    if (k + kDepth < last) fetch(k + kDepth);
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const float4 a0 = *reinterpret_cast<const float4*>(&shared.a[d][row]);
      const float4 a1 = *reinterpret_cast<const float4*>(&shared.a[d][row + kTile / 2]);
      const float4 b0 = *reinterpret_cast<const float4*>(&shared.b[d][column]);
      const float4 b1 = *reinterpret_cast<const float4*>(&shared.b[d][column + kTile / 2]);
      const float x[8] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
      const float y[8] = {b0.x, b0.y, b0.z, b0.w, b1.x, b1.y, b1.z, b1.w};
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[i][j] = fmaf(x[i], y[j], sums[i][j]);
    }
  }
}

// Row or column of the tile that sum i of a thread belongs to, `base` being its first.
__device__ __forceinline__ int place_of(int base, int i) {
  return base + i % 4 + i / 4 * (kTile / 2);
}

__global__ void __launch_bounds__(kThreads) update_rest_kernel(UpdateRestArgs a, int64_t column_tiles) {
  __shared__ Operands shared;
  const int64_t first_row = blockIdx.x / column_tiles * kTile;
  const int64_t first_column = a.end + blockIdx.x % column_tiles * kTile;
  float sums[8][8] = {};
  add_product(
      sums, 0, a.end - a.begin,
      [=](int row, int64_t k) {
        return first_row + row < a.rows ? a.errors[(first_row + row) * kSweepColumns + k] : 0.0f;
      },
      [=](int64_t k, int column) {
        return first_column + column < a.columns ? a.upper[(a.begin + k) * a.columns + first_column + column]
                                                 : 0.0f;
      },
      shared);
  const int row = int(threadIdx.x) / 16 * 4, column = int(threadIdx.x) % 16 * 4;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int64_t r = first_row + place_of(row, i);
    if (r >= a.rows) continue;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int64_t c = first_column + place_of(column, j);
      if (c < a.columns) a.work[r * a.columns + c] += sums[i][j];
    }
  }
}

// partial[row, tile] = 2 sum over rows k of H below the tile of d_k H_kj d_j, plus the tile on the diagonal
// once: H is symmetric, so half of the product suffices.
__global__ void __launch_bounds__(kThreads)
    output_energy_kernel(OutputEnergyArgs a, double* partial, int64_t column_tiles) {
  __shared__ Operands shared;
  const int64_t first_row = blockIdx.x / column_tiles * kTile, tile = blockIdx.x % column_tiles;
  const int64_t first_column = tile * kTile;
  const int64_t end = first_column + kTile < a.columns ? first_column + kTile : a.columns;
  const auto d_at = [=](int64_t row, int64_t k) {
    const int64_t index = row * a.columns + k;
    return a.b != nullptr ? a.a[index] - a.b[index] : a.a[index];
  };
  const auto left = [=](int row, int64_t k) {
    return first_row + row < a.rows ? d_at(first_row + row, k) : 0.0f;
  };
  const auto right = [=](int64_t k, int column) {
    return first_column + column < end ? a.moment[k * a.columns + first_column + column] : 0.0f;
  };
  float sums[8][8] = {};
  if (end < a.columns) {
    add_product(sums, end, a.columns, left, right, shared);
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j) sums[i][j] *= 2.0f;
  }
  add_product(sums, first_column, end, left, right, shared);
  const int row = int(threadIdx.x) / 16 * 4, column = int(threadIdx.x) % 16 * 4;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int64_t r = first_row + place_of(row, i);
    double sum = 0.0;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int64_t c = first_column + place_of(column, j);
      if (r < a.rows && c < end) sum += double(sums[i][j]) * double(d_at(r, c));
    }
    // The sixteen threads of these rows stand side by side.
#pragma unroll
    for (int offset = 8; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAllLanes, sum, offset);
    if (threadIdx.x % 16 == 0 && r < a.rows) partial[r * column_tiles + tile] = sum;
  }
}

__global__ void sum_tiles_kernel(const double* partial, double* sums, int64_t rows, int64_t tiles) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= rows) return;
  double sum = 0.0;
  for (int64_t tile = 0; tile < tiles; ++tile) sum += partial[row * tiles + tile];
  sums[row] = sum;
}

int64_t tiles_of(int64_t size) {
  return (size + kTile - 1) / kTile;
}

}  // namespace

void CudaColumnSolver::update_rest(const UpdateRestArgs& a) {
  if (a.end >= a.columns) return;
  const int64_t tiles = tiles_of(a.columns - a.end);
  context_.launch("update_rest", update_rest_kernel,
                  {.grid = blocks_for(tiles_of(a.rows) * tiles, 1), .block = kThreads}, a, tiles);
}

size_t CudaColumnSolver::output_energy_workspace_bytes(int64_t rows, int64_t columns) const {
  return size_t(rows * tiles_of(columns)) * sizeof(double);
}

void CudaColumnSolver::output_energy(const OutputEnergyArgs& a) {
  const int64_t tiles = tiles_of(a.columns);
  double* partial = static_cast<double*>(a.workspace);
  context_.launch("output_energy", output_energy_kernel,
                  {.grid = blocks_for(tiles_of(a.rows) * tiles, 1), .block = kThreads}, a, partial, tiles);
  context_.launch("output_energy sum", sum_tiles_kernel,
                  {.grid = blocks_for(a.rows, kThreads), .block = kThreads},
                  static_cast<const double*>(partial), a.sums, a.rows, tiles);
}

}  // namespace pare::cuda
