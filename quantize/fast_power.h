// quantize/fast_power.h: powers of positive numbers for objectives that only rank candidates. Short
// polynomials on the bits: loops over them vectorise, and the result is the same on every machine, which that
// of a math library is not.
#pragma once

#include <bit>
#include <cstdint>

namespace pare {

// Relative error below 2e-6. x: positive and normal.
inline float fast_log2(float x) {
  const int32_t bits = std::bit_cast<int32_t>(x);
  const float exponent = float((bits >> 23) - 127);
  const float m = std::bit_cast<float>((bits & 0x007fffff) | 0x3f800000) - 1.0f;  // [0, 1)
  const float u = m / (m + 2.0f), v = u * u;  // log2(1 + m) = 2/ln2 atanh(m / (m + 2))
  return exponent +
         2.88539008f * u * (1.0f + v * (0.333333333f + v * (0.2f + v * (0.142857143f + v * 0.111111f))));
}

// x in [-126, 127].
inline float fast_exp2(float x) {
  const float whole = (x + 12582912.0f) - 12582912.0f;  // to the nearest integer, |x| < 2^22
  const float f = (x - whole) * 0.693147181f;
  const float p =
      1.0f + f * (1.0f + f * (0.5f + f * (0.166666667f + f * (0.0416666667f + f * 0.00833333333f))));
  return p * std::bit_cast<float>((int32_t(whole) + 127) << 23);
}

}  // namespace pare
