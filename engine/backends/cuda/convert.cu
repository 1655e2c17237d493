// Rows of one float type as another: operands of products, rounded or widened. Bound by memory: a thread
// moves eight elements, 16 bytes of the narrow type at a time where pointers and strides allow.
#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/gemm.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

constexpr int kGroup = 8;  // elements of a thread

__device__ __forceinline__ uint32_t pack(__nv_bfloat16*, float low, float high) {
  return pack_bf16(low, high);
}
__device__ __forceinline__ uint32_t pack(__half*, float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ __forceinline__ float2 unpack(const __nv_bfloat16*, uint32_t pair) {
  return make_float2(bf16_low(pair), bf16_high(pair));
}
__device__ __forceinline__ float2 unpack(const __half*, uint32_t pair) {
  return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

__device__ __forceinline__ void load_group(const float* from, float (&v)[kGroup]) {
  const float4 low = reinterpret_cast<const float4*>(from)[0],
               high = reinterpret_cast<const float4*>(from)[1];
  v[0] = low.x, v[1] = low.y, v[2] = low.z, v[3] = low.w;
  v[4] = high.x, v[5] = high.y, v[6] = high.z, v[7] = high.w;
}
template <typename Half>
__device__ __forceinline__ void load_group(const Half* from, float (&v)[kGroup]) {
  const uint4 words = *reinterpret_cast<const uint4*>(from);
  const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = unpack(from, pairs[i]);
    v[2 * i] = pair.x, v[2 * i + 1] = pair.y;
  }
}
__device__ __forceinline__ void store_group(float* to, const float (&v)[kGroup]) {
  reinterpret_cast<float4*>(to)[0] = make_float4(v[0], v[1], v[2], v[3]);
  reinterpret_cast<float4*>(to)[1] = make_float4(v[4], v[5], v[6], v[7]);
}
template <typename Half>
__device__ __forceinline__ void store_group(Half* to, const float (&v)[kGroup]) {
  *reinterpret_cast<uint4*>(to) =
      make_uint4(pack(to, v[0], v[1]), pack(to, v[2], v[3]), pack(to, v[4], v[5]), pack(to, v[6], v[7]));
}
__device__ __forceinline__ void store(float* to, float v) {
  *to = v;
}
__device__ __forceinline__ void store(__nv_bfloat16* to, float v) {
  *to = __float2bfloat16_rn(v);
}
__device__ __forceinline__ void store(__half* to, float v) {
  *to = __float2half_rn(v);
}

// A warp takes 32 neighbouring groups of a row, the eight warps of a block eight rows; grid.y walks the rows.
constexpr int kRowsAtOnce = 8;
template <typename From, typename To, bool kWide>
__global__ void convert_kernel(ConvertArgs a) {
  const int64_t first = (int64_t(blockIdx.x) * 32 + threadIdx.x) * kGroup;
  if (first >= a.columns) return;
  for (int64_t row = int64_t(blockIdx.y) * kRowsAtOnce + threadIdx.y; row < a.rows;
       row += int64_t(gridDim.y) * kRowsAtOnce) {
    const From* from = static_cast<const From*>(a.from) + row * a.from_stride + first;
    To* to = static_cast<To*>(a.to) + row * a.to_stride + first;
    if (kWide && first + kGroup <= a.columns) {
      float values[kGroup];
      load_group(from, values);
      store_group(to, values);
    } else {
      const int count = int(min(int64_t(kGroup), a.columns - first));
      for (int i = 0; i < count; ++i) store(to + i, to_float(from[i]));
    }
  }
}

template <typename From, typename To>
void convert(Context& context, const ConvertArgs& a) {
  const auto is_wide = [](const void* pointer, int64_t stride, size_t width) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && size_t(stride) * width % 16 == 0;
  };
  const bool wide = is_wide(a.from, a.from_stride, sizeof(From)) && is_wide(a.to, a.to_stride, sizeof(To));
  const int64_t row_blocks = (a.rows + kRowsAtOnce - 1) / kRowsAtOnce;
  constexpr int64_t kLargestY = 65'535;
  const dim3 grid(blocks_for(a.columns, 32 * kGroup),
                  unsigned(row_blocks < kLargestY ? row_blocks : kLargestY));
  const dim3 block(32, kRowsAtOnce);
  context.launch("convert_rows", wide ? convert_kernel<From, To, true> : convert_kernel<From, To, false>,
                 {.grid = grid, .block = block}, a);
}

}  // namespace

void convert_rows(Context& context, const ConvertArgs& a) {
  const auto is = [&](DType from, DType to) { return a.from_type == from && a.to_type == to; };
  if (is(DType::f32, DType::bf16)) return convert<float, __nv_bfloat16>(context, a);
  if (is(DType::f32, DType::f16)) return convert<float, __half>(context, a);
  if (is(DType::bf16, DType::f32)) return convert<__nv_bfloat16, float>(context, a);
  if (is(DType::f16, DType::f32)) return convert<__half, float>(context, a);
  if (is(DType::f16, DType::bf16)) return convert<__half, __nv_bfloat16>(context, a);
  PARE_ASSERT(false, "[convert_rows] {} to {}", dtype_name(a.from_type), dtype_name(a.to_type));
}

}  // namespace pare::cuda
