#include "engine/run/kv_cache.h"

#include "engine/core/checked.h"

namespace pare {

uint64_t KvCache::bytes_for(const ModelConfig& config, int64_t sequences, int64_t capacity) {
  Checked bytes = 0;
  for (const BlockConfig& block : config.blocks)
    bytes += Checked(2 * sizeof(float)) * uint64_t(sequences) * uint64_t(block.kv_heads) *
             uint64_t(capacity) * uint64_t(block.head_dim);
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
    const Shape extent{sequences, shape.kv_heads, capacity, shape.head_dim};
    PARE_TRY(cache.blocks_[i].keys, Tensor::allocate(DType::f32, extent, device));
    PARE_TRY(cache.blocks_[i].values, Tensor::allocate(DType::f32, extent, device));
  }
  return cache;
}

}  // namespace pare
