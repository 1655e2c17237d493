// engine/tensor/integer_product.h: what the product of rounded activations with integer codes is; shared by
// all backends, so that they agree to the last bit.
//
// The columns of a row fall into segments: the groups of the scheme, cut further where the sum of products
// could leave int32. With codes c and zero z of the weight, codes q and zero y of the activations, over the
// segments S in order:
//   acc_S = sum over S of (q - y) (c - z)                               exactly, in int32
//   out   = sum_S (scale_x * scale_w,S) * float(acc_S) + bias           each operation rounded to float, no
//   fma
// Source: docs/numerics.md.
#pragma once

#include <algorithm>
#include <cstdint>

#include "engine/core/result.h"
#include "engine/tensor/quantized_tensor.h"

namespace pare {

// Exit 4 for weights that have no integer product: float codes, codebooks, float offsets, groups in another
// order of columns, and activations of other than 8 bits.
Status check_integer_product(const QuantScheme& scheme, const ActivationQuant& activation,
                             bool has_group_index);

struct IntegerSegments {
  int64_t in = 0, group_width = 0, groups = 0;
  int64_t widest = 0;     // columns whose products always fit into int32, a multiple of 64
  int64_t per_group = 0;  // segments of a whole group
  int64_t count = 0;

  IntegerSegments(const QuantScheme& scheme, const ActivationQuant& activation, int64_t in_features);

  int64_t group_of(int64_t segment) const { return segment / per_group; }
  int64_t begin(int64_t segment) const {
    return group_of(segment) * group_width + segment % per_group * widest;
  }
  int64_t end(int64_t segment) const {
    return std::min({begin(segment) + widest, (group_of(segment) + 1) * group_width, in});
  }
};

// How one token was rounded.
struct RoundedRow {
  float scale = 1.0f;  // NaN when the row holds a NaN or an infinity
  int zero_point = 0;
};

// The definition: x [count] to codes [count].
RoundedRow round_activations(const ActivationQuant& activation, const float* x, int64_t count, int8_t* codes);

// The grid of a token whose values lie within [low, high], low <= 0 <= high, both finite.
RoundedRow activation_grid(const ActivationQuant& activation, float low, float high);

}  // namespace pare
