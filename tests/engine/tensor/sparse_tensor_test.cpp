// Sparse matrices: round trips over patterns, types and schemes against the mask itself, byte budgets,
// faults.
#include "engine/tensor/sparse_tensor.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include <gtest/gtest.h>

#include "tests/support/random_sparse.h"

namespace pare {
namespace {

using test::pattern_of;
using test::random_codes;
using test::random_mask;
using test::random_matrix;

constexpr const char* kPatterns[] = {"unstructured", "1:2",       "2:4",         "1:4",      "3:4",
                                     "4:8",          "5:8",       "2:7",         "7:16",     "1:16",
                                     "block-1x8",    "block-4x4", "block-16x16", "block-3x5"};
struct Extent {
  int64_t out, in;
};
constexpr Extent kExtents[] = {{1, 1},    {1, 16}, {7, 64}, {5, 67}, {33, 31},
                               {20, 130}, {3, 8},  {16, 0}, {0, 16}};

bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         (a.numel() == 0 || std::memcmp(a.raw(), b.raw(), a.size_bytes()) == 0);
}

bool same(const Mask& a, const Mask& b) {
  return a.out() == b.out() && a.in() == b.in() && same(a.bits(), b.bits());
}

// body(text, extent, mask) for every pattern and shape, with few, half, many, no and all weights kept.
void for_all(const std::function<void(const std::string&, const SparsityPattern&, const Mask&)>& body) {
  uint64_t seed = 1;
  for (const char* text : kPatterns) {
    for (const Extent extent : kExtents) {
      for (const double share : {0.0, 0.1, 0.5, 0.9, 1.0}) {
        const SparsityPattern pattern = pattern_of(text);
        const Mask mask = random_mask(pattern, extent.out, extent.in, share, ++seed);
        body(std::string(text) + " " + std::to_string(extent.out) + "x" + std::to_string(extent.in) +
                 " share " + std::to_string(share),
             pattern, mask);
        if (pattern.kind == SparsityPattern::Kind::n_of_m) break;
      }
    }
  }
}

TEST(SparseTensorTest, ValuesComeBackBitForBit) {
  for_all([](const std::string& what, const SparsityPattern& pattern, const Mask& mask) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const Tensor weight = random_matrix(dtype, mask.out(), mask.in(), 11);
      const auto sparse = SparseTensor::from_dense(weight, mask, pattern);
      ASSERT_TRUE(sparse) << what << ": " << format_error(sparse.error());
      ASSERT_TRUE(sparse->validate("p", "w"))
          << what << ": " << format_error(sparse->validate("p", "w").error());
      EXPECT_TRUE(same(*sparse->kept(), mask)) << what;
      EXPECT_EQ(sparse->kept_count(), mask.kept_count()) << what;
      EXPECT_EQ(sparse->values.numel(), mask.kept_count()) << what;
      EXPECT_EQ(sparse->size_bytes(),
                sparse_bytes(pattern, mask.out(), mask.in(), mask.kept_count(), dtype_bits(dtype), false))
          << what;
      Tensor expected = *Tensor::allocate(dtype, weight.shape());
      if (weight.numel() > 0) std::memcpy(expected.mutable_raw(), weight.raw(), weight.size_bytes());
      mask.apply(expected);
      ASSERT_TRUE(same(*sparse->to_dense(), expected)) << what;
      if (mask.out() < 3) continue;
      const Tensor floats = *converted(expected, DType::f32);
      std::vector<float> rows(size_t(2 * mask.in()), 99.0f);
      sparse->dense_rows(1, 3, rows.data());
      for (size_t i = 0; i < rows.size(); ++i)
        ASSERT_EQ(rows[i], floats.data<float>()[mask.in() + int64_t(i)]) << what;
    }
  });
}

constexpr const char* kSchemes[] = {"int2-g16", "int3-g32-asym", "int4-g64",      "int4-g16-asymf",
                                    "int5-ch",  "int6-tensor",   "int7-g7-asym",  "int8-ch-sym",
                                    "nf4-g64",  "fp8-e4m3-ch",   "codebook3-g16", "int4-g64-sf32"};

