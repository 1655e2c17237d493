// evaluate/evaluate.h: perplexity of a model, alone or beside a reference, over windows of tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/models/model.h"
#include "evaluate/protocol.h"
#include "evaluate/statistics.h"

namespace pare {

struct EvaluateOptions {
  int64_t batch_tokens = 4096;  // rows per pass when the model stays in memory
  int64_t logit_rows = 512;     // logits are made for this many rows at a time, never for all
  int32_t bos_id = -1;          // of windows that replace their first token; negative: they keep it
};

struct TokenScore {
  int64_t position;  // of the predicted token in the stream
  double nll, reference_nll, kl;
};

struct EvaluateResult {
  Perplexity perplexity;
  std::optional<Perplexity> reference;
  std::optional<Damage> damage;   // with a reference
  std::vector<TokenScore> worst;  // at most 20, largest KL first (without a reference: largest nll)
  double total_nll = 0.0;         // nats over all scored tokens
  int64_t input_tokens = 0;       // rows that went through the model
  double seconds = 0.0;           // of the model's own passes, the reference's excluded
  double tokens_per_second = 0.0;
};

// Runs `model` (and `reference`) over the windows of `ids`. Both see the same tokens; logits of both are
// compared chunk by chunk, so neither a file of logits nor more than one chunk is held. The models must be
// fully loaded or loadable; vocabularies must agree (exit 3). Exit 7 (NU16) for a non-finite logit, with
// window and position. `advance` gets the rows done.
Result<EvaluateResult> evaluate(Model& model, Model* reference, std::span<const int32_t> ids,
                                std::span<const EvaluationWindow> windows, const EvaluateOptions& options,
                                const std::function<void(int64_t rows)>& advance);

// Logits of whole sequences: ids i32 [sequences, tokens] -> f32 [sequences, tokens, vocabulary].
Result<Tensor> all_logits(Model& model, const Tensor& ids, const EvaluateOptions& options);

}  // namespace pare
