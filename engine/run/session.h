// engine/run/session.h: a loaded model, its tokenizer and a cache on one device: generate and score.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/models/model.h"
#include "engine/run/kv_cache.h"
#include "engine/run/sampler.h"
#include "engine/tokenizer/tokenizer.h"

namespace pare {

struct GenerateOptions {
  int64_t max_new_tokens = 128;
  SamplerOptions sampler;
  std::vector<std::string> stop;  // generation ends before the first occurrence of any of these in the text
  bool stop_at_eos = true;
};

enum class StopReason { eos, stop_string, length, context_full, interrupted };
const char* stop_reason_name(StopReason reason);

struct GenerateResult {
  std::vector<int32_t> ids;  // new tokens, without the end-of-text token
  std::string text;          // as streamed
  StopReason reason = StopReason::length;
  int64_t prompt_tokens = 0;
  double prefill_seconds = 0, decode_seconds = 0;
  int64_t decode_steps = 0;
  bool is_recorded = false;  // whole steps ran on the device, sampling included
  uint64_t cache_bytes = 0;  // of keys and values
};

class Session {
 public:
  // Loads the whole model. `context` 0: the model's own. kv: as Model::open. tokenizer may be null for
  // id-only use. Exit 3, 4, 6.
  static Result<std::unique_ptr<Session>> open(std::shared_ptr<const WeightSource> source,
                                               std::shared_ptr<const Tokenizer> tokenizer, Device device,
                                               int64_t context = 0, std::optional<KvQuant> kv = std::nullopt);

  const Model& model() const { return *model_; }
  Model& model() { return *model_; }
  int64_t context() const { return context_; }
  const Tokenizer* tokenizer() const { return tokenizer_.get(); }

  // Generates after `prompt` (template tokens included by the caller). `emit` gets text pieces that end on
  // whole characters and never contain part of a stop string; returning false stops. Exit 3 when the prompt
  // is empty or an id is outside the vocabulary, 2 when it does not fit the context (needs at least one free
  // position).
  Result<GenerateResult> generate(std::span<const int32_t> prompt, const GenerateOptions& options,
                                  const std::function<bool(std::string_view)>& emit);

  // Logits of all positions of equally long sequences: ids [sequences * tokens]; out f32 [sequences * tokens,
  // vocabulary].
  Status score(const Tensor& ids, const Batch& batch, Tensor& logits);

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<Model> model_;
  int64_t context_ = 0;
};

}  // namespace pare
