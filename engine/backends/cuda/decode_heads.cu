// The first and the smallest operations of a decode step: rows of the embedding, heads of new tokens.
#include "engine/backends/cuda/decode_class.h"
#include "engine/backends/cuda/decode_heads.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ float element(const void* data, DType dtype, int64_t index) {
  if (dtype == DType::f32) return static_cast<const float*>(data)[index];
  if (dtype == DType::bf16) return to_float(static_cast<const __nv_bfloat16*>(data)[index]);
  return to_float(static_cast<const __half*>(data)[index]);
}

__global__ void __launch_bounds__(kThreads) decode_embed_kernel(DecodeEmbedArgs a) {
  ptx::wait_for_predecessor();
  ptx::release_successor();
  const int64_t row = blockIdx.y, c = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (c >= a.channels) return;
  float* out = a.hidden + row * a.channels + c;
  float sum = a.table != nullptr
                  ? a.scale * element(a.table, a.table_dtype, int64_t(a.ids[row]) * a.channels + c)
                  : *out;
  if (a.position_table != nullptr)
    sum += element(a.position_table, a.position_dtype, int64_t(a.positions[row]) * a.channels + c);
  *out = sum;
}

// One warp per head of a row.
__global__ void __launch_bounds__(kThreads) decode_heads_kernel(DecodeHeadsArgs a, int64_t items) {
  ptx::wait_for_predecessor();
  ptx::release_successor();
  const int64_t item = int64_t(blockIdx.x) * (kThreads / kWarp) + int(threadIdx.x) / kWarp;
  if (item >= items) return;  // whole warps leave
  const int64_t vectors = a.heads + 2 * a.kv_heads;
  finish_vector(a, item / vectors, item % vectors);
}

}  // namespace

void CudaDecode::embed(const DecodeEmbedArgs& a) {
  context_.launch("decode_embed", decode_embed_kernel,
                  {.grid = dim3(blocks_for(a.channels, kThreads), unsigned(a.rows)),
                   .block = kThreads,
                   .is_dependent = true},
                  a);
}

void CudaDecode::heads(const DecodeHeadsArgs& a) {
  const int64_t items = a.rows * (a.heads + 2 * a.kv_heads);
  context_.launch("decode_heads", decode_heads_kernel,
                  {.grid = blocks_for(items, kThreads / kWarp), .block = kThreads, .is_dependent = true}, a,
                  items);
}

}  // namespace pare::cuda