TEST(SparseTensorTest, CodesKeepTheirMeaning) {
  size_t next = 0;
  for_all([&](const std::string& what, const SparsityPattern& pattern, const Mask& mask) {
    const char* scheme = kSchemes[next++ % std::size(kSchemes)];
    const QuantizedTensor weight = random_codes(scheme, mask.out(), mask.in(), 5);
    ASSERT_TRUE(weight.validate("p", "w")) << what << scheme;
    const auto sparse = SparseTensor::from_quantized(weight, mask, pattern);
    ASSERT_TRUE(sparse) << what << ": " << format_error(sparse.error());
    const Status valid = sparse->validate("p", "w");
    ASSERT_TRUE(valid) << what << " " << scheme << ": " << format_error(valid.error());
    EXPECT_TRUE(same(*sparse->kept(), mask)) << what;
    EXPECT_EQ(sparse->kept_count(), mask.kept_count()) << what;
    Tensor expected = *weight.dequantize();
    mask.apply(expected);
    ASSERT_TRUE(same(*sparse->to_dense(), expected)) << what << " " << scheme;
    const auto whole = sparse->to_quantized("p", "w");
    const bool may_lack_zero =
        weight.scheme.offset == QuantScheme::Offset::minimum || weight.scheme.codebook == "custom";
    if (!whole) {
      EXPECT_TRUE(may_lack_zero) << what << scheme;
      EXPECT_EQ(whole.error().exit, Exit::unsupported);
      return;
    }
    ASSERT_TRUE(whole->validate("p", "w")) << what << scheme;
    const Tensor values = *whole->dequantize();
    for (int64_t i = 0; i < values.numel(); ++i)
      ASSERT_EQ(values.data<float>()[i], expected.data<float>()[i]) << what << " " << scheme;
  });
}

// A grid with a minimum that happens to pass through 0 has a code for it.
TEST(SparseTensorTest, ZeroOfAGridWithMinimum) {
  QuantizedTensor weight = random_codes("int4-g8-asymf", 2, 16, 3);
  for (int64_t i = 0; i < 4; ++i) {
    weight.scales.mutable_data<uint16_t>()[i] = float_to_f16(0.5f);
    weight.minimums.mutable_data<uint16_t>()[i] = float_to_f16(-1.5f);
  }
  const Mask mask = random_mask(pattern_of("2:4"), 2, 16, 0.5, 1);
  const SparseTensor sparse = *SparseTensor::from_quantized(weight, mask, pattern_of("2:4"));
  Tensor expected = *weight.dequantize();
  mask.apply(expected);
  EXPECT_TRUE(same(*sparse.to_quantized("p", "w")->dequantize(), expected));
  weight.minimums.mutable_data<uint16_t>()[3] = float_to_f16(-1.25f);
  EXPECT_FALSE(sparse.to_quantized("p", "w"));
}

TEST(SparseTensorTest, ByteBudgets) {
  const int64_t out = 64, in = 4096, weights = out * in;
  const auto bits = [&](const SparseTensor& tensor) {
    return 8.0 * double(tensor.size_bytes()) / double(weights);
  };
  const Tensor weight = random_matrix(DType::bf16, out, in, 1);
  Mask half = *Mask::all_kept(out, in);
  for (int64_t row = 0; row < out; ++row)
    for (int64_t column = 0; column < in; column += 2) half.set(row, column + row % 2, false);
  // 8 bits of values, 1 bit of mask, and one pointer of 64 bits per row
  EXPECT_NEAR(bits(*SparseTensor::from_dense(weight, half, pattern_of("unstructured"))),
              9.0 + 64.0 * 65 / weights, 1e-12);
  const Mask two = random_mask(pattern_of("2:4"), out, in, 0.5, 2);
  EXPECT_EQ(bits(*SparseTensor::from_dense(weight, two, pattern_of("2:4"))), 9.0);
  const QuantizedTensor codes = random_codes("int4-g64", out, in, 3);
  EXPECT_EQ(bits(*SparseTensor::from_quantized(codes, two, pattern_of("2:4"))), 3.25);
  EXPECT_EQ(8.0 * double(codes.size_bytes()) / double(weights), 4.25);
  EXPECT_LE(3.25 / 4.25, 0.8);
}

TEST(SparseTensorTest, SmallestForm) {
  const Tensor weight = random_matrix(DType::bf16, 32, 256, 1);
  const auto choose = [&](double share) {
    return smallest_form(weight, random_mask({}, 32, 256, share, 4), {})->has_value();
  };
  EXPECT_TRUE(choose(0.5));
  EXPECT_TRUE(choose(0.0));
  EXPECT_FALSE(choose(1.0));
  EXPECT_FALSE(choose(0.96)) << "the mask costs one bit in sixteen";
  EXPECT_TRUE(
      smallest_form(weight, random_mask(pattern_of("3:4"), 32, 256, 0, 4), pattern_of("3:4"))->has_value());
  const QuantizedTensor int2 = random_codes("int2-g64", 32, 256, 1);
  EXPECT_FALSE(smallest_form(int2, random_mask({}, 32, 256, 0.6, 4), {})->has_value());
  EXPECT_TRUE(smallest_form(int2, random_mask({}, 32, 256, 0.2, 4), {})->has_value());
  const auto wrong = smallest_form(weight, random_mask({}, 32, 256, 0.5, 4), pattern_of("2:4"));
  ASSERT_FALSE(wrong);
  EXPECT_EQ(wrong.error().exit, Exit::malformed);
}

