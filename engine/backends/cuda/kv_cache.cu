// kv_append, kv_round: one warp per key or value (a row's head).
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/kernel.h"
#include "engine/backends/cuda/kv_codes.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVectors = kThreads / kWarp;  // per block

// Where vector `item` of the rows goes.
struct Place {
  const float* x;
  int64_t slot;  // of [sequences, kv_heads, capacity]
};
__device__ __forceinline__ Place place_of(const KvAppendArgs& a, int64_t item) {
  const int64_t row = item / a.kv_heads, head = item - row * a.kv_heads;
  const int64_t sequence = row / a.tokens, position = a.first_position + (row - sequence * a.tokens);
  return {a.rows + row * a.stride + head * a.head_dim,
          (sequence * a.kv_heads + head) * a.capacity + position};
}

template <typename T>
__device__ __forceinline__ T from_float(float x) {
  if constexpr (sizeof(T) == sizeof(float)) {
    return x;
  } else if constexpr (std::is_same_v<T, __half>) {
    return __float2half_rn(x);
  } else {
    return __float2bfloat16_rn(x);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads) kv_append_kernel(KvAppendArgs a, int64_t items) {
  const int64_t item = int64_t(blockIdx.x) * kVectors + int(threadIdx.x) / kWarp;
  if (item >= items) return;
  const Place place = place_of(a, item);
  T* out = static_cast<T*>(a.cache) + place.slot * a.head_dim;
  for (int64_t d = int(threadIdx.x) % kWarp; d < a.head_dim; d += kWarp) out[d] = from_float<T>(place.x[d]);
}

template <bool Int8>
__global__ void __launch_bounds__(kThreads) kv_append_codes_kernel(KvAppendArgs a, int64_t items) {
  const int64_t item = int64_t(blockIdx.x) * kVectors + int(threadIdx.x) / kWarp;
  if (item >= items) return;  // whole warps leave
  const Place place = place_of(a, item);
  kv_encode_vector<Int8>(place.x, a.head_dim, static_cast<uint8_t*>(a.cache), place.slot, a.scales, a.zeros);
}

template <bool Int8>
__global__ void __launch_bounds__(kThreads) kv_round_kernel(KvRoundArgs a) {
  const int64_t item = int64_t(blockIdx.x) * kVectors + int(threadIdx.x) / kWarp;
  if (item >= a.rows * a.heads) return;
  const int64_t row = item / a.heads, head = item - row * a.heads;
  float* x = a.x + row * a.stride + head * a.head_dim;
  const KvGrid grid = kv_grid<Int8>(x, a.head_dim);
  // Each lane reads and writes its own components only.
  for (int64_t d = int(threadIdx.x) % kWarp; d < a.head_dim; d += kWarp) {
    const float level = grid.is_finite ? kv_level<Int8>(x[d], grid) : 1.0f;
    const float step = grid.is_finite ? grid.step : __half2float(__ushort_as_half(kKvNotANumber));
    x[d] = step * level;
  }
}

}  // namespace

void CudaBackend::kv_append(const KvAppendArgs& a) {
  const int64_t items = a.sequences * a.tokens * a.kv_heads;
  const LaunchShape shape{.grid = blocks_for(items, kVectors), .block = kThreads};
  if (!a.kv.is_none()) {
    context_->launch(
        "kv_append",
        a.kv.kind == KvQuant::Kind::int8 ? kv_append_codes_kernel<true> : kv_append_codes_kernel<false>,
        shape, a, items);
  } else if (a.dtype == DType::bf16) {
    context_->launch("kv_append", kv_append_kernel<__nv_bfloat16>, shape, a, items);
  } else if (a.dtype == DType::f16) {
    context_->launch("kv_append", kv_append_kernel<__half>, shape, a, items);
  } else {
    PARE_ASSERT(a.dtype == DType::f32, "[kv_append] {} on a GPU", dtype_name(a.dtype));
    context_->launch("kv_append", kv_append_kernel<float>, shape, a, items);
  }
}

void CudaBackend::kv_round(const KvRoundArgs& a) {
  const LaunchShape shape{.grid = blocks_for(a.rows * a.heads, kVectors), .block = kThreads};
  context_->launch("kv_round",
                   a.kv.kind == KvQuant::Kind::int8 ? kv_round_kernel<true> : kv_round_kernel<false>, shape,
                   a);
}

}  // namespace pare::cuda
