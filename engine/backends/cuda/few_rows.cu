// out[m, n] = sum_k x[m, k] w[n, k] for m <= 8: the weight is streamed once, x comes from the caches.
//
// A warp owns kOutputs rows of the weight and a share of k; a lane reads 8 neighbouring weights of each (16
// bytes of bf16), so a warp has 2 KiB under way per step, and two steps are unrolled. Four rows at a time
// because the floats of x weigh 2 m times a row of bf16 weights: at m = 8 four rows keep the reads of x
// within what L1 delivers (128 bytes per clock) while memory gives about 15 per clock and multiprocessor.
// Where there are too few rows of weight to fill the device, several warps of a block share the k of the same
// rows and add their parts in the order of k.
#include "engine/backends/cuda/few_rows.h"

#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kOutputs = 4;
constexpr int kLaneValues = 8;
constexpr int kStep = kWarp * kLaneValues;  // of k

template <typename W>
__device__ __forceinline__ float rounded(float v) {
  return __bfloat162float(__float2bfloat16_rn(v));
}
template <>
__device__ __forceinline__ float rounded<__half>(float v) {
  return __half2float(__float2half_rn(v));
}

// Elements of a row that lane takes at step `start`: neighbours where 16 bytes are loaded at a time, else 32
// apart.
template <bool kWide>
__device__ __forceinline__ int64_t place(int64_t start, int lane, int i) {
  return kWide ? start + lane * kLaneValues + i : start + i * kWarp + lane;
}

template <bool kWide>
__device__ __forceinline__ void load_values(const float* row, int64_t start, int lane, int64_t k,
                                            float (&v)[kLaneValues]) {
  if (kWide) {
    const float4* at = reinterpret_cast<const float4*>(row + place<true>(start, lane, 0));
    const float4 low = at[0], high = at[1];
    v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
    v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
  } else {
#pragma unroll
    for (int i = 0; i < kLaneValues; ++i) {
      const int64_t at = place<false>(start, lane, i);
      v[i] = at < k ? row[at] : 0.0f;
    }
  }
}

