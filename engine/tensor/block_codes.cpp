#include "engine/tensor/block_codes.h"

#include <cstddef>

#include "engine/tensor/float_formats.h"

namespace pare {

GroupValues group_values(const BlockScheme& scheme, const BlockCodes& block, int group) {
  const float d = f16_to_float(block.d), dmin = f16_to_float(block.dmin);
  if (!scheme.has_two_levels()) return {d, scheme.has_minimum ? dmin : 0.0f};
  const auto g = static_cast<std::size_t>(group);
  return {d * float(block.scales[g]), scheme.has_minimum ? -(dmin * float(block.minimums[g])) : 0.0f};
}

void decode_block(const BlockScheme& scheme, const BlockCodes& block, float* out) {
  const int zero = scheme.code_of_zero();
  for (int group = 0; group < scheme.groups(); ++group) {
    const GroupValues values = group_values(scheme, block, group);
    for (int i = group * scheme.group; i < (group + 1) * scheme.group; ++i) {
      const float product = values.scale * float(int{block.codes[static_cast<std::size_t>(i)]} - zero);
      out[i] = scheme.has_minimum ? values.minimum + product : product;
    }
  }
}

}  // namespace pare
