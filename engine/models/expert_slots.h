// engine/models/expert_slots.h: how the staged forward of a mixture of experts hands over what the down
// projections get.
//
// The row of a token has one slot per chosen expert, by rising number of the expert: the number, the share of
// the expert's output in the sum, then the input of its down. So a row knows where it goes, whatever happens
// to the router meanwhile, and takes per_token / experts of what all experts would need.
#pragma once

#include <vector>

#include "engine/models/model_config.h"
#include "engine/tensor/tensor.h"

namespace pare {

struct ExpertSlots {
  int64_t per_token = 0;  // slots of a row
  int64_t channels = 0;   // inputs of a down projection

  static ExpertSlots of(const BlockConfig& block) {
    return {block.experts_per_token, block.intermediate_size};
  }
  int64_t slot_width() const { return channels + 2; }
  int64_t row_width() const { return per_token * slot_width(); }

  // The slot of a row; x f32 [tokens, row_width()].
  float* at(const Tensor& x, int64_t row, int64_t slot) const {
    return x.mutable_data<float>() + row * x.row_stride() + slot * slot_width();
  }
  static int expert(const float* slot) { return int(slot[0]); }
  static float share(const float* slot) { return slot[1]; }
  static float* values(float* slot) { return slot + 2; }

  // The inputs that one expert gets from rows [begin, end) of x, in the order of the tokens, into the first
  // rows of out f32 [>= end - begin, channels]. Returns how many.
  int64_t gather(const Tensor& x, int64_t begin, int64_t end, int expert, Tensor& out) const;
  // The shares that the same rows give the expert, in the order of all tokens of x.
  void shares(const Tensor& x, int expert, std::vector<float>& out) const;
  // Moves the inputs of all slots to the front of x, which is used up: f32 [tokens * per_token, channels].
  Tensor compact(const Tensor& x) const;
};

// Floats of a row of mlp_out in the staged forward of a block.
inline int64_t mlp_out_width(const BlockConfig& block) {
  return block.is_mixture() ? ExpertSlots::of(block).row_width() : block.intermediate_size;
}

}  // namespace pare
