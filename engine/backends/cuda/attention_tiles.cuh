// engine/backends/cuda/attention_tiles.cuh: tiles of bf16 rows in shared memory and the products of a warp
// with them.
//
// Rows of D columns lie D + 8 apart: that is an odd number of 16-byte pieces, so the 8 rows of an ldmatrix,
// and the pieces of a copy, fall on different banks for every D that is a multiple of 16.
#pragma once

#include "engine/backends/cuda/attention_plan.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {

template <int D>
constexpr int kTilePitch = D + 8;

// Rows first .. first + Rows - 1 of a matrix with `columns` <= D columns (a multiple of 8) to a tile, by
// asynchronous copies of 16 bytes; rows from `end` on and columns from `columns` on become 0. All of
// `Threads` threads.
template <int D, int Rows, int Threads>
__device__ __forceinline__ void copy_tile(uint16_t* tile, const uint16_t* source, int64_t stride, int columns,
                                          int first, int end) {
  constexpr int kPieces = D / 8;
  if constexpr (Threads % kPieces == 0) {  // a thread keeps its column: one pointer that moves on
    constexpr int kStep = Threads / kPieces;
    const int row = int(threadIdx.x) / kPieces, column = int(threadIdx.x) % kPieces * 8;
    const uint16_t* at = source + int64_t(first + row) * stride + column;
    uint16_t* to = tile + row * kTilePitch<D> + column;
    const int rows = column < columns ? end - first - row : 0;
#pragma unroll
    for (int i = 0; i < Rows; i += kStep) {
      ptx::cp_async_16(to + i * kTilePitch<D>, i < rows ? at : source, i < rows ? 16 : 0);
      at += int64_t(kStep) * stride;
    }
  } else {
#pragma unroll 2
    for (int i = int(threadIdx.x); i < Rows * kPieces; i += Threads) {
      const int row = i / kPieces, column = i % kPieces * 8;
      const bool is_there = first + row < end && column < columns;
      ptx::cp_async_16(tile + row * kTilePitch<D> + column,
                       is_there ? source + int64_t(first + row) * stride + column : source,
                       is_there ? 16 : 0);
    }
  }
}

// Lane l's address for ldmatrix_x4 of a 16 x 16 piece whose fragment is operand a of an mma.
template <int D>
__device__ __forceinline__ const uint16_t* operand_a(const uint16_t* tile, int row, int column) {
  const int lane = int(threadIdx.x) % 32;
  return tile + (row + lane % 16) * kTilePitch<D> + column + lane / 16 * 8;
}
// Of two operands b side by side: rows of the tile are the columns n of b (16 of them), its columns are k
// (16). Registers 0 and 1 are the operand of n 0 .. 7, 2 and 3 that of n 8 .. 15. Without transposition.
template <int D>
__device__ __forceinline__ const uint16_t* operand_b(const uint16_t* tile, int row, int column) {
  const int lane = int(threadIdx.x) % 32;
  return tile + (row + lane % 8 + lane / 16 * 8) * kTilePitch<D> + column + lane / 8 % 2 * 8;
}
// The same where rows of the tile are k and columns are n: with transposition.
template <int D>
__device__ __forceinline__ const uint16_t* operand_b_trans(const uint16_t* tile, int row, int column) {
  return operand_a<D>(tile, row, column);
}

// result[t][n] += a[16 t ..][:] b[8 n ..][:]^T over the D columns of both tiles.
template <int D, int Tiles, int N>
__device__ __forceinline__ void multiply_transposed(float (&result)[Tiles][N][4], const uint16_t* a,
                                                    int a_row, const uint16_t* b) {
#pragma unroll 4
  for (int k = 0; k < D; k += 16) {
    uint32_t left[Tiles][4];
#pragma unroll
    for (int t = 0; t < Tiles; ++t) ptx::ldmatrix_x4(left[t], operand_a<D>(a, a_row + 16 * t, k));
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      uint32_t right[4];
      ptx::ldmatrix_x4(right, operand_b<D>(b, 8 * n, k));
      const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
#pragma unroll
      for (int t = 0; t < Tiles; ++t) {
        ptx::mma_bf16(result[t][n], left[t], first);
        ptx::mma_bf16(result[t][n + 1], left[t], second);
      }
    }
  }
}

// result[t][:] += left[t] b, where left holds operands a of 16 x 16 for each 16 of the rows of b, and b is
// [16 K, D].
template <int D, int Tiles, int K>
__device__ __forceinline__ void multiply(float (&result)[Tiles][D / 8][4],
                                         const uint32_t (&left)[Tiles][K][4], const uint16_t* b) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
#pragma unroll
    for (int n = 0; n < D / 8; n += 2) {
      uint32_t right[4];
      ptx::ldmatrix_x4_trans(right, operand_b_trans<D>(b, 16 * k, 8 * n));
      const uint32_t first[2] = {right[0], right[1]}, second[2] = {right[2], right[3]};
#pragma unroll
      for (int t = 0; t < Tiles; ++t) {
        ptx::mma_bf16(result[t][n], left[t][k], first);
        ptx::mma_bf16(result[t][n + 1], left[t][k], second);
      }
    }
  }
}

// Results of an mma, 16 x 8 N floats, as bf16 operands a of the next one, 16 x 16 each.
template <int N>
__device__ __forceinline__ void as_operand_a(uint32_t (&operand)[N / 2][4], const float (&result)[N][4]) {
#pragma unroll
  for (int k = 0; k < N / 2; ++k) {
    operand[k][0] = pack_bf16(result[2 * k][0], result[2 * k][1]);
    operand[k][1] = pack_bf16(result[2 * k][2], result[2 * k][3]);
    operand[k][2] = pack_bf16(result[2 * k + 1][0], result[2 * k + 1][1]);
    operand[k][3] = pack_bf16(result[2 * k + 1][2], result[2 * k + 1][3]);
  }
}

// tanh with an absolute error of a few 2^-24.
__device__ __forceinline__ float tanh_fast(float x) {
  return 1.0f - __fdividef(2.0f, 1.0f + ptx::exp2_fast(2.8853900817779268f * x));
}

}  // namespace pare::cuda
