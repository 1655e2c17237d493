// cross_entropy, divergence: one block per row, which is read once. Exponentials in float (two units in the
// last place each), eight of them summed in float, the sums of those in double: the error does not grow with
// the width.
#include <cfloat>

#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/quads.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 512;  // eight columns of each thread at a time: 16 KiB under way per block
constexpr int kStep = 2 * kQuad;
constexpr int kNone = 0x7fffffff;

// Elements c .. c + 7, -infinity beyond the end.
template <bool Wide>
__device__ __forceinline__ void load_step(const float* row, int64_t c, int64_t columns, float (&x)[kStep]) {
  const Quad low = load_quad<Wide>(row, c, columns, -INFINITY);
  const Quad high = load_quad<Wide>(row, c + kQuad, columns, -INFINITY);
#pragma unroll
  for (int j = 0; j < kQuad; ++j) x[j] = low.v[j], x[kQuad + j] = high.v[j];
}

__device__ __forceinline__ float sum_of(const float (&x)[kStep]) {
  return ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]));
}

template <bool Wide>
__global__ void __launch_bounds__(kThreads) cross_entropy_kernel(CrossEntropyArgs a) {
  const int64_t row = blockIdx.x;
  const float* logits = a.logits + row * a.stride;
  // `shift` is the largest so far, finite even where all logits are -infinity; sum = sum exp(x - shift).
  float largest = -INFINITY, shift = -FLT_MAX;
  double sum = 0.0;
  int best = kNone;
  for (int64_t c = int64_t(threadIdx.x) * kStep; c < a.columns; c += kThreads * kStep) {
    float x[kStep];
    load_step<Wide>(logits, c, a.columns, x);
#pragma unroll
    for (int j = 0; j < kStep; ++j) {
      if (x[j] > largest) largest = x[j], best = int(c) + j;  // the first of equals: ids of a thread ascend
    }
    if (largest > shift) {
      sum *= double(expf(shift - largest));
      shift = largest;
    }
#pragma unroll
    for (int j = 0; j < kStep; ++j) x[j] = expf(x[j] - shift);
    sum += double(sum_of(x));
  }
  const float row_shift = block_max(shift, -FLT_MAX);
  sum = block_sum(sum * double(expf(shift - row_shift)));
  const float row_largest = block_max(largest, -INFINITY);
  const int lowest_id = -block_max(largest == row_largest ? -best : -kNone, -kNone);
  if (threadIdx.x != 0) return;
  const double log_sum_exp = double(row_shift) + log(sum);
  const int target = a.targets[row];
  a.log_sum_exp[row] = log_sum_exp;
  a.nll[row] = target < 0 ? 0.0 : log_sum_exp - double(logits[target]);
  a.best[row] = lowest_id == kNone ? 0 : lowest_id;
}

// A log-sum-exp as the sum of two floats, so that x minus it is rounded once.
struct Pair {
  float high, low;
};
__device__ __forceinline__ Pair pair_of(double value) {
  const float high = float(value);
  return {high, float(value - double(high))};
}

template <bool Wide>
__global__ void __launch_bounds__(kThreads) divergence_kernel(DivergenceArgs a) {
  const int64_t row = blockIdx.x;
  const float* logits_p = a.logits_p + row * a.p_stride;
  const float* logits_q = a.logits_q + row * a.q_stride;
  const Pair lse_p = pair_of(a.log_sum_exp_p[row]), lse_q = pair_of(a.log_sum_exp_q[row]);
  double sum = 0.0;
  for (int64_t c = int64_t(threadIdx.x) * kStep; c < a.columns; c += kThreads * kStep) {
    float p[kStep], q[kStep];
    load_step<Wide>(logits_p, c, a.columns, p);
    load_step<Wide>(logits_q, c, a.columns, q);
#pragma unroll
    for (int j = 0; j < kStep; ++j) {
      const float log_p = (p[j] - lse_p.high) - lse_p.low, log_q = (q[j] - lse_q.high) - lse_q.low;
      p[j] = c + j < a.columns ? expf(log_p) * (log_p - log_q) : 0.0f;
    }
    sum += double(sum_of(p));
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) a.kl[row] = sum;
}

}  // namespace

void CudaBackend::cross_entropy(const CrossEntropyArgs& a) {
  const bool is_wide = rows_are_wide(a.logits, a.stride);
  context_->launch("cross_entropy", is_wide ? cross_entropy_kernel<true> : cross_entropy_kernel<false>,
                   {.grid = blocks_for(a.rows, 1), .block = kThreads}, a);
}

void CudaBackend::divergence(const DivergenceArgs& a) {
  const bool is_wide = rows_are_wide(a.logits_p, a.p_stride) && rows_are_wide(a.logits_q, a.q_stride);
  context_->launch("divergence", is_wide ? divergence_kernel<true> : divergence_kernel<false>,
                   {.grid = blocks_for(a.rows, 1), .block = kThreads}, a);
}

}  // namespace pare::cuda