__device__ __forceinline__ float2 pair_values(const __nv_bfloat16*, uint32_t pair) {
  return make_float2(bf16_low(pair), bf16_high(pair));
}
__device__ __forceinline__ float2 pair_values(const __half*, uint32_t pair) {
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

// Weights of one row as they lie in memory: loaded for all rows before any is used.
template <typename W, bool kWide>
struct Weights {
  uint4 words;
  __device__ __forceinline__ void load(const W* row, int64_t start, int lane, int64_t k) {
    if (kWide) {
      words = ptx::load_once(row + place<true>(start, lane, 0));
    } else {
      uint32_t pairs[4];
#pragma unroll
      for (int i = 0; i < kLaneValues / 2; ++i) {
        const int64_t low = place<false>(start, lane, 2 * i), high = place<false>(start, lane, 2 * i + 1);
        const auto* bits = reinterpret_cast<const unsigned short*>(row);
        pairs[i] = (low < k ? uint32_t(bits[low]) : 0u) | (high < k ? uint32_t(bits[high]) << 16 : 0u);
      }
      words = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
  }
  __device__ __forceinline__ void values(float (&v)[kLaneValues], bool) const {
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 pair = pair_values(static_cast<const W*>(nullptr), pairs[i]);
      v[2 * i] = pair.x, v[2 * i + 1] = pair.y;
    }
  }
};
template <bool kWide>
struct Weights<float, kWide> {
  float held[kLaneValues];
  __device__ __forceinline__ void load(const float* row, int64_t start, int lane, int64_t k) {
    load_values<kWide>(row, start, lane, k, held);
  }
  __device__ __forceinline__ void values(float (&v)[kLaneValues], bool rounds) const {
#pragma unroll
    for (int i = 0; i < kLaneValues; ++i) v[i] = rounds ? rounded<float>(held[i]) : held[i];
  }
};

template <typename W, int kRows, bool kWide>
__global__ void __launch_bounds__(kWarps* kWarp, kWide&& kRows < 8 ? 2 : 1)
    few_rows_kernel(MatmulArgs a, int parts, bool rounds) {
  __shared__ float shared_sums[kWarps][kWarp];
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int part = warp % parts;
  const int64_t first = (int64_t(blockIdx.x) * (kWarps / parts) + warp / parts) * kOutputs;
  const W* weight = static_cast<const W*>(a.weight);
  const W* rows[kOutputs];
#pragma unroll
  for (int r = 0; r < kOutputs; ++r)
    rows[r] = weight + min(first + r, a.n - 1) * a.k;  // beyond the end: not kept
  const float* x[size_t(kRows)];
#pragma unroll
  for (int m = 0; m < kRows; ++m) x[m] = a.x + min(int64_t(m), a.m - 1) * a.x_stride;

  float sums[size_t(kRows)][kOutputs] = {};
#pragma unroll(kRows < 8 ? 2 : 1)
  for (int64_t start = int64_t(part) * kStep; start < a.k; start += int64_t(parts) * kStep) {
    if (kWide && start + lane * kLaneValues >= a.k) continue;
    Weights<W, kWide> held[kOutputs];
#pragma unroll
    for (int r = 0; r < kOutputs; ++r) held[r].load(rows[r], start, lane, a.k);
    float w[kOutputs][kLaneValues];
#pragma unroll
    for (int r = 0; r < kOutputs; ++r) held[r].values(w[r], rounds);
#pragma unroll
    for (int m = 0; m < kRows; ++m) {
      float v[kLaneValues];
      load_values<kWide>(x[m], start, lane, a.k, v);
#pragma unroll
      for (int i = 0; i < kLaneValues; ++i) {
        const float value = rounds ? rounded<W>(v[i]) : v[i];
#pragma unroll
        for (int r = 0; r < kOutputs; ++r) sums[m][r] = fmaf(value, w[r][i], sums[m][r]);
      }
    }
  }

  // lane m * kOutputs + r keeps the sum of row m and output r
  float own = 0.0f;
#pragma unroll
  for (int m = 0; m < kRows; ++m) {
#pragma unroll
    for (int r = 0; r < kOutputs; ++r) {
      const float total = warp_sum(sums[m][r]);
      if (lane == m * kOutputs + r) own = total;
    }
  }
  if (parts > 1) {
    shared_sums[warp][lane] = own;
    __syncthreads();
    if (part != 0) return;
    for (int p = 1; p < parts; ++p) own += shared_sums[warp + p][lane];
  }
  const int64_t m = lane / kOutputs, n = first + lane % kOutputs;
  if (m >= min(int64_t(kRows), a.m) || n >= a.n) return;
  float* out = a.out + m * a.out_stride + n;
  if (a.bias != nullptr) own += a.bias[n];
  *out = a.accumulate ? *out + own : own;
}

template <typename W, int kRows>
void launch(Context& context, const MatmulArgs& a) {
  const auto aligned = [](const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; };
  const bool wide = a.k % kLaneValues == 0 && a.x_stride % 4 == 0 && aligned(a.x) && aligned(a.weight);
  // Shares of k while there are fewer than four blocks for each multiprocessor and each share keeps four
  // steps.
  int parts = 1;
  const int64_t owners = (a.n + kOutputs - 1) / kOutputs;
  while (parts < kWarps && owners * parts < int64_t(4) * kWarps * context.multiprocessors() &&
         a.k >= int64_t(2) * parts * 4 * kStep)
    parts *= 2;
  context.launch("few_rows_matmul", wide ? few_rows_kernel<W, kRows, true> : few_rows_kernel<W, kRows, false>,
                 {.grid = blocks_for(owners, kWarps / parts), .block = kWarps * kWarp}, a, parts,
                 context.math() == MathMode::bf16);
}

template <typename W>
void launch(Context& context, const MatmulArgs& a) {
  if (a.m == 1) return launch<W, 1>(context, a);
  if (a.m == 2) return launch<W, 2>(context, a);
  if (a.m <= 4) return launch<W, 4>(context, a);
  launch<W, 8>(context, a);
}

}  // namespace

void few_rows_matmul(Context& context, const MatmulArgs& a) {
  PARE_ASSERT(a.m <= kFewRows, "[few_rows_matmul] {} rows", a.m);
  if (a.weight_dtype == DType::bf16) return launch<__nv_bfloat16>(context, a);
  if (a.weight_dtype == DType::f16) return launch<__half>(context, a);
  launch<float>(context, a);
}

}  // namespace pare::cuda
