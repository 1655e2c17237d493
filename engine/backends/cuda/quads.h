// engine/backends/cuda/quads.h: rows of floats in quads of four neighbours, for kernels that read every
// element once.
//
// Who owns which element depends on the width alone, never on the alignment, so that sums have the same bits
// wherever a matrix lies. Wide: the rows start on 16 bytes, so a quad is one load or store; otherwise it is
// four of four bytes each, which reach the same sectors.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <type_traits>

#include "engine/backends/cuda/context.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {

constexpr int kQuad = 4;

struct Quad {
  float v[kQuad];
};

// Whether all rows of a matrix start on a quad's boundary.
template <typename T>
bool rows_are_wide(const T* first, int64_t stride) {
  return reinterpret_cast<uintptr_t>(first) % (sizeof(T) * kQuad) == 0 && stride % kQuad == 0;
}

// How many elements of the quad at c lie inside of the row.
template <typename Index>
__device__ __forceinline__ int inside_of(Index c, Index columns) {
  return columns - c >= kQuad ? kQuad : columns > c ? int(columns - c) : 0;
}

// Elements c .. c + 3, `fill` beyond the end of the row.
template <bool Wide, typename Index>
__device__ __forceinline__ Quad load_quad(const float* row, Index c, Index columns, float fill = 0.0f) {
  Quad quad;
  const int inside = inside_of(c, columns);
  if (Wide && inside == kQuad) {
    const float4 four = *reinterpret_cast<const float4*>(row + c);
    quad.v[0] = four.x, quad.v[1] = four.y, quad.v[2] = four.z, quad.v[3] = four.w;
    return quad;
  }
#pragma unroll
  for (int j = 0; j < kQuad; ++j) quad.v[j] = j < inside ? row[c + j] : fill;
  return quad;
}
// The same of bf16 or f16: one load of 8 bytes.
template <bool Wide, typename T, typename Index,
          typename = std::enable_if_t<std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>>>
__device__ __forceinline__ Quad load_quad(const T* row, Index c, Index columns) {
  Quad quad;
  const int inside = inside_of(c, columns);
  if (Wide && inside == kQuad) {
    const uint2 bits = *reinterpret_cast<const uint2*>(row + c);
    const T* four = reinterpret_cast<const T*>(&bits);
#pragma unroll
    for (int j = 0; j < kQuad; ++j) quad.v[j] = to_float(four[j]);
    return quad;
  }
#pragma unroll
  for (int j = 0; j < kQuad; ++j) quad.v[j] = j < inside ? to_float(row[c + j]) : 0.0f;
  return quad;
}

template <bool Wide, typename Index>
__device__ __forceinline__ void store_quad(float* row, Index c, Index columns, const Quad& quad) {
  const int inside = inside_of(c, columns);
  if (Wide && inside == kQuad) {
    *reinterpret_cast<float4*>(row + c) = make_float4(quad.v[0], quad.v[1], quad.v[2], quad.v[3]);
    return;
  }
#pragma unroll
  for (int j = 0; j < kQuad; ++j) {
    if (j < inside) row[c + j] = quad.v[j];
  }
}

// Rows that are reduced. Lanes threads share a row: 16 or 32, several rows to a block, or one whole block.
// Each keeps Quads quads in registers, so that memory is read once; 0: the row is wider than that, and every
// pass reads it again (mostly from L2).
constexpr int kRowThreads = 256;
template <int Lanes>
constexpr int kThreadsOf = Lanes <= kWarp ? kRowThreads : Lanes;
template <int Lanes>
constexpr int kRowsOf = Lanes <= kWarp ? kRowThreads / Lanes : 1;

template <int Quads>
using RowIndex = std::conditional_t<Quads == 0, int64_t, int>;

template <int Lanes, int Quads, bool Wide>
class Row {
 public:
  using Index = RowIndex<Quads>;
  // A row that does not exist has no columns.
  __device__ Row(const float* row, int64_t columns, float fill = 0.0f)
      : row_(row), columns_(Index(columns)), fill_(fill) {
    if constexpr (Quads > 0) {
#pragma unroll
      for (int i = 0; i < Quads; ++i) kept_[i] = load_quad<Wide>(row_, place(i), columns_, fill_);
    }
  }
  static __device__ Index place(int i) {
    return Index(i * Lanes + int(threadIdx.x) % Lanes) * kQuad;
  }

