// quantize/k_quants.h: codes and scales of one block of weights for formats whose blocks carry scales of one
// or two levels (engine/tensor/block_codes.h). A search, not a layout.
//
// Scales are rounded to their storage first, and the codes are derived from the rounded scales. Source:
// docs/methods.md; the weights of importance follow the practice of the format.
#pragma once

#include <span>

#include "engine/tensor/block_codes.h"

namespace pare {

enum class BlockFault : uint8_t {
  none,
  too_large,  // a scale beyond the largest f16
};

struct BlockSearch {
  bool search = true;  // false: one level only, plain rounding as other programs do it
};

// values: scheme.block weights, finite. importance: as many, E[x^2] of each column, or empty: then a weight
// counts by its own size. row_mean_square: mean of w^2 over the whole row (blocks of one level) - two levels
// take it over the block.
BlockFault quantize_block(const BlockScheme& scheme, std::span<const float> values,
                          std::span<const float> importance, float row_mean_square,
                          const BlockSearch& options, BlockCodes& out);

// What each weight's squared error counts.
void block_error_weights(const BlockScheme& scheme, std::span<const float> values,
                         std::span<const float> importance, float row_mean_square, float* weights);

}  // namespace pare
