// engine/backends/cuda/decode_rows.h: the inputs of a fused product, normalised and rounded into shared
// memory by the whole block. Every block does this for itself from L2: a row is some KiB, a kernel of its own
// would cost more than that.
//
// A row stands in blocks of 64 columns of 16 bits, 128 bytes each. Within a block lane t = 0 .. 3 of a
// quarter warp owns 32 bytes: four columns of each of the four steps of mma.m16n8k16, in the order of the
// weight's fragments. Rows are 16 bytes apart beyond their length: two rows by four lanes then read 128 bytes
// from all banks.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "engine/backends/cuda/context.h"
#include "engine/backends/cuda/kernel.h"
#include "engine/tensor/decode_backend.h"

namespace pare::cuda {

constexpr int kStageThreads = 256, kStageWarps = kStageThreads / kWarp;
constexpr int kStageBlock = 64;  // columns

struct StagedRows {
  const float* x;
  int64_t stride;
  int rows, in;
  int blocks;                // of 64 columns, the last one filled up with zeros
  const int32_t* column_of;  // input at each column of the layout, -1: none; null: as they are
  bool is_wide;              // rows start on 16 bytes
  DecodeNorm norm;
};

inline size_t staged_row_bytes(int64_t blocks) {
  return size_t(blocks) * kStageBlock * 2 + 16;
}
// The rows, and 128 bytes of zeros for the rows of a tile that do not exist.
inline size_t staged_bytes(int64_t rows, int64_t blocks) {
  return size_t(rows) * staged_row_bytes(blocks) + 128;
}

__device__ __forceinline__ float4 four_inputs(const StagedRows& a, int row, int column) {
  const float* x = a.x + int64_t(row) * a.stride + column;
  if (a.is_wide && column + 4 <= a.in) return *reinterpret_cast<const float4*>(x);
  return make_float4(column < a.in ? x[0] : 0.0f, column + 1 < a.in ? x[1] : 0.0f,
                     column + 2 < a.in ? x[2] : 0.0f, column + 3 < a.in ? x[3] : 0.0f);
}

// Sum over all columns of f(x) for every row into sums[row]; warps share rows where there are fewer than
// warps.
template <typename F>
__device__ __forceinline__ void row_sums(const StagedRows& a, float* partial, float* sums, F f) {
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  int slots = 1;  // rows at a time
  while (slots < a.rows && slots < kStageWarps) slots *= 2;
  const int share = kStageWarps / slots;  // warps of a row
  for (int row = warp / share; row < a.rows; row += slots) {
    float sum = 0.0f;
    for (int column = (warp % share * kWarp + lane) * 4; column < a.in; column += share * kWarp * 4) {
      const float4 x = four_inputs(a, row, column);
      sum += f(row, x.x);
      if (column + 1 < a.in) sum += f(row, x.y);
      if (column + 2 < a.in) sum += f(row, x.z);
      if (column + 3 < a.in) sum += f(row, x.w);
    }
    sum = warp_sum(sum);
    if (lane == 0) partial[row * kStageWarps + warp % share] = sum;
  }
  __syncthreads();
  if (int(threadIdx.x) < a.rows) {
    float sum = 0.0f;
    for (int i = 0; i < share; ++i) sum += partial[int(threadIdx.x) * kStageWarps + i];
    sums[threadIdx.x] = sum;
  }
  __syncthreads();
}

__device__ __forceinline__ uint32_t pack_pair(float low, float high, __nv_bfloat16) {
  return pack_bf16(low, high);
}
__device__ __forceinline__ uint32_t pack_pair(float low, float high, __half) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Half: __nv_bfloat16 or __half. Order::place(q): where the q-th four columns of a block stand, 0 .. 15. All
// threads of the block take part; ends with a barrier.
template <typename Half, typename Order>
__device__ __noinline__ void stage_rows(const StagedRows& a, unsigned char* shared) {
  __shared__ float partial[kDecodeRows * kStageWarps];
  __shared__ float means[kDecodeRows];
  __shared__ float inverses[kDecodeRows];
  const bool is_layer = a.norm.kind == DecodeNorm::Kind::layer,
             has_norm = a.norm.kind != DecodeNorm::Kind::none;
  if (is_layer) {
    row_sums(a, partial, means, [](int, float x) { return x; });
    if (int(threadIdx.x) < a.rows) means[threadIdx.x] /= float(a.in);
    __syncthreads();
  }
  if (has_norm) {
    row_sums(a, partial, inverses, [&](int row, float x) {
      const float centred = is_layer ? x - means[row] : x;
      return centred * centred;
    });
    if (int(threadIdx.x) < a.rows)
      inverses[threadIdx.x] = 1.0f / sqrtf(inverses[threadIdx.x] / float(a.in) + a.norm.eps);
    __syncthreads();
  }
  const float plus = a.norm.kind == DecodeNorm::Kind::rms_plus_one ? 1.0f : 0.0f;
  const auto normed = [&](int row, int column, float x) {
    if (!has_norm || column >= a.in) return x;
    if (!is_layer) return x * inverses[row] * (a.norm.gain[column] + plus);
    const float y = (x - means[row]) * inverses[row] * a.norm.gain[column];
    return a.norm.bias != nullptr ? y + a.norm.bias[column] : y;
  };
  const int quads = a.blocks * (kStageBlock / 4);
  const size_t row_bytes = size_t(a.blocks) * kStageBlock * 2 + 16;
  for (int row = 0; row < a.rows; ++row) {
    for (int quad = int(threadIdx.x); quad < quads; quad += kStageThreads) {
      float4 x;
      if (a.column_of == nullptr) {
        x = four_inputs(a, row, quad * 4);
        x.x = normed(row, quad * 4, x.x);
        x.y = normed(row, quad * 4 + 1, x.y);
        x.z = normed(row, quad * 4 + 2, x.z);
        x.w = normed(row, quad * 4 + 3, x.w);
      } else {
        const auto at = [&](int i) {
          const int column = a.column_of[quad * 4 + i];
          return column < 0 ? 0.0f : normed(row, column, a.x[int64_t(row) * a.stride + column]);
        };
        x = make_float4(at(0), at(1), at(2), at(3));
      }
      uint2 packed;
      packed.x = pack_pair(x.x, x.y, Half());
      packed.y = pack_pair(x.z, x.w, Half());
      unsigned char* to = shared + size_t(row) * row_bytes + size_t(quad / 16) * (kStageBlock * 2);
      *reinterpret_cast<uint2*>(to + Order::place(quad % 16) * 8) = packed;
    }
  }
  if (int(threadIdx.x) < 32)
    reinterpret_cast<uint32_t*>(shared + size_t(a.rows) * row_bytes)[threadIdx.x] = 0;
  __syncthreads();
}

}  // namespace pare::cuda