  // visit(c, quad) for the quads of this thread; what it writes into the quad stays where the row is kept.
  template <typename Visit>
  __device__ __forceinline__ void each(Visit visit) {
    if constexpr (Quads > 0) {
#pragma unroll
      for (int i = 0; i < Quads; ++i) visit(place(i), kept_[i]);
    } else {
      for (Index c = place(0); c < columns_; c += Lanes * kQuad) {
        Quad quad = load_quad<Wide>(row_, c, columns_, fill_);
        visit(c, quad);
      }
    }
  }
  // visit(c, quad, quad of the other row) for two rows of the same columns.
  template <typename Visit>
  __device__ __forceinline__ void each_with(const Row& other, Visit visit) {
    if constexpr (Quads > 0) {
#pragma unroll
      for (int i = 0; i < Quads; ++i) visit(place(i), kept_[i], other.kept_[i]);
    } else {
      each([&](Index c, const Quad& quad) {
        visit(c, quad, load_quad<Wide>(other.row_, c, other.columns_, other.fill_));
      });
    }
  }

 private:
  const float* row_;
  Index columns_;
  float fill_;
  Quad kept_[size_t{Quads > 0 ? Quads : 1}];
};

// Sum or maximum over the Lanes threads of a row; every thread of the block takes part.
template <int Lanes, typename T>
__device__ __forceinline__ T row_sum(T value) {
  if constexpr (Lanes > kWarp) {
    return block_sum(value);
  } else {
#pragma unroll
    for (int offset = Lanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
    return value;
  }
}
template <int Lanes>
__device__ __forceinline__ float row_max(float value, float lowest) {
  if constexpr (Lanes > kWarp) {
    return block_max(value, lowest);
  } else {
#pragma unroll
    for (int offset = Lanes / 2; offset > 0; offset /= 2) {
      const float other = __shfl_xor_sync(kAllLanes, value, offset);
      value = value < other ? other : value;
    }
    return value;
  }
}

// Calls run<Lanes, Quads>() for a width. Heads of 64 channels take half a warp, up to 1024 a warp (no
// barrier); at most 32 registers hold the row.
template <typename Run>
void with_row_shape(int64_t columns, Run run) {
  if (columns <= 64) return run.template operator()<16, 1>();
  if (columns <= 128) return run.template operator()<32, 1>();
  if (columns <= 512) return run.template operator()<32, 4>();
  if (columns <= 1024) return run.template operator()<32, 8>();
  if (columns <= 2048) return run.template operator()<256, 2>();
  if (columns <= 4096) return run.template operator()<256, 4>();
  if (columns <= 8192) return run.template operator()<256, 8>();
  if (columns <= 16384) return run.template operator()<512, 8>();
  return run.template operator()<1024, 0>();
}

// Elementwise work on [rows, columns]: 256 threads, one quad each, lanes of them (a power of two) along a
// row. op.run<Wide>(row, c, columns) does the quad at c.
constexpr int kElementThreads = 256;

template <bool Wide, typename Op>
__global__ void __launch_bounds__(kElementThreads)
    elementwise_kernel(Op op, int64_t rows, int64_t columns, int log_lanes) {
  const int lanes = 1 << log_lanes, deep = kElementThreads >> log_lanes;
  const int64_t c = (int64_t(blockIdx.x) * lanes + (int(threadIdx.x) & (lanes - 1))) * kQuad;
  if (c >= columns) return;
  const int64_t step = int64_t(gridDim.y) * deep;
  for (int64_t row = int64_t(blockIdx.y) * deep + (int(threadIdx.x) >> log_lanes); row < rows; row += step)
    op.template run<Wide>(row, c, columns);
}

template <typename Op>
void launch_elementwise(Context& context, const char* name, const Op& op, int64_t rows, int64_t columns,
                        bool is_wide) {
  constexpr int64_t kMostRowsOfBlocks = 65'535;  // of a grid's second dimension
  int log_lanes = 3;
  while (log_lanes < 8 && (int64_t{kQuad} << log_lanes) < columns) ++log_lanes;
  const int64_t deep = kElementThreads >> log_lanes;
  const int64_t high = (rows + deep - 1) / deep;
  const LaunchShape shape{.grid = dim3(blocks_for(columns, int64_t{kQuad} << log_lanes),
                                       unsigned(high < kMostRowsOfBlocks ? high : kMostRowsOfBlocks)),
                          .block = kElementThreads};
  context.launch(name, is_wide ? elementwise_kernel<true, Op> : elementwise_kernel<false, Op>, shape, op,
                 rows, columns, log_lanes);
}

}  // namespace pare::cuda
