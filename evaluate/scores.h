// evaluate/scores.h: from logits to what is collected per scored token, for one model or two on the same
// tokens.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engine/core/result.h"
#include "engine/models/model.h"
#include "evaluate/statistics.h"

namespace pare {

// One entry per scored token, in order.
struct TokenScores {
  std::vector<double> nll, reference_nll, kl;  // the last two only with a reference, as the bests
  std::vector<int32_t> best, reference_best;   // ids with the largest logit, ties to the smallest
  std::vector<int64_t> positions;              // of the predicted token in the stream
  std::vector<int64_t> window_sizes;           // scored tokens of each window

  std::vector<uint8_t> same_best() const;
  // Indices of the `count` entries with the largest KL (without a reference: nll), largest first.
  std::vector<size_t> worst(size_t count) const;
};

// Rows of one window whose logits are at hand; row i predicts ids[first_target + i].
struct ScoredRows {
  std::span<const int32_t> targets;
  size_t window = 0;
  int64_t row = 0;           // of the first one inside its window
  int64_t first_target = 0;  // its position in the stream
};

// Buffers for up to `rows` rows.
class RowScorer {
 public:
  // reference: nullptr when there is none. Both must outlive the scorer. Exit 6.
  static Result<RowScorer> make(int64_t rows, const Model& model, const Model* reference);
  // logits f32 [targets, vocabulary]; reference_logits the same, or undefined. Appends to `scores` all but
  // window_sizes. Exit 7 (NU16) for a logit that is not finite, with window and position.
  Status score(const ScoredRows& rows, const Tensor& logits, const Tensor& reference_logits,
               TokenScores& scores);

 private:
  struct Buffers {
    Tensor targets, log_sum_exp, nll, best;  // where the model computes
    static Result<Buffers> allocate(int64_t rows, Device device);
    Buffers first(int64_t rows) const;
  };
  RowScorer(const Model& model, const Model* reference) : model_(&model), reference_(reference) {}
  const Model* model_;
  const Model* reference_;
  Buffers own_, other_;
  Tensor kl_;
};

// Exit 3 (CF09) when token ids of the two do not mean the same rows.
Status check_vocabularies(const Model& model, const Model& reference);
// Exit 3 (TK20) for an id without a row in the embedding.
Status check_ids(const Model& model, std::span<const int32_t> ids);

}  // namespace pare
