// engine/models/rope.h: tables of rotary embeddings, computed in float as Hugging Face does.
//
// angle[p, k] = p * inverse_frequency[k], tables hold cos and sin of it times the attention factor. `dynamic`
// and `longrope` have frequencies that depend on the length of the sequence; their tables change when it
// crosses the limit.
#pragma once

#include <vector>

#include "engine/core/result.h"
#include "engine/models/model_config.h"
#include "engine/tensor/tensor.h"

namespace pare {

struct RotaryFrequencies {
  std::vector<float> inverse;  // [rotary_dim / 2]
  float attention_factor = 1.0f;
};
// For sequences of `length` positions.
RotaryFrequencies rotary_frequencies(const RopeConfig& rope, int64_t rotary_dim, int64_t max_positions,
                                     int64_t length);

class RotaryTable {
 public:
  RotaryTable(const RopeConfig& rope, int64_t head_dim, int64_t max_positions, Device device);

  // Makes the tables right for sequences of `length` positions; allocates only when they must grow. Exit 6.
  Status reserve(int64_t length);

  // f32 [positions, rotary_dim / 2]
  const Tensor& cosines() const { return cosines_; }
  const Tensor& sines() const { return sines_; }
  int64_t head_dim() const { return head_dim_; }

 private:
  // Two lengths with the same variant share frequencies.
  int64_t variant(int64_t length) const;

  RopeConfig rope_;
  int64_t head_dim_, rotary_dim_, max_positions_;
  Device device_;
  int64_t rows_ = 0, variant_ = -1;
  Tensor cosines_, sines_;
};

}  // namespace pare
