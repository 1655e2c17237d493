// engine/run/sequence_runner.h: one sequence going through a loaded model: cache, buffers and workspace,
// everything that a prompt and a decode step need, allocated once.
#pragma once

#include <cstdint>
#include <span>

#include "engine/models/model.h"
#include "engine/run/kv_cache.h"

namespace pare {

class SequenceRunner {
 public:
  // Room for a prompt of `prompt_tokens` (at least 1) and `capacity` positions in all. `model` is loaded and
  // outlives the runner. Exit 6.
  static Result<SequenceRunner> create(Model& model, int64_t prompt_tokens, int64_t capacity);
  // What create() will allocate; also before the model is loaded.
  static uint64_t bytes_for(const Model& model, int64_t prompt_tokens, int64_t capacity);

  // Runs the tokens behind those in the cache, at most `prompt_tokens` of them; afterwards logits() predict
  // what follows the last one. Exit 3 for an id outside the vocabulary.
  Status run(std::span<const int32_t> tokens);
  // The same without a copy for the host: device_logits() f32 [1, vocabulary] on the model's device.
  Status run_on_device(std::span<const int32_t> tokens);
  const Tensor& device_logits() const { return logits_; }
  KvCache& cache() { return cache_; }

  std::span<float> logits() {
    const Tensor& seen = host_logits_.defined() ? host_logits_ : logits_;
    return {seen.mutable_data<float>(), size_t(seen.numel())};
  }

  // Forgets everything from position `length` on.
  void rewind(int64_t length) { cache_.truncate(length); }

 private:
  explicit SequenceRunner(Model& model) : model_(&model) {}
  Status run_chunk(std::span<const int32_t> tokens);

  Model* model_;
  KvCache cache_;
  Tensor ids_, hidden_, logits_;
  Tensor host_logits_;  // on a GPU: a copy of logits_ for the sampler
  Workspace workspace_;
  int64_t last_row_ = 0;
};

}  // namespace pare
