// engine/tensor/float_formats.h: scalar conversions between float and the narrow formats. Round to nearest
// even. The definition that vector kernels are tested against.
#pragma once

#include <bit>
#include <cstdint>

namespace pare {

inline float bf16_to_float(uint16_t bits) {
  return std::bit_cast<float>(uint32_t(bits) << 16);
}
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40u);  // quiet the NaN
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float f16_to_float(uint16_t bits);
uint16_t float_to_f16(float value);     // |x| >= 65520 gives infinity
float f8_e4m3_to_float(uint8_t bits);   // FN form: no infinity, 0x7f is NaN, largest 448
uint8_t float_to_f8_e4m3(float value);  // saturates at 448; NaN stays NaN
float f8_e5m2_to_float(uint8_t bits);
uint8_t float_to_f8_e5m2(float value);  // saturates at 57344; NaN stays NaN

}  // namespace pare
