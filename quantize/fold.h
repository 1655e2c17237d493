// quantize/fold.h: scaling the input channels of linears up and their producer down, which changes nothing
// but how well the weights round. Source: docs/methods.md.
#pragma once

#include <span>
#include <string>

#include "calibrate/step.h"

namespace pare {

// Whether the inputs of `site` can be rescaled exactly in this block: a norm or a linear of its own produces
// them, through nothing but multiplication by the scale. `reason` says why not.
//   attention_in: the norm; q, k, v         attention_out: rows of v (one scale per KV channel); o
//   mlp_in: the norm; gate, up              mlp_out: rows of up, when gated or ReLU; down
bool can_fold(const BlockEdit& block, Site site, std::string* reason = nullptr);

// Multiplies the input channels of the site's linears by `scale` [channels] and divides their producer by it.
// Exit 7 (NU17) for a scale that is not positive and below 1e30. Norms become f32; linears become f32 until
// they are rounded. At attention_out the scale must be equal for channels that share a KV channel
// (share_kv_scale).
Status fold_scale(BlockEdit& block, Site site, std::span<const float> scale);

// Averages `values` [heads * head_dim] over the query heads that share a KV head.
void share_kv(const BlockConfig& shape, std::span<float> values);

}  // namespace pare
