// engine/run/sampler.h: from logits to the next token. Order as Hugging Face: repetition penalty,
// temperature, top-k, top-p, min-p, softmax, sample. Source: docs/methods.md.
#pragma once

#include <cstdint>
#include <span>

#include "engine/core/result.h"

namespace pare {

struct SamplerOptions {
  double temperature = 0.0;         // 0: greedy
  int64_t top_k = 0;                // 0: off
  double top_p = 1.0;               // (0, 1]
  double min_p = 0.0;               // [0, 1)
  double repetition_penalty = 1.0;  // > 0
  uint64_t seed = 0;
};

// Exit 2 for a value outside its range.
Status check_sampler_options(const SamplerOptions& options);

class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options) : options_(options) {}
  // `logits` is changed; `history` holds prompt and output; `step` numbers the draw. Ties go to the smallest
  // id. Exit 7 when a logit is NaN or plus infinity, or when all are minus infinity (which means "never").
  Result<int32_t> next(std::span<float> logits, std::span<const int32_t> history, uint64_t step) const;

 private:
  SamplerOptions options_;
};

}  // namespace pare
