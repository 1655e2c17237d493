#include "engine/run/kv_cache.h"

#include "engine/core/checked.h"
#include "engine/tensor/backend.h"

namespace pare {
namespace {

Result<KvCodes> allocate_codes(KvQuant kv, int64_t sequences, int64_t kv_heads, int64_t capacity,
                               int64_t head_dim, Device device) {
  KvCodes result;
  const Shape grid{sequences, kv_heads, capacity};
  PARE_TRY(result.codes,
           Tensor::allocate(DType::u8, {sequences, kv_heads, capacity, kv.row_bytes(head_dim)}, device));
  PARE_TRY(result.scales, Tensor::allocate(DType::f16, grid, device));
  if (kv.has_zeros()) {
    PARE_TRY(result.zeros, Tensor::allocate(DType::u8, grid, device));
  }
  return result;
}

}  // namespace

uint64_t KvCache::bytes_for(const ModelConfig& config, int64_t sequences, int64_t capacity) {
  Checked bytes = 0;
  for (const BlockConfig& block : config.blocks)
    bytes += Checked(2) * uint64_t(sequences) * uint64_t(block.kv_heads) * uint64_t(capacity) *
             config.kv.vector_bytes(block.head_dim);
  return bytes.valid() ? bytes.value() : UINT64_MAX;
}

Result<KvCache> KvCache::allocate(const ModelConfig& config, int64_t sequences, int64_t capacity,
                                  Device device) {
  const uint64_t bytes = bytes_for(config, sequences, capacity);
  if (bytes > uint64_t(INT64_MAX))
    return Error{
        .exit = Exit::resource, .where = "cache", .what = "too large", .got = std::to_string(capacity)};
  KvCache cache;
  cache.capacity_ = capacity;
  cache.blocks_.resize(size_t(config.block_count()));
  for (size_t i = 0; i < cache.blocks_.size(); ++i) {
    const BlockConfig& shape = config.blocks[i];
    cache.blocks_[i].kv = config.kv;
    if (!config.kv.is_none()) {
      PARE_TRY(cache.blocks_[i].key_codes,
               allocate_codes(config.kv, sequences, shape.kv_heads, capacity, shape.head_dim, device));
      PARE_TRY(cache.blocks_[i].value_codes,
               allocate_codes(config.kv, sequences, shape.kv_heads, capacity, shape.head_dim, device));
      continue;
    }
    const Shape extent{sequences, shape.kv_heads, capacity, shape.head_dim};
    const DType dtype = device.is_host() ? DType::f32 : backend_for(device).kv_dtype();
    PARE_TRY(cache.blocks_[i].keys, Tensor::allocate(dtype, extent, device));
    PARE_TRY(cache.blocks_[i].values, Tensor::allocate(dtype, extent, device));
  }
  return cache;
}

}  // namespace pare
