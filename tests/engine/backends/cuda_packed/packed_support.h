// tests/engine/backends/cuda_packed/packed_support.h: schemes and matrices for tests of low-bit products.
#pragma once

#include <cstring>

#include "tests/engine/backends/test_backends.h"

namespace pare::test {

// Every kind, width, grid and type of scale; groups that fill steps, cut them, or are one row.
inline constexpr const char* kPackedSchemes[] = {
    "int8-ch",         "int8-tensor",   "int8-g64",      "int8-g64-asym", "int8-g32-asymf", "int4-g16",
    "int4-g32",        "int4-g64",      "int4-g128",     "int4-ch",       "int4-g32-asym",  "int4-g64-asymf",
    "int4-g128-asym",  "int4-g24",      "int4-g64-sf32", "int4-g40-asym", "int2-g64",       "int3-g64-asym",
    "int5-g32",        "int6-ch-sbf16", "int7-g64",      "nf4-g64",       "nf4-ch",         "fp8-e4m3-ch",
    "fp8-e4m3-g64",    "fp8-e5m2-ch",   "codebook3-g16", "codebook4-g64", "codebook8-g32",  "int8-ch-sbf16",
    "int4-g128-asymf", "int2-g16-asymf"};

inline QuantizedTensor random_packed(const char* scheme, int64_t out, int64_t in, uint64_t seed,
                                     bool unit_scales = false) {
  QuantizedTensor weight = random_codes(*QuantScheme::parse(scheme), out, in, seed, unit_scales);
  for (int i = 0; weight.codebook.defined() && i < weight.scheme.code_count(); ++i)
    weight.codebook.mutable_data<float>()[i] = float(i * 37 % weight.scheme.code_count()) / 16.0f - 0.4f;
  return weight;
}

inline void expect_same_bytes(const Tensor& a, const Tensor& b, const std::string& what) {
  ASSERT_EQ(a.defined(), b.defined()) << what;
  if (!a.defined()) return;
  ASSERT_EQ(a.dtype(), b.dtype()) << what;
  ASSERT_TRUE(a.shape() == b.shape()) << what << ": " << a.shape().text() << " and " << b.shape().text();
  EXPECT_EQ(std::memcmp(a.raw(), b.raw(), a.size_bytes()), 0) << what;
}

inline void expect_same_matrix(const QuantizedTensor& a, const QuantizedTensor& b, const std::string& what) {
  EXPECT_EQ(a.scheme, b.scheme) << what;
  EXPECT_TRUE(a.shape == b.shape) << what;
  expect_same_bytes(a.codes, b.codes, what + " codes");
  expect_same_bytes(a.scales, b.scales, what + " scales");
  expect_same_bytes(a.zero_points, b.zero_points, what + " zero points");
  expect_same_bytes(a.minimums, b.minimums, what + " minimums");
  expect_same_bytes(a.group_index, b.group_index, what + " group index");
  expect_same_bytes(a.codebook, b.codebook, what + " codebook");
}

}  // namespace pare::test
