// engine/tensor/block_codes.h: one block of a row as codes with their scales, before any layout. What a
// search for scales gives and what a file of blocks stores: the meaning, not the bytes.
//
// One level (scale_bits 0; the block is one group):
//   without minimum:  real = d * (code - 2^(bits-1))
//   with minimum:     real = minimum + d * code
// Two levels (groups inside a super-block share d and dmin):
//   without minimum:  real = (d * scale[g]) * (code - 2^(bits-1))
//   with minimum:     real = (d * scale[g]) * code - dmin * minimum[g]
// All products in float, in this order. Source: docs/interop.md, "GGUF".
#pragma once

#include <array>
#include <cstdint>

namespace pare {

struct BlockScheme {
  int bits = 4;    // of a code, 2 to 8
  int block = 32;  // weights of a block: 32 or 256
  int group = 32;  // weights that share a scale
  bool has_minimum = false;
  int scale_bits = 0;          // of a group's scale; 0: one level
  bool signed_scales = false;  // two's complement of scale_bits bits; else 0 to 2^scale_bits - 1

  bool operator==(const BlockScheme&) const = default;
  int groups() const { return block / group; }
  bool has_two_levels() const { return scale_bits > 0; }
  int highest_code() const { return (1 << bits) - 1; }
  int code_of_zero() const { return has_minimum ? 0 : 1 << (bits - 1); }
};

struct BlockCodes {
  static constexpr int kMaxBlock = 256;
  static constexpr int kMaxGroups = 16;

  uint16_t d = 0;     // f16
  uint16_t dmin = 0;  // f16; one level: the minimum itself
  std::array<int16_t, kMaxGroups> scales{};
  std::array<uint8_t, kMaxGroups> minimums{};
  std::array<uint8_t, kMaxBlock> codes{};
};

// Scale and minimum of a group as floats: real = minimum + scale * (code - code_of_zero).
struct GroupValues {
  float scale = 0.0f;
  float minimum = 0.0f;
};
GroupValues group_values(const BlockScheme& scheme, const BlockCodes& block, int group);

// The definition of the block: `scheme.block` floats.
void decode_block(const BlockScheme& scheme, const BlockCodes& block, float* out);

}  // namespace pare
