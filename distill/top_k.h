// distill/top_k.h: the k largest logits of a row, and how much probability the others have.
//
// Logits are given as their distance from the largest of the row (z <= 0), rounded to f16 or bf16: a constant
// added to all logits changes no probability, and small numbers round finely. With K the k ids and ~z rounded
// values,
//   log_sum_tau = log( sum_{i in K} exp(~z_i / tau) + sum_{i not in K} exp(z_i / tau) ),
// so exp(~z_i / tau - log_sum_tau) over K and what is missing from 1 are a distribution: that of a teacher
// whose k logits are exactly the rounded ones. Of equal logits the lower id is chosen.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "calibrate/vector_level.h"
#include "engine/tensor/dtype.h"

namespace pare {

// ~z at least: finite in both types, and probability zero.
inline constexpr float kLeastLogit = -65504.0f;

struct TopKRow {
  std::vector<int32_t> ids;             // [k], ascending
  std::vector<uint16_t> logits;         // [k], ~z as bits of f16 or bf16
  float log_sum = 0.0f;                 // at temperature 1
  float log_sum_at_temperature = 0.0f;  // at tau
};

// Finds the rows of one teacher; holds scratch memory of about 4 bytes per id. One per thread.
class TopKFinder {
 public:
  // 1 <= k <= vocabulary; temperature > 0; logit_type f16 or bf16. The level decides the speed only.
  TopKFinder(int64_t vocabulary, int64_t k, double temperature, DType logit_type,
             VectorLevel level = host_vector_level());

  // False when a logit is NaN or +inf; -inf is an id without probability. `row` has its vectors sized by the
  // first use.
  bool find(const float* logits, TopKRow& row);

 private:
  struct Candidate {
    float logit;
    int32_t id;
  };
  float threshold(const float* logits, float& largest, bool& is_sound);
  double tail(const float* logits, float largest, float least_chosen, float inverse_temperature) const;

  int64_t vocabulary_, k_, group_rows_;
  double temperature_;
  DType logit_type_;
  VectorLevel level_;
  std::vector<float> maxima_;
  std::unique_ptr<int32_t[]> found_;
  std::vector<Candidate> candidates_;
};

}  // namespace pare