TEST(SparseTensorTest, PermutedGroupsAreRefused) {
  QuantizedTensor weight = random_codes("int4-g8", 2, 16, 3);
  weight.group_index = *Tensor::allocate(DType::i32, {16});
  const auto sparse = SparseTensor::from_quantized(weight, *Mask::all_kept(2, 16), {});
  ASSERT_FALSE(sparse);
  EXPECT_EQ(sparse.error().exit, Exit::unsupported);
}

// What a hostile file may hold: each fault is found, with a rule and a place.
struct Fault {
  const char* what;
  const char* pattern;
  const char* scheme;  // empty: values
  std::function<void(SparseTensor&)> bend;
  const char* rule;
  Exit exit;
};

Tensor shorter(const Tensor& list, int64_t by) {
  Tensor copy = *Tensor::allocate(list.dtype(), {list.numel() - by});
  std::memcpy(copy.mutable_raw(), list.raw(), copy.size_bytes());
  return copy;
}

TEST(SparseTensorTest, Faults) {
  const auto pointer = [](SparseTensor& t) { return t.row_pointers.mutable_data<int64_t>(); };
  const std::vector<Fault> faults = {
      {"pointer falls", "unstructured", "", [&](SparseTensor& t) { pointer(t)[2] = pointer(t)[1] - 1; },
       "PK11", Exit::malformed},
      {"first pointer", "block-4x4", "", [&](SparseTensor& t) { pointer(t)[0] = 1; }, "PK11",
       Exit::malformed},
      {"huge pointer", "unstructured", "", [&](SparseTensor& t) { pointer(t)[3] = INT64_MAX; }, "PK11",
       Exit::malformed},
      {"last pointer", "unstructured", "int4-g8", [&](SparseTensor& t) { pointer(t)[9] += 8; }, "PK11",
       Exit::malformed},
      {"negative pointer", "block-4x4", "", [&](SparseTensor& t) { pointer(t)[1] = INT64_MIN; }, "PK11",
       Exit::malformed},
      {"mask bit", "unstructured", "", [](SparseTensor& t) { t.mask.mutable_data<uint8_t>()[4] ^= 1; },
       "PK11", Exit::malformed},
      {"block bit", "block-4x4", "int4-g8", [](SparseTensor& t) { t.mask.mutable_data<uint8_t>()[0] ^= 2; },
       "PK11", Exit::malformed},
      {"bits behind the mask", "unstructured", "",
       [](SparseTensor& t) { t.mask.mutable_data<uint8_t>()[2] |= 0x80; }, "PK11", Exit::malformed},
      {"index order", "2:4", "", [](SparseTensor& t) { t.indices.mutable_data<uint8_t>()[0] = 0x01; }, "PK11",
       Exit::malformed},
      {"index range", "2:7", "", [](SparseTensor& t) { t.indices.mutable_data<uint8_t>()[0] = 0xff; }, "PK11",
       Exit::malformed},
      {"bits behind the indices", "1:4", "",
       [](SparseTensor& t) { t.indices.mutable_data<uint8_t>()[1] |= 0xc0; }, "PK11", Exit::malformed},
      {"values short", "2:4", "", [](SparseTensor& t) { t.values = shorter(t.values, 1); }, "PK11",
       Exit::malformed},
      {"values short", "unstructured", "", [](SparseTensor& t) { t.values = shorter(t.values, 1); }, "PK11",
       Exit::malformed},
      {"values of bytes", "unstructured", "",
       [](SparseTensor& t) { t.values = *Tensor::allocate(DType::u8, {t.values.numel()}); }, "PK11",
       Exit::malformed},
      {"codes short", "2:4", "int4-g8", [](SparseTensor& t) { t.codes = shorter(t.codes, 4); }, "PK11",
       Exit::malformed},
      {"codes ragged", "2:4", "int4-g8", [](SparseTensor& t) { t.codes = shorter(t.codes, 1); }, "PK11",
       Exit::malformed},
      {"both", "2:4", "int4-g8", [](SparseTensor& t) { t.values = *Tensor::allocate(DType::f32, {8}); },
       "PK11", Exit::malformed},
      {"scales without codes", "2:4", "",
       [](SparseTensor& t) {
         t.scales = *Tensor::allocate(DType::f16, {9, 3});
       },
       "PK11", Exit::malformed},
      {"no mask", "unstructured", "", [](SparseTensor& t) { t.mask = {}; }, "PK11", Exit::malformed},
      {"mask and indices", "2:4", "",
       [](SparseTensor& t) {
         t.mask = *Tensor::allocate(DType::u8, {9, 3});
       },
       "PK11", Exit::malformed},
      {"pattern", "2:4", "", [](SparseTensor& t) { t.pattern.m = 17; }, "PK11", Exit::malformed},
      {"scales", "2:4", "int4-g8",
       [](SparseTensor& t) {
         t.scales = *Tensor::allocate(DType::f16, {9, 4});
       },
       "PK09", Exit::malformed},
      {"scale of zero", "2:4", "int4-g8",
       [](SparseTensor& t) {
         t.scales = *converted(t.scales, DType::f16);
         t.scales.mutable_data<uint16_t>()[1] = 0;
       },
       "PK07", Exit::numeric},
      {"zero point", "2:4", "int2-g8-asym",
       [](SparseTensor& t) {
         t.zero_points = *Tensor::allocate(DType::u8, t.zero_points.shape());
         t.zero_points.mutable_data<uint8_t>()[0] = 4;
       },
       "PK08", Exit::malformed},
      {"forbidden code", "2:4", "int8-ch-sym",
       [](SparseTensor& t) { t.codes.mutable_data<uint8_t>()[0] = 0; }, "PK08", Exit::malformed},
      {"padding code", "2:4", "int8-ch-sym", [](SparseTensor& t) { t.codes.mutable_data<uint8_t>()[15] = 1; },
       "PK08", Exit::malformed},
      {"NaN", "unstructured", "",
       [](SparseTensor& t) { t.values.mutable_data<float>()[3] = std::numeric_limits<float>::quiet_NaN(); },
       "NU01", Exit::numeric},
  };
  for (const Fault& fault : faults) {
    const SparsityPattern pattern = pattern_of(fault.pattern);
    const Mask mask = random_mask(pattern, 9, 20, 0.5, 21);
    const bool coded = *fault.scheme != '\0';
    SparseTensor sparse =
        coded ? *SparseTensor::from_quantized(random_codes(fault.scheme, 9, 20, 2), mask, pattern)
              : *SparseTensor::from_dense(random_matrix(DType::f32, 9, 20, 2), mask, pattern);
    ASSERT_TRUE(sparse.validate("p", "w")) << fault.what;
    fault.bend(sparse);
    const Status status = sparse.validate("file", "w");
    ASSERT_FALSE(status) << fault.what << " " << fault.pattern;
    EXPECT_EQ(status.error().rule, fault.rule) << fault.what << ": " << format_error(status.error());
    EXPECT_EQ(status.error().exit, fault.exit) << fault.what;
    EXPECT_NE(status.error().where.find("w"), std::string::npos) << fault.what;
  }
}

