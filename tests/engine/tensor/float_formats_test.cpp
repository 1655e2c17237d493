// Every code of the narrow formats, against a definition by powers of two.
#include "engine/tensor/float_formats.h"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

namespace pare {
namespace {

// Value of a code by the definition of the format: (-1)^s 2^(e - bias) (1 + f / 2^n), or 2^(1 - bias) f /
// 2^n.
double define(unsigned code, int exponent_bits, int fraction_bits, int bias) {
  const unsigned fraction = code & ((1u << fraction_bits) - 1);
  const int exponent = int((code >> fraction_bits) & ((1u << exponent_bits) - 1));
  const double sign = ((code >> (exponent_bits + fraction_bits)) & 1u) != 0 ? -1.0 : 1.0;
  const double part = std::ldexp(double(fraction), -fraction_bits);
  return sign * (exponent == 0 ? std::ldexp(part, 1 - bias) : std::ldexp(1.0 + part, exponent - bias));
}

bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

TEST(FloatFormatsTest, AllHalfCodes) {
  for (unsigned code = 0; code < 65536; ++code) {
    const float value = f16_to_float(uint16_t(code));
    if (((code >> 10) & 0x1f) == 0x1f) {
      EXPECT_EQ(std::isnan(value), (code & 0x3ff) != 0) << code;
      EXPECT_EQ(std::isinf(value), (code & 0x3ff) == 0) << code;
      EXPECT_EQ(std::signbit(value), code >= 0x8000) << code;
      EXPECT_EQ(std::isnan(f16_to_float(float_to_f16(value))), std::isnan(value)) << code;
    } else {
      EXPECT_TRUE(same_bits(value, float(define(code, 5, 10, 15)))) << code;
      EXPECT_EQ(float_to_f16(value), code) << "a value of the format is kept";
    }
  }
}

TEST(FloatFormatsTest, AllBfloat16Codes) {
  for (unsigned code = 0; code < 65536; ++code) {
    const float value = bf16_to_float(uint16_t(code));
    if (((code >> 7) & 0xff) == 0xff) {
      EXPECT_EQ(std::isnan(value), (code & 0x7f) != 0) << code;
      const unsigned back = float_to_bf16(value);
      EXPECT_EQ(back & 0xff80u, code & 0xff80u) << code;
      EXPECT_EQ((back & 0x7fu) != 0, (code & 0x7fu) != 0) << "NaN stays NaN, infinity stays infinity";
    } else {
      EXPECT_TRUE(same_bits(value, float(define(code, 8, 7, 127)))) << code;
      EXPECT_EQ(float_to_bf16(value), code);
    }
  }
}

TEST(FloatFormatsTest, AllE4m3Codes) {
  for (unsigned code = 0; code < 256; ++code) {
    const float value = f8_e4m3_to_float(uint8_t(code));
    if ((code & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value)) << "the only NaN, and no infinity";
      EXPECT_EQ(float_to_f8_e4m3(value), code);
    } else {
      EXPECT_TRUE(same_bits(value, float(define(code, 4, 3, 7)))) << code;
      EXPECT_EQ(float_to_f8_e4m3(value), code);
    }
  }
}

TEST(FloatFormatsTest, AllE5m2Codes) {
  for (unsigned code = 0; code < 256; ++code) {
    const float value = f8_e5m2_to_float(uint8_t(code));
    if ((code & 0x7c) == 0x7c) {
      EXPECT_EQ(std::isnan(value), (code & 3) != 0);
      EXPECT_EQ(std::isinf(value), (code & 3) == 0);
    } else {
      EXPECT_TRUE(same_bits(value, float(define(code, 5, 2, 15)))) << code;
      EXPECT_EQ(float_to_f8_e5m2(value), code);
    }
  }
}

// Open Compute Project, "8-bit floating point specification", tables 1 and 2; IEEE 754 binary16.
TEST(FloatFormatsTest, PublishedExtremes) {
  EXPECT_EQ(f8_e4m3_to_float(0x7e), 448.0f);
  EXPECT_EQ(f8_e4m3_to_float(0x08), 0x1p-6f);
  EXPECT_EQ(f8_e4m3_to_float(0x01), 0x1p-9f);
  EXPECT_EQ(f8_e5m2_to_float(0x7b), 57344.0f);
  EXPECT_EQ(f8_e5m2_to_float(0x04), 0x1p-14f);
  EXPECT_EQ(f8_e5m2_to_float(0x01), 0x1p-16f);
  EXPECT_EQ(f16_to_float(0x7bff), 65504.0f);
  EXPECT_EQ(f16_to_float(0x0400), 0x1p-14f);
  EXPECT_EQ(f16_to_float(0x0001), 0x1p-24f);
  EXPECT_EQ(f16_to_float(0x3555), 0.333251953125f);
  EXPECT_EQ(bf16_to_float(0x7f7f), 3.38953138925e38f);
  EXPECT_EQ(bf16_to_float(0x4049), 3.140625f);
}

// Between each pair of neighbouring codes: the midpoint goes to the even one, and the next floats on either
// side of it to the nearer one.
template <typename Code>
void check_ties(Code largest, float (*decode)(Code), Code (*encode)(float)) {
  for (unsigned code = 0; code < largest; ++code) {
    const double low = double(decode(Code(code))), high = double(decode(Code(code + 1)));
    const float middle = float((low + high) / 2.0);
    ASSERT_EQ(double(middle), (low + high) / 2.0);
    const Code even = Code(code % 2 == 0 ? code : code + 1);
    const Code sign = Code(1u << (8 * sizeof(Code) - 1));
    ASSERT_EQ(encode(middle), even) << code;
    ASSERT_EQ(encode(std::nextafter(middle, 0.0f)), code) << code;
    ASSERT_EQ(encode(std::nextafter(middle, INFINITY)), code + 1) << code;
    ASSERT_EQ(encode(-middle), Code(even | sign)) << code;
  }
}

TEST(FloatFormatsTest, RoundsToNearestEven) {
  check_ties<uint16_t>(0x7bff, f16_to_float, float_to_f16);
  check_ties<uint16_t>(0x7f7f, bf16_to_float, float_to_bf16);
  check_ties<uint8_t>(0x7e, f8_e4m3_to_float, float_to_f8_e4m3);
  check_ties<uint8_t>(0x7b, f8_e5m2_to_float, float_to_f8_e5m2);
}

TEST(FloatFormatsTest, Overflow) {
  EXPECT_EQ(float_to_f16(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(float_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_f16(-1e30f), 0xfc00);
  EXPECT_EQ(float_to_f16(INFINITY), 0x7c00);
  EXPECT_EQ(float_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(float_to_f8_e4m3(449.0f), 0x7e);
  EXPECT_EQ(float_to_f8_e4m3(1e30f), 0x7e);
  EXPECT_EQ(float_to_f8_e4m3(-INFINITY), 0xfe);
  EXPECT_EQ(float_to_f8_e5m2(1e30f), 0x7b);
  EXPECT_EQ(float_to_f8_e5m2(-INFINITY), 0xfb);
}

TEST(FloatFormatsTest, NanZeroAndSubnormals) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(f16_to_float(float_to_f16(nan))));
  EXPECT_TRUE(std::isnan(bf16_to_float(float_to_bf16(std::bit_cast<float>(0x7f800001u)))))
      << "low bits of the NaN";
  EXPECT_TRUE(std::isnan(f8_e4m3_to_float(float_to_f8_e4m3(-nan))));
  EXPECT_TRUE(std::isnan(f8_e5m2_to_float(float_to_f8_e5m2(nan))));
  EXPECT_EQ(float_to_f16(-0.0f), 0x8000);
  EXPECT_EQ(float_to_bf16(-0.0f), 0x8000);
  EXPECT_EQ(float_to_f8_e4m3(-0.0f), 0x80);
  const float tiny = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(float_to_f16(tiny), 0);
  EXPECT_EQ(float_to_f8_e4m3(-tiny), 0x80);
  EXPECT_EQ(float_to_bf16(bf16_to_float(0x0001)), 0x0001) << "subnormals of bf16 pass through";
}

}  // namespace
}  // namespace pare
