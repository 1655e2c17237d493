#include "formats/gguf/block_layout.h"

#include <cstring>

#include "engine/core/assert.h"

namespace pare {
namespace {

using Bytes = const uint8_t*;

uint16_t load16(Bytes from) {
  uint16_t value = 0;
  std::memcpy(&value, from, sizeof value);
  return value;
}

uint8_t low(uint8_t byte) {
  return byte & 15u;
}
uint8_t high(uint8_t byte) {
  return uint8_t(byte >> 4);
}

// --- 32 weights -----------------------------------------------------------------------------------------

void unpack_small(const BlockScheme& scheme, Bytes from, BlockCodes& block) {
  block.d = load16(from);
  from += 2;
  if (scheme.has_minimum) {
    block.dmin = load16(from);
    from += 2;
  }
  if (scheme.bits == 8) {  // signed bytes
    for (size_t i = 0; i < 32; ++i) block.codes[i] = uint8_t(from[i] ^ 0x80u);
    return;
  }
  uint32_t fifth = 0;
  if (scheme.bits == 5) {
    std::memcpy(&fifth, from, sizeof fifth);
    from += 4;
  }
  for (size_t j = 0; j < 16; ++j) {
    block.codes[j] = uint8_t(low(from[j]) | ((fifth >> j & 1u) << 4));
    block.codes[j + 16] = uint8_t(high(from[j]) | ((fifth >> (j + 16) & 1u) << 4));
  }
}

void pack_small(const BlockScheme& scheme, const BlockCodes& block, uint8_t* to) {
  std::memcpy(to, &block.d, 2);
  to += 2;
  if (scheme.has_minimum) {
    std::memcpy(to, &block.dmin, 2);
    to += 2;
  }
  if (scheme.bits == 8) {
    for (size_t i = 0; i < 32; ++i) to[i] = uint8_t(block.codes[i] ^ 0x80u);
    return;
  }
  if (scheme.bits == 5) {
    uint32_t fifth = 0;
    for (size_t i = 0; i < 32; ++i) fifth |= uint32_t(block.codes[i] >> 4) << i;
    std::memcpy(to, &fifth, sizeof fifth);
    to += 4;
  }
  for (size_t j = 0; j < 16; ++j) to[j] = uint8_t(low(block.codes[j]) | (low(block.codes[j + 16]) << 4));
}

// --- 256 weights ----------------------------------------------------------------------------------------

// Two bits of weight i stand in byte 32h + l at 2t, with h = i / 128, t = (i mod 128) / 32, l = i mod 32.
struct Quarter {
  size_t byte;
  unsigned shift;
};
Quarter quarter_of(size_t i) {
  return {32 * (i / 128) + i % 32, unsigned(2 * (i % 128 / 32))};
}

// Q2_K: scales u8[16] (minimum above, scale below), two bits [64], d, dmin.
void unpack_q2(Bytes from, BlockCodes& block) {
  for (size_t s = 0; s < 16; ++s) {
    block.scales[s] = low(from[s]);
    block.minimums[s] = high(from[s]);
  }
  for (size_t i = 0; i < 256; ++i) {
    const Quarter at = quarter_of(i);
    block.codes[i] = (from[16 + at.byte] >> at.shift) & 3u;
  }
  block.d = load16(from + 80);
  block.dmin = load16(from + 82);
}

void pack_q2(const BlockCodes& block, uint8_t* to) {
  for (size_t s = 0; s < 16; ++s)
    to[s] = uint8_t(unsigned(block.scales[s]) | (unsigned{block.minimums[s]} << 4));
  for (size_t i = 0; i < 256; ++i) {
    const Quarter at = quarter_of(i);
    to[16 + at.byte] = uint8_t(to[16 + at.byte] | (block.codes[i] << at.shift));
  }
  std::memcpy(to + 80, &block.d, 2);
  std::memcpy(to + 82, &block.dmin, 2);
}

// Q3_K: third bits [32] (bit i / 32 of byte i mod 32), two bits [64], scales of 6 bits in 12 bytes, d.
void unpack_q3(Bytes from, BlockCodes& block) {
  Bytes scales = from + 96;
  for (size_t k = 0; k < 16; ++k) {
    const unsigned below = k < 8 ? low(scales[k]) : high(scales[k - 8]);
    const unsigned above = (scales[8 + k % 4] >> (2 * (k / 4))) & 3u;
    block.scales[k] = int16_t(int(below | (above << 4)) - 32);
  }
  for (size_t i = 0; i < 256; ++i) {
    const Quarter at = quarter_of(i);
    const unsigned third = (from[i % 32] >> (i / 32)) & 1u;
    block.codes[i] = uint8_t(((from[32 + at.byte] >> at.shift) & 3u) | (third << 2));
  }
  block.d = load16(from + 108);
}

void pack_q3(const BlockCodes& block, uint8_t* to) {
  uint8_t* scales = to + 96;
  for (size_t k = 0; k < 16; ++k) {
    const auto value = unsigned(block.scales[k] + 32);
    uint8_t& below = scales[k % 8];
    below = uint8_t(below | ((value & 15u) << (k < 8 ? 0 : 4)));
    uint8_t& above = scales[8 + k % 4];
    above = uint8_t(above | ((value >> 4) << (2 * (k / 4))));
  }
  for (size_t i = 0; i < 256; ++i) {
    const Quarter at = quarter_of(i);
    to[i % 32] = uint8_t(to[i % 32] | ((block.codes[i] >> 2) << (i / 32)));
    to[32 + at.byte] = uint8_t(to[32 + at.byte] | ((block.codes[i] & 3u) << at.shift));
  }
  std::memcpy(to + 108, &block.d, 2);
}

// Eight scales and eight minimums of 6 bits in 12 bytes: the low four pairs whole, the others in parts.
void unpack_scales_q4(Bytes from, BlockCodes& block) {
  for (size_t j = 0; j < 4; ++j) {
    block.scales[j] = from[j] & 63;
    block.minimums[j] = from[j + 4] & 63u;
    block.scales[j + 4] = int16_t(low(from[j + 8]) | ((from[j] >> 6) << 4));
    block.minimums[j + 4] = uint8_t(high(from[j + 8]) | ((from[j + 4] >> 6) << 4));
  }
}

void pack_scales_q4(const BlockCodes& block, uint8_t* to) {
  for (size_t j = 0; j < 4; ++j) {
    const auto later_scale = unsigned(block.scales[j + 4]);
    const unsigned later_minimum = block.minimums[j + 4];
    to[j] = uint8_t(unsigned(block.scales[j]) | ((later_scale >> 4) << 6));
    to[j + 4] = uint8_t(unsigned{block.minimums[j]} | ((later_minimum >> 4) << 6));
    to[j + 8] = uint8_t((later_scale & 15u) | ((later_minimum & 15u) << 4));
  }
}

// Q4_K: d, dmin, scales[12], nibbles [128]: byte 32 (i / 64) + i mod 32, low for even i / 32. Q5_K has fifth
// bits [32] before the nibbles: bit i / 32 of byte i mod 32.
void unpack_q45(bool five, Bytes from, BlockCodes& block) {
  block.d = load16(from);
  block.dmin = load16(from + 2);
  unpack_scales_q4(from + 4, block);
  Bytes fifth = from + 16, nibbles = five ? from + 48 : from + 16;
  for (size_t i = 0; i < 256; ++i) {
    const uint8_t pair = nibbles[32 * (i / 64) + i % 32];
    block.codes[i] = i / 32 % 2 == 0 ? low(pair) : high(pair);
    if (five) block.codes[i] = uint8_t(block.codes[i] | (((fifth[i % 32] >> (i / 32)) & 1u) << 4));
  }
}

void pack_q45(bool five, const BlockCodes& block, uint8_t* to) {
  std::memcpy(to, &block.d, 2);
  std::memcpy(to + 2, &block.dmin, 2);
  pack_scales_q4(block, to + 4);
  uint8_t *fifth = to + 16, *nibbles = five ? to + 48 : to + 16;
  for (size_t i = 0; i < 256; ++i) {
    uint8_t& pair = nibbles[32 * (i / 64) + i % 32];
    pair = uint8_t(pair | (low(block.codes[i]) << (i / 32 % 2 == 0 ? 0 : 4)));
    if (five) fifth[i % 32] = uint8_t(fifth[i % 32] | ((block.codes[i] >> 4) << (i / 32)));
  }
}

// Q6_K: nibbles [128], upper two bits [64], scales i8[16], d. Nibble of weight i: byte 64 h + l + 32 (t mod
// 2), low for t < 2.
size_t nibble_of_q6(size_t i) {
  return 64 * (i / 128) + i % 32 + 32 * (i % 128 / 32 % 2);
}

void unpack_q6(Bytes from, BlockCodes& block) {
  for (size_t i = 0; i < 256; ++i) {
    const Quarter at = quarter_of(i);
    const uint8_t pair = from[nibble_of_q6(i)];
    const uint8_t below = i % 128 < 64 ? low(pair) : high(pair);
    block.codes[i] = uint8_t(below | (((from[128 + at.byte] >> at.shift) & 3u) << 4));
  }
  for (size_t s = 0; s < 16; ++s) block.scales[s] = int8_t(from[192 + s]);
  block.d = load16(from + 208);
}

void pack_q6(const BlockCodes& block, uint8_t* to) {
  for (size_t i = 0; i < 256; ++i) {
    const Quarter at = quarter_of(i);
    uint8_t& pair = to[nibble_of_q6(i)];
    pair = uint8_t(pair | (low(block.codes[i]) << (i % 128 < 64 ? 0 : 4)));
    to[128 + at.byte] = uint8_t(to[128 + at.byte] | ((block.codes[i] >> 4) << at.shift));
  }
  for (size_t s = 0; s < 16; ++s) to[192 + s] = uint8_t(block.scales[s]);
  std::memcpy(to + 208, &block.d, 2);
}

void check_fields(const BlockScheme& scheme, const BlockCodes& block) {
  unsigned seen = 0;
  for (int i = 0; i < scheme.block; ++i) seen |= block.codes[size_t(i)];
  PARE_ASSERT(seen >> scheme.bits == 0, "[gguf] a code does not fit into {} bits", scheme.bits);
  if (!scheme.has_two_levels()) return;
  const int low_end = scheme.signed_scales ? -(1 << (scheme.scale_bits - 1)) : 0;
  const int high_end = low_end + (1 << scheme.scale_bits) - 1;
  for (int g = 0; g < scheme.groups(); ++g) {
    PARE_ASSERT(block.scales[size_t(g)] >= low_end && block.scales[size_t(g)] <= high_end, "[gguf] scale {}",
                block.scales[size_t(g)]);
    PARE_ASSERT(!scheme.has_minimum || block.minimums[size_t(g)] <= high_end, "[gguf] minimum {}",
                block.minimums[size_t(g)]);
  }
}

}  // namespace

void unpack_gguf_block(GgufType type, const std::byte* bytes, BlockCodes& block) {
  const auto* from = reinterpret_cast<Bytes>(bytes);
  switch (type) {
    case GgufType::q2_k:
      return unpack_q2(from, block);
    case GgufType::q3_k:
      return unpack_q3(from, block);
    case GgufType::q4_k:
      return unpack_q45(false, from, block);
    case GgufType::q5_k:
      return unpack_q45(true, from, block);
    case GgufType::q6_k:
      return unpack_q6(from, block);
    default:
      return unpack_small(*gguf_type_info(type).blocks, from, block);
  }
}

void pack_gguf_block(GgufType type, const BlockCodes& block, std::byte* bytes) {
  const GgufTypeInfo& info = gguf_type_info(type);
  check_fields(*info.blocks, block);
  auto* to = reinterpret_cast<uint8_t*>(bytes);
  std::memset(to, 0, info.block_bytes);
  switch (type) {
    case GgufType::q2_k:
      return pack_q2(block, to);
    case GgufType::q3_k:
      return pack_q3(block, to);
    case GgufType::q4_k:
      return pack_q45(false, block, to);
    case GgufType::q5_k:
      return pack_q45(true, block, to);
    case GgufType::q6_k:
      return pack_q6(block, to);
    default:
      return pack_small(*info.blocks, block, to);
  }
}

}  // namespace pare
