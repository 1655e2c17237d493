// engine/backends/cuda/decode_heads.h: what happens to one head of a new token (DecodeHeadsArgs), by one
// warp.
#pragma once

#include "engine/backends/cuda/context.h"
#include "engine/backends/cuda/kernel.h"
#include "engine/backends/cuda/kv_codes.h"
#include "engine/tensor/decode_backend.h"

namespace pare::cuda {

// A key or value to its place; in place where it is kept as codes, since their grid needs the whole head.
__device__ __forceinline__ void keep_component(const DecodeCache& cache, void* to, float* x, int64_t d,
                                               float value) {
  if (cache.kv.kind != KvQuant::Kind::none) {
    x[d] = value;
  } else if (cache.dtype == DType::f32) {
    static_cast<float*>(to)[d] = value;
  } else {
    static_cast<__nv_bfloat16*>(to)[d] = __float2bfloat16_rn(value);
  }
}

// `vector`: queries, then keys, then values. The rows of qkv may have been written by other blocks of the
// same kernel, so they are read from L2.
__device__ __forceinline__ void finish_vector(const DecodeHeadsArgs& a, int64_t row, int64_t vector) {
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t dim = a.head_dim, vectors = a.heads + 2 * a.kv_heads;
  float* x = a.qkv + (row * vectors + vector) * dim;
  const bool is_query = vector < a.heads, is_value = vector >= a.heads + a.kv_heads;
  const int64_t position = a.positions[row];
  const int64_t kv_head = is_value ? vector - a.heads - a.kv_heads : vector - a.heads;
  const int64_t slot = (row * a.kv_heads + kv_head) * a.cache.capacity + position;
  void* base = is_value ? a.cache.values : a.cache.keys;
  void* to = nullptr;
  if (!is_query && a.cache.kv.kind == KvQuant::Kind::none) {
    to = a.cache.dtype == DType::f32 ? static_cast<void*>(static_cast<float*>(base) + slot * dim)
                                     : static_cast<void*>(static_cast<__nv_bfloat16*>(base) + slot * dim);
  }

  const bool has_norm = a.norm != DecodeNorm::Kind::none && !is_value;
  const float* gain = is_query ? a.query_gain : a.key_gain;
  const float plus = a.norm == DecodeNorm::Kind::rms_plus_one ? 1.0f : 0.0f;
  float inverse = 1.0f;
  if (has_norm) {
    float squares = 0.0f;
    for (int64_t d = lane; d < dim; d += kWarp) {
      const float value = __ldcg(x + d);
      squares = fmaf(value, value, squares);
    }
    inverse = 1.0f / sqrtf(warp_sum(squares) / float(dim) + a.eps);
  }
  const auto normed = [&](int64_t d) {
    const float value = __ldcg(x + d);
    return has_norm ? value * inverse * (gain[d] + plus) : value;
  };
  const auto keep = [&](int64_t d, float value) {
    if (is_query) {
      x[d] = value;
    } else {
      keep_component(a.cache, to, x, d, value);
    }
  };
  const bool rotates = a.cosines != nullptr && !is_value;
  const int64_t half = rotates ? a.rotary_dim / 2 : 0;
  for (int64_t k = lane; k < half; k += kWarp) {
    const float low = normed(k), high = normed(k + half);
    const float cosine = a.cosines[position * half + k], sine = a.sines[position * half + k];
    keep(k, low * cosine - high * sine);
    keep(k + half, high * cosine + low * sine);
  }
  // Elements of a query that are neither normalised nor rotated stay as they are, but no lane knows less by
  // writing them again.
  for (int64_t d = 2 * half + lane; d < dim; d += kWarp) keep(d, normed(d));
  if (is_query || a.cache.kv.kind == KvQuant::Kind::none) return;
  __syncwarp();
  kv_encode_vector(a.cache.kv, x, dim, static_cast<uint8_t*>(base), slot,
                   is_value ? a.cache.value_scales : a.cache.key_scales,
                   is_value ? a.cache.value_zeros : a.cache.key_zeros);
}

}  // namespace pare::cuda
