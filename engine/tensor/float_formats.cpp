// Bit-level conversions; see float_formats.h. A float is written into a narrow format in two ways: values in
// the normal range by adding half a unit to the bit pattern, smaller ones by adding a power of two whose last
// bit is the narrow format's smallest step, so that the addition itself rounds to nearest even.
#include "engine/tensor/float_formats.h"

namespace pare {
namespace {

constexpr uint32_t kFloatInfinity = 0x7f800000u;

// Code of |value| (bits without sign, finite or infinite) with `kFractionBits`, exponent bias `kBias`. Codes
// beyond the largest finite one come out as they fall; the caller saturates or replaces them.
template <int kFractionBits, int kBias>
uint32_t round_magnitude(uint32_t magnitude) {
  constexpr int kShift = 23 - kFractionBits;
  constexpr uint32_t kSmallestNormal = uint32_t(127 - kBias + 1) << 23;
  if (magnitude < kSmallestNormal) {
    // smallest step 2^(1 - bias - fraction bits); a float of 2^23 times that has it as its last bit
    constexpr uint32_t kMagic = uint32_t(127 + 23 + 1 - kBias - kFractionBits) << 23;
    const float rounded = std::bit_cast<float>(magnitude) + std::bit_cast<float>(kMagic);
    return std::bit_cast<uint32_t>(rounded) - kMagic;
  }
  const uint32_t half = (1u << (kShift - 1)) - 1 + ((magnitude >> kShift) & 1u);
  return (magnitude + half - (uint32_t(127 - kBias) << 23)) >> kShift;
}

}  // namespace

float f16_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t fraction = bits & 0x3ffu;
  if (exponent == 0) {
    const float magnitude = float(fraction) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
  }
  if (exponent == 0x1f) return std::bit_cast<float>(sign | kFloatInfinity | (fraction << 13));
  return std::bit_cast<float>(sign | ((exponent + 112u) << 23) | (fraction << 13));
}

uint16_t float_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > kFloatInfinity) return uint16_t(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  const uint32_t code = magnitude == kFloatInfinity ? 0x7c00u : round_magnitude<10, 15>(magnitude);
  return uint16_t(sign | (code < 0x7c00u ? code : 0x7c00u));
}

float f8_e4m3_to_float(uint8_t bits) {
  const uint32_t sign = uint32_t(bits & 0x80u) << 24;
  const uint32_t magnitude = bits & 0x7fu;
  if (magnitude == 0x7fu) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (magnitude < 8) return std::bit_cast<float>(std::bit_cast<uint32_t>(float(magnitude) * 0x1p-9f) | sign);
  return std::bit_cast<float>(sign | ((magnitude << 20) + (120u << 23)));
}

uint8_t float_to_f8_e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > kFloatInfinity) return uint8_t(sign | 0x7fu);
  constexpr uint32_t kLargest = 0x7eu;  // 448
  const uint32_t code = round_magnitude<3, 7>(magnitude);
  return uint8_t(sign | (code < kLargest ? code : kLargest));
}

// e5m2 is the upper byte of f16
float f8_e5m2_to_float(uint8_t bits) {
  return f16_to_float(uint16_t(uint32_t(bits) << 8));
}

uint8_t float_to_f8_e5m2(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > kFloatInfinity) return uint8_t(sign | 0x7fu);
  constexpr uint32_t kLargest = 0x7bu;  // 57344
  const uint32_t code = round_magnitude<2, 15>(magnitude);
  return uint8_t(sign | (code < kLargest ? code : kLargest));
}

}  // namespace pare
