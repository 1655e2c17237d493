// kv_append, kv_round: one warp per key or value (a row's head). Codes and scales are those of kv_encode()
// (kv_quant.h) to the bit: the same operations in the same precision, with IEEE division.
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kVectors = kThreads / kWarp;  // per block
constexpr float kCentre = 128.0f;           // zero of int8
constexpr uint16_t kNotANumber = 0x7e00, kOne = 0x3c00, kSmallestNormal = 0x0400, kLargest = 0x7bff;
// Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits.
constexpr float kShift = 12582912.0f;

struct Grid {
  uint16_t scale;
  bool is_finite;
  float step, zero;  // zero: the code of 0, without the centre of int8
};

// The grid of a vector, the same in all lanes.
template <bool Int8>
__device__ Grid grid_of(const float* x, int64_t head_dim) {
  float low = 0.0f, high = 0.0f;
  bool is_finite = true;
  for (int64_t d = int(threadIdx.x) % kWarp; d < head_dim; d += kWarp) {
    const float value = x[d];
    low = value < low ? value : low;
    high = value > high ? value : high;
    is_finite = is_finite && fabsf(value) < INFINITY;
  }
  low = -warp_max(-low);
  high = warp_max(high);
  if (!__all_sync(kAllLanes, is_finite))
    return {.scale = kNotANumber, .is_finite = false, .step = 0.0f, .zero = 0.0f};
  if (low == 0.0f && high == 0.0f) return {.scale = kOne, .is_finite = true, .step = 1.0f, .zero = 0.0f};
  const double width = Int8 ? double(-low > high ? -low : high) / 127.0 : (double(high) - double(low)) / 15.0;
  const float rounded = float(width < 65504.0 ? width : 65504.0);
  uint16_t scale = __half_as_ushort(__float2half_rn(rounded));
  scale = scale < kSmallestNormal ? kSmallestNormal : scale > kLargest ? kLargest : scale;
  const float step = __half2float(__ushort_as_half(scale));
  if (Int8) return {.scale = scale, .is_finite = true, .step = step, .zero = 0.0f};
  const double zero = rint(-double(low) / double(step));
  return {.scale = scale,
          .is_finite = true,
          .step = step,
          .zero = float(zero < 0.0    ? 0.0
                        : zero > 15.0 ? 15.0
                                      : zero)};
}

// Code of one component less the code of 0, a whole number.
template <bool Int8>
__device__ __forceinline__ float level_of(float x, const Grid& grid) {
  const float bottom = Int8 ? -127.0f : -grid.zero, top = Int8 ? 127.0f : 15.0f - grid.zero;
  float value = __fdiv_rn(x, grid.step);
  value = value < bottom ? bottom : value;
  value = value > top ? top : value;
  return __fadd_rn(__fadd_rn(value, kShift), -kShift);
}
template <bool Int8>
__device__ __forceinline__ uint32_t code_of(float x, const Grid& grid) {
  if (!grid.is_finite) return 0;
  return uint32_t(int(level_of<Int8>(x, grid) + (Int8 ? kCentre : grid.zero)));
}

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
  const int lane = int(threadIdx.x) % kWarp;
  const Grid grid = grid_of<Int8>(place.x, a.head_dim);
  const int64_t half = (a.head_dim + 1) / 2;
  uint8_t* codes = static_cast<uint8_t*>(a.cache) + place.slot * (Int8 ? a.head_dim : half);
  if (Int8) {
    for (int64_t d = lane; d < a.head_dim; d += kWarp) codes[d] = uint8_t(code_of<true>(place.x[d], grid));
  } else {
    for (int64_t i = lane; i < half; i += kWarp) {
      const uint32_t above = i + half < a.head_dim ? code_of<false>(place.x[i + half], grid) : 0u;
      codes[i] = uint8_t(code_of<false>(place.x[i], grid) | above << 4);
    }
  }
  if (lane != 0) return;
  a.scales[place.slot] = grid.scale;
  if (a.zeros != nullptr)
    a.zeros[place.slot] = uint8_t(!grid.is_finite ? 0 : Int8 ? int(kCentre) : int(grid.zero));
}

template <bool Int8>
__global__ void __launch_bounds__(kThreads) kv_round_kernel(KvRoundArgs a) {
  const int64_t item = int64_t(blockIdx.x) * kVectors + int(threadIdx.x) / kWarp;
  if (item >= a.rows * a.heads) return;
  const int64_t row = item / a.heads, head = item - row * a.heads;
  float* x = a.x + row * a.stride + head * a.head_dim;
  const Grid grid = grid_of<Int8>(x, a.head_dim);
  // Each lane reads and writes its own components only.
  for (int64_t d = int(threadIdx.x) % kWarp; d < a.head_dim; d += kWarp) {
    const float level = grid.is_finite ? level_of<Int8>(x[d], grid) : 1.0f;
    const float step = grid.is_finite ? grid.step : __half2float(__ushort_as_half(kNotANumber));
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
