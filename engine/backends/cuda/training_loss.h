// engine/backends/cuda/training_loss.h: what the kernels of training_loss.cu and training_loss_known.cu
// share.
//
// A row is walked in aligned groups of four columns, so that its loads are of 16 bytes wherever it begins
// (rows of 50257 logits begin anywhere). Sums are in double, of four floats at a time: per thread, then in
// the tree of block_sum(); the order follows from the number of columns alone.
#pragma once

#include "engine/backends/cuda/kernel.h"
#include "engine/tensor/training_backend.h"

namespace pare::cuda {

// What all rows share; found once on the host, in double.
struct LossFactors {
  float plain;     // alpha scale
  float tempered;  // (1 - alpha) scale times the temperature, or its inverse
  float inverse_temperature;
  float inverse_cap;  // 0: no cap
};
LossFactors loss_factors(const LossRowsArgs& a);

// 384 threads of at most 80 registers: two blocks per multiprocessor, so that one loads while the other
// reduces, and 24 KiB of loads under way. Short rows get fewer threads.
constexpr int kLossThreads = 384;
constexpr int loss_threads(int64_t columns) {
  return columns >= 4096 ? kLossThreads : (columns >= 1024 ? 256 : 128);
}

// A row of floats from its first 16-byte boundary at or before it.
struct LossColumns {
  int64_t count;  // columns
  int phase;      // floats between the boundary and the row

  __device__ __forceinline__ LossColumns(const float* row, int64_t columns)
      : count(columns), phase(int((reinterpret_cast<uintptr_t>(row) >> 2) & 3)) {}
  __device__ __forceinline__ int64_t groups() const { return (count + phase + 3) / 4; }
  __device__ __forceinline__ int64_t first(int64_t group) const { return group * 4 - phase; }
  __device__ __forceinline__ bool is_whole(int64_t first_column) const {
    return first_column >= 0 && first_column + 4 <= count;
  }
  // -infinity beyond the ends; `aligned`: the row lies as the one that the groups are of.
  __device__ __forceinline__ void load(const float* row, int64_t group, bool aligned, float (&x)[4]) const {
    const int64_t begin = first(group);
    if (aligned && is_whole(begin)) {
      const float4 four = *reinterpret_cast<const float4*>(row + begin);
      x[0] = four.x;
      x[1] = four.y;
      x[2] = four.z;
      x[3] = four.w;
      return;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) x[j] = begin + j >= 0 && begin + j < count ? row[begin + j] : -INFINITY;
  }
  __device__ __forceinline__ void store(float* row, int64_t group, const float (&x)[4]) const {
    const int64_t begin = first(group);
    if (is_whole(begin)) {
      *reinterpret_cast<float4*>(row + begin) = make_float4(x[0], x[1], x[2], x[3]);
      return;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (begin + j >= 0 && begin + j < count) row[begin + j] = x[j];
  }
};

// Sums of e^(x - largest) and of e^((x - largest) / temperature) over a row.
struct RowSums {
  float largest;
  double plain, tempered;
};

// One read of the row: every thread keeps its own largest, and lowers its sums when it meets a larger one.
// Either sum may not be wanted; at temperature 1 they are the same. Every thread gets the result.
__device__ __forceinline__ RowSums row_sums(const float* row, int64_t count, float inverse_temperature,
                                            bool wants_plain, bool wants_tempered) {
  const LossColumns columns(row, count);
  const bool is_tempered = wants_tempered && inverse_temperature != 1.0f;
  const bool is_plain = wants_plain || !is_tempered;
  RowSums sums{-INFINITY, 0.0, 0.0};
  const int64_t groups = columns.groups();
#pragma unroll 2
  for (int64_t group = threadIdx.x; group < groups; group += blockDim.x) {
    float x[4];
    columns.load(row, group, true, x);
    const float top = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
    if (top > sums.largest) {
      const float fall = sums.largest - top;
      sums.plain *= double(expf(fall));
      sums.tempered *= double(expf(fall * inverse_temperature));
      sums.largest = top;
    }
    const float shift = sums.largest == -INFINITY ? 0.0f : sums.largest;
    if (is_plain) {
      const float sum = (expf(x[0] - shift) + expf(x[1] - shift)) + (expf(x[2] - shift) + expf(x[3] - shift));
      sums.plain += double(sum);
    }
    if (is_tempered) {
      float sum = expf((x[0] - shift) * inverse_temperature) + expf((x[1] - shift) * inverse_temperature);
      sum += expf((x[2] - shift) * inverse_temperature) + expf((x[3] - shift) * inverse_temperature);
      sums.tempered += double(sum);
    }
  }
  const float own = sums.largest;
  sums.largest = block_max(own, -INFINITY);
  if (own < sums.largest) {
    const double fall = double(own) - double(sums.largest);
    sums.plain *= exp(fall);
    sums.tempered *= exp(fall * double(inverse_temperature));
  }
  sums.plain = block_sum(sums.plain);
  sums.tempered = is_tempered ? block_sum(sums.tempered) : sums.plain;
  return sums;
}

// p = e^((x - largest) factor) * share: the very numbers that the sum was made of.
struct Probability {
  float largest, factor, share;
  __device__ __forceinline__ float of(float x) const { return expf((x - largest) * factor) * share; }
};
__device__ __forceinline__ Probability plain_probability(const RowSums& sums) {
  return {sums.largest, 1.0f, float(1.0 / sums.plain)};
}
__device__ __forceinline__ Probability tempered_probability(const RowSums& sums, float inverse_temperature) {
  return {sums.largest, inverse_temperature, float(1.0 / sums.tempered)};
}

// The gradient before the cap of the capped value z.
__device__ __forceinline__ float capped(float gradient, float z, const LossFactors& f) {
  const float share = z * f.inverse_cap;
  return f.inverse_cap > 0.0f ? gradient * fmaf(-share, share, 1.0f) : gradient;
}

// row[begin .. end) = 0
__device__ __forceinline__ void clear_columns(float* row, int64_t begin, int64_t end) {
  for (int64_t c = begin + threadIdx.x; c < end; c += blockDim.x) row[c] = 0.0f;
}

// A row that counts for nothing; whether this is one.
__device__ __forceinline__ bool is_left_out(const LossRowsArgs& a, int64_t row) {
  if (a.targets[row] >= 0) return false;
  if (threadIdx.x == 0) a.cross_entropy[row] = a.divergence[row] = 0.0;
  clear_columns(a.logits + row * a.stride, 0, a.columns);
  return true;
}

}  // namespace pare::cuda
