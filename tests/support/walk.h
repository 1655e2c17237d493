// tests/support/walk.h: runs a model over whole sequences the plain way.
#pragma once

#include <cstring>
#include <span>
#include <vector>

#include "engine/models/model.h"

namespace pare::test {

struct Trace {
  std::vector<Tensor> hidden;  // [0]: input of the first block, [i]: output of block i - 1
  Tensor logits;
  size_t workspace_capacity = 0, workspace_peak = 0;
};

template <typename T>
T checked(Result<T> result) {
  PARE_ASSERT(result.has_value(), "{}", format_error(result.error()));
  return *std::move(result);
}
inline void checked(const Status& status) {
  PARE_ASSERT(status.has_value(), "{}", format_error(status.error()));
}

inline Tensor tensor_of(std::span<const int32_t> ids, Device device) {
  Tensor tensor = checked(Tensor::allocate(DType::i32, {int64_t(ids.size())}, device));
  std::memcpy(tensor.mutable_raw(), ids.data(), ids.size_bytes());
  return tensor;
}

inline std::vector<int32_t> ids_of(const Tensor& i64) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < i64.numel(); ++i) ids.push_back(int32_t(i64.data<int64_t>()[i]));
  return ids;
}

inline std::vector<BlockCache> make_caches(const ModelConfig& config, int64_t sequences, int64_t capacity,
                                           Device device) {
  std::vector<BlockCache> caches;
  for (const BlockConfig& block : config.blocks) {
    const Shape shape{sequences, block.kv_heads, capacity, block.head_dim};
    caches.push_back({checked(Tensor::allocate(DType::f32, shape, device)),
                      checked(Tensor::allocate(DType::f32, shape, device))});
  }
  return caches;
}

// Blocks that are not loaded are loaded and dropped one by one. caches: one per block, or none.
inline Trace walk(Model& model, const Tensor& ids, const Batch& batch, std::span<BlockCache> caches = {}) {
  const ModelConfig& config = model.config();
  Trace trace;
  Workspace workspace =
      checked(Workspace::reserve(model.workspace_bytes(batch, batch.tokens()), model.device()));
  Tensor hidden = checked(Tensor::allocate(DType::f32, {batch.tokens(), config.hidden_size}, model.device()));
  checked(model.load_embedding());
  checked(model.embed(ids, batch, hidden, workspace));
  trace.hidden.push_back(checked(converted(hidden, DType::f32)));
  for (int i = 0; i < int(config.block_count()); ++i) {
    const bool was_loaded = model.block_loaded(i);
    if (!was_loaded) checked(model.load_block(i));
    checked(model.run_block(i, batch, hidden, caches.empty() ? nullptr : &caches[size_t(i)], workspace));
    if (!was_loaded) model.drop_block(i);
    trace.hidden.push_back(checked(converted(hidden, DType::f32)));
  }
  checked(model.load_head());
  trace.logits =
      checked(Tensor::allocate(DType::f32, {batch.tokens(), config.vocabulary_size}, model.device()));
  checked(model.run_head(hidden, trace.logits, workspace));
  trace.workspace_capacity = workspace.capacity();
  trace.workspace_peak = workspace.peak();
  return trace;
}

}  // namespace pare::test
