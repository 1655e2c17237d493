// QuantScheme: text, JSON, sizes, error bounds.
#include "engine/tensor/quant_scheme.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "engine/core/random.h"

namespace pare {
namespace {

TEST(QuantSchemeTest, CanonicalTextsAreKept) {
  for (const char* text : {"int8-ch-sym",
                           "int8-tensor-sym",
                           "int8-ch-asym",
                           "int8-ch-sym-full",
                           "int4-g128-sym",
                           "int4-g64-asym",
                           "int4-g64-asymf",
                           "int4-g128-sym-narrow",
                           "int2-g16-asym",
                           "int3-ch-sym",
                           "int7-g1-sym",
                           "nf4-g64",
                           "nf4-ch",
                           "fp8-e4m3-ch",
                           "fp8-e5m2-tensor",
                           "fp8-e4m3-g128-sf32",
                           "int4-g128-sym-sbf16",
                           "int4-g32-asymf-sf32",
                           "int4-g128-sym-narrow-sf32",
                           "codebook3-g256",
                           "codebook8-ch-sf32"}) {
    const auto scheme = QuantScheme::parse(text);
    ASSERT_TRUE(scheme) << format_error(scheme.error());
    EXPECT_EQ(scheme->text(), text);
    EXPECT_EQ(*QuantScheme::parse(scheme->text()), *scheme);
  }
}

TEST(QuantSchemeTest, WhatPeopleWrite) {
  const std::pair<const char*, const char*> cases[] = {{"int8", "int8-ch-sym"},
                                                       {"int4", "int4-g128-sym"},
                                                       {"int5", "int5-g128-sym"},
                                                       {"int4-asym", "int4-g128-asym"},
                                                       {"int4-asym-g64", "int4-g64-asym"},
                                                       {"int8-tensor", "int8-tensor-sym"},
                                                       {"int8-channel", "int8-ch-sym"},
                                                       {"nf4", "nf4-g64"},
                                                       {"nf4-g64-sym", "nf4-g64"},
                                                       {"fp8", "fp8-e4m3-ch"},
                                                       {"fp8-e4m3", "fp8-e4m3-ch"},
                                                       {"fp8-ch-e5m2", "fp8-e5m2-ch"},
                                                       {"int8-narrow", "int8-ch-sym"},
                                                       {"int4-full", "int4-g128-sym"},
                                                       {"int4-sf16", "int4-g128-sym"},
                                                       {"int4-sbf16-sym-g32", "int4-g32-sym-sbf16"},
                                                       {"codebook4", "codebook4-ch"},
                                                       {"kmeans4-g64", "codebook4-g64"},
                                                       {"kmeans3", "codebook3-ch"}};
  for (const auto& [written, canonical] : cases) {
    const auto scheme = QuantScheme::parse(written);
    ASSERT_TRUE(scheme) << written;
    EXPECT_EQ(scheme->text(), canonical);
  }
}

TEST(QuantSchemeTest, Defaults) {
  const QuantScheme int8 = *QuantScheme::parse("int8");
  EXPECT_EQ(int8.range, QuantScheme::Range::narrow);
  EXPECT_EQ(int8.scale_dtype, DType::f16);
  EXPECT_EQ(int8.group_size, 0);
  const QuantScheme int4 = *QuantScheme::parse("int4");
  EXPECT_EQ(int4.range, QuantScheme::Range::full);
  EXPECT_EQ(int4.symmetric_zero_point(), 8);
  EXPECT_EQ(int4.code_count(), 16);
}

TEST(QuantSchemeTest, RefusalsNameThePart) {
  const std::pair<const char*, const char*> cases[] = {
      {"", ""},
      {"int1", "int1"},
      {"int9", "int9"},
      {"int16", "int16"},
      {"INT8", "INT8"},
      {"int4-g0", "g0"},
      {"int4-g-1", "g"},
      {"int4-g12x", "g12x"},
      {"int4-", ""},
      {"int4-g64-g32", "g32"},
      {"int4-sym-asym", "asym"},
      {"int4-ch-tensor", "tensor"},
      {"nf4-asym", "asym"},
      {"fp8-e3m4", "e3m4"},
      {"int8-e4m3", "e4m3"},
      {"fp8-narrow", "narrow"},
      {"int4-asym-full", "full"},
      {"int4-sf64", "sf64"},
      {"codebook1", "codebook1"},
      {"kmeans9-g64", "kmeans9"},
      {"int4-g99999999999999999999", "g99999999999999999999"},
      {"int4 -g64", "int4 "}};
  for (const auto& [text, part] : cases) {
    const auto scheme = QuantScheme::parse(text);
    ASSERT_FALSE(scheme) << text;
    EXPECT_EQ(scheme.error().exit, Exit::usage) << text;
    EXPECT_EQ(scheme.error().got, "\"" + std::string(part) + "\"") << text;
    EXPECT_NE(scheme.error().limit.find("int2..int8"), std::string::npos);
  }
}

TEST(QuantSchemeTest, JsonRoundTrip) {
  for (const char* text : {"int8-ch", "int8-tensor-asym", "int4-g128", "int4-g64-asymf-sbf16",
                           "int4-g32-narrow", "nf4", "fp8-e5m2-g64-sf32", "codebook5-g32"}) {
    const QuantScheme scheme = *QuantScheme::parse(text);
    const auto parsed = parse_json(scheme.to_json().dump(), "file", {.max_bytes = 10'000});
    ASSERT_TRUE(parsed);
    const auto back = QuantScheme::from_json(*parsed, "file", "tensor");
    ASSERT_TRUE(back) << format_error(back.error());
    EXPECT_EQ(*back, scheme) << text;
  }
}

TEST(QuantSchemeTest, JsonRefusals) {
  struct Case {
    const char* member;
    Json value;
    Exit exit;
    const char* where;
  };
  const Case cases[] = {
      {"bits", 0, Exit::malformed, "t.bits"},
      {"bits", 17, Exit::malformed, "t.bits"},
      {"bits", -4, Exit::malformed, "t.bits"},
      {"bits", 16, Exit::unsupported, "t.bits"},
      {"bits", 1, Exit::unsupported, "t.bits"},
      {"bits", "4", Exit::malformed, "t.bits"},
      {"bits", 4.0, Exit::malformed, "t.bits"},
      {"bits", uint64_t{1} << 63, Exit::malformed, "t.bits"},
      {"group_size", 0, Exit::malformed, "t.group_size"},
      {"group_size", int64_t{1} << 40, Exit::malformed, "t.group_size"},
      {"kind", "trellis", Exit::unsupported, "t.kind"},
      {"kind", 3, Exit::malformed, "t.kind"},
      {"granularity", "block", Exit::unsupported, "t.granularity"},
      {"granularity", "channel", Exit::malformed, "t.group_size"},
      {"offset", "random", Exit::unsupported, "t.offset"},
      {"scale_dtype", "F8_E8M0", Exit::unsupported, "t.scale_dtype"},
      {"range", Json(), Exit::malformed, "t.range"},
      {"rotation", "hadamard", Exit::unsupported, "t.\"rotation\""},
  };
  for (const Case& c : cases) {
    Json json = QuantScheme::parse("int4-g64")->to_json();
    json[c.member] = c.value;
    const auto scheme = QuantScheme::from_json(json, "file", "t");
    ASSERT_FALSE(scheme) << c.member << " " << c.value.dump();
    EXPECT_EQ(scheme.error().exit, c.exit) << c.member << " " << c.value.dump();
    EXPECT_EQ(scheme.error().where, c.where) << c.value.dump();
    EXPECT_EQ(scheme.error().path, "file");
  }
  for (const char* member : {"kind", "bits", "granularity", "group_size", "offset", "range", "scale_dtype"}) {
    Json json = QuantScheme::parse("int4-g64")->to_json();
    json.erase(member);
    EXPECT_FALSE(QuantScheme::from_json(json, "file", "t")) << "without " << member;
  }
  Json nf4 = QuantScheme::parse("nf4")->to_json();
  nf4["bits"] = 3;
  EXPECT_FALSE(QuantScheme::from_json(nf4, "file", "t"));
  EXPECT_EQ(QuantScheme::from_json(Json("int4"), "file", "t").error().exit, Exit::malformed);
}

// algorithms: bits per weight b + (bits(s) + bits(z)) / g; INT4 g128 with f16 scales 4.125.
TEST(QuantSchemeTest, Sizes) {
  EXPECT_DOUBLE_EQ(QuantScheme::parse("int4-g128")->bits_per_weight(4096, 4096), 4.125);
  EXPECT_DOUBLE_EQ(QuantScheme::parse("int4-g128-asym")->bits_per_weight(4096, 4096), 4.0 + 24.0 / 128.0);
  EXPECT_DOUBLE_EQ(QuantScheme::parse("int4-g32-asymf")->bits_per_weight(64, 4096), 5.0);
  EXPECT_DOUBLE_EQ(QuantScheme::parse("int8-ch")->bits_per_weight(64, 1024), 8.0 + 16.0 / 1024.0);
  const QuantScheme scheme = *QuantScheme::parse("int3-g64");
  EXPECT_EQ(scheme.groups(64), 1);
  EXPECT_EQ(scheme.groups(65), 2) << "a ragged last group has its own scale";
  EXPECT_EQ(scheme.groups(10), 1);
  EXPECT_EQ(scheme.row_bytes(65), 25) << "195 bits";
  EXPECT_EQ(scheme.stored_bytes(7, 65), 7u * (25 + 2 * 2));
  EXPECT_EQ(QuantScheme::parse("int8-tensor")->stored_bytes(7, 65), 7u * 65 + 2);
  EXPECT_EQ(QuantScheme::parse("codebook4-ch")->stored_bytes(2, 8), 2u * (4 + 2) + 16 * 4);
}

TEST(QuantSchemeTest, Nf4MatchesItsDefinition) {
  const auto codes = nf4_codebook();
  EXPECT_EQ(codes[0], -1.0f);
  EXPECT_EQ(codes[7], 0.0f);
  EXPECT_EQ(codes[15], 1.0f);
  EXPECT_TRUE(std::is_sorted(codes.begin(), codes.end()));
  // normal quantiles at linspace(0.9677083, 0.5, 9) and (.., 8), divided by the largest; bisection on erfc
  const auto quantile = [](double p) {
    double low = 0.0, high = 5.0;
    for (int i = 0; i < 100; ++i) {
      const double middle = (low + high) / 2.0;
      (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
    }
    return low;
  };
  const double first = 0.9677083, top = quantile(first);
  for (int i = 0; i < 8; ++i) {
    EXPECT_NEAR(codes[size_t(15 - i)], quantile(first + (0.5 - first) * i / 8.0) / top, 1e-6) << i;
  }
  for (int i = 0; i < 7; ++i) {
    EXPECT_NEAR(codes[size_t(i)], -quantile(first + (0.5 - first) * i / 7.0) / top, 1e-6) << i;
  }
}

// Rounding Gaussian weights to a symmetric grid stays below the scheme's own bound, and not absurdly far
// below.
TEST(QuantSchemeTest, ErrorBoundHoldsOnGaussianWeights) {
  const Random random(7, RandomPurpose::test_data);
  for (const int bits : {2, 3, 4, 5, 6, 8}) {
    QuantScheme scheme = *QuantScheme::parse("int" + std::to_string(bits) + "-g64");
    double dot = 0.0, squares = 0.0;
    for (uint64_t group = 0; group < 500; ++group) {
      std::vector<double> w(64);
      double amax = 0.0;
      for (uint64_t i = 0; i < 64; ++i) {
        w[i] = double(random.normal(group * 64 + i));
        amax = std::max(amax, std::abs(w[i]));
      }
      const double top = double(1 << (bits - 1));
      const double scale = bits == 8 ? amax / (top - 1) : 2.0 * amax / double((1 << bits) - 1);
      for (const double x : w) {
        const double rounded = scale * std::clamp(std::rint(x / scale), -top, top - 1);
        dot += x * rounded;
        squares += x * x + rounded * rounded;
      }
    }
    const double error = 1.0 - 2.0 * dot / squares;
    EXPECT_LT(error, scheme.max_relative_error()) << bits;
    EXPECT_GT(error, scheme.max_relative_error() / 10.0) << bits;
  }
}

}  // namespace
}  // namespace pare