// Any byte of mask, pointers or indices may be anything: validate() decides, nothing else breaks.
TEST(SparseTensorTest, FlippedBitsNeverBreakTheReader) {
  const Random random(9, RandomPurpose::test_data);
  uint64_t draw = 0;
  for (const char* text : kPatterns) {
    const SparsityPattern pattern = pattern_of(text);
    for (const char* scheme : {"", "int3-g8", "int4-g16-asymf"}) {
      const Mask mask = random_mask(pattern, 11, 45, 0.5, 3);
      for (int round = 0; round < 60; ++round) {
        SparseTensor sparse =
            *scheme == '\0' ? *SparseTensor::from_dense(random_matrix(DType::bf16, 11, 45, 2), mask, pattern)
                            : *SparseTensor::from_quantized(random_codes(scheme, 11, 45, 2), mask, pattern);
        std::vector<Tensor*> parts;
        for (Tensor* part : {&sparse.mask, &sparse.indices, &sparse.row_pointers, &sparse.codes})
          if (part->defined()) parts.push_back(part);
        Tensor& part = *parts[random.below(parts.size(), ++draw)];
        auto* bytes = reinterpret_cast<uint8_t*>(part.mutable_raw());
        const uint64_t bit = random.below(8 * part.size_bytes(), ++draw);
        bytes[bit / 8] ^= uint8_t(1u << (bit % 8));
        if (!sparse.validate("p", "w")) continue;
        ASSERT_TRUE(sparse.to_dense());
        ASSERT_TRUE(sparse.kept()->verify(pattern, "w"));
      }
    }
  }
}

}  // namespace
}  // namespace pare
