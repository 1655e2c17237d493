// Codes: packing, the definition of the weights, and everything validate() refuses.
#include "engine/tensor/quantized_tensor.h"

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/core/parallel.h"
#include "engine/core/random.h"
#include "engine/tensor/float_formats.h"

namespace pare {
namespace {

TEST(PackCodesTest, UnpackIsTheInverseForAllWidthsAndLengths) {
  const Random random(1, RandomPurpose::test_data);
  for (int bits = 1; bits <= 8; ++bits) {
    for (int64_t count = 0; count <= 40; ++count) {
      std::vector<uint8_t> codes(static_cast<size_t>(count)), back(static_cast<size_t>(count), 99);
      for (size_t i = 0; i < codes.size(); ++i) codes[i] = uint8_t(random.below(uint64_t{1} << bits, i));
      const auto bytes = size_t((count * bits + 7) / 8);
      std::vector<uint8_t> packed(bytes + 1, 0xee);
      pack_codes(codes.data(), count, bits, packed.data());
      EXPECT_EQ(packed[bytes], 0xee) << "wrote behind the row";
      unpack_codes(packed.data(), count, bits, back.data());
      EXPECT_EQ(back, codes) << bits << " bits, " << count;
      // bit i of the stream is bit i % 8 of byte i / 8
      for (int64_t i = 0; i < count * bits; ++i) {
        ASSERT_EQ((packed[size_t(i / 8)] >> (i % 8)) & 1, (codes[size_t(i / bits)] >> (i % bits)) & 1);
      }
    }
  }
}

TEST(PackCodesTest, KnownBytes) {
  const uint8_t nibbles[] = {0x1, 0x2, 0xf};
  uint8_t packed[3] = {};
  pack_codes(nibbles, 3, 4, packed);
  EXPECT_THAT(packed, testing::ElementsAre(0x21, 0x0f, 0x00));
  const uint8_t thirds[] = {7, 0, 7, 1};  // 111 000 111 100 from the low end
  pack_codes(thirds, 4, 3, packed);
  EXPECT_THAT(packed, testing::ElementsAre(0xc7, 0x03, 0x00));
  EXPECT_THROW(pack_codes(nibbles, 3, 3, packed), InternalError) << "15 does not fit into 3 bits";
}

void set_codes(QuantizedTensor& tensor, int64_t row, const std::vector<uint8_t>& codes) {
  pack_codes(codes.data(), int64_t(codes.size()), tensor.scheme.bits,
             tensor.codes.mutable_data<uint8_t>() + row * tensor.scheme.row_bytes(tensor.in()));
}

QuantizedTensor allocate(const char* scheme, int64_t out, int64_t in) {
  return *QuantizedTensor::allocate(*QuantScheme::parse(scheme), out, in);
}

std::vector<float> weights(const QuantizedTensor& tensor) {
  const Tensor dense = *tensor.dequantize();
  return {dense.data<float>(), dense.data<float>() + dense.numel()};
}

// algorithms, "the min-max formula": x = (-1, -0.2, 0, 0.73, 2), 4 bits: s = 0.2, z = 5, codes 0 4 5 9 15.
TEST(DequantizeTest, CheckValuesWithAnIntegerZeroPoint) {
  QuantizedTensor tensor = allocate("int4-ch-asym-sf32", 1, 5);
  tensor.scales.mutable_data<float>()[0] = 0.2f;
  tensor.zero_points.mutable_data<uint8_t>()[0] = 5;
  set_codes(tensor, 0, {0, 4, 5, 9, 15});
  EXPECT_THAT(weights(tensor), testing::ElementsAre(-1.0f, -0.2f, 0.0f, 0.2f * 4.0f, 2.0f));
}

// x = (-0.9, -0.2, 0, 0.73, 2): s = 0.19333; min-max codes 0 4 5 8 15 give 0.0667 for 0, the integer form
// (codes 0 4 5 9 15, z = 5) gives exactly 0.
TEST(DequantizeTest, CheckValuesWithAFloatOffset) {
  QuantizedTensor tensor = allocate("int4-ch-asymf-sf32", 1, 5);
  tensor.scales.mutable_data<float>()[0] = 2.9f / 15.0f;
  tensor.minimums.mutable_data<float>()[0] = -0.9f;
  set_codes(tensor, 0, {0, 4, 5, 8, 15});
  const std::vector<float> w = weights(tensor);
  EXPECT_EQ(w[0], -0.9f);
  EXPECT_NEAR(w[2], 0.0667, 5e-5);
  EXPECT_NEAR(w[4], 2.0, 1e-6);
  QuantizedTensor integer = allocate("int4-ch-asym-sf32", 1, 5);
  integer.scales.mutable_data<float>()[0] = 2.9f / 15.0f;
  integer.zero_points.mutable_data<uint8_t>()[0] = 5;
  set_codes(integer, 0, {0, 4, 5, 9, 15});
  EXPECT_EQ(weights(integer)[2], 0.0f);
}

TEST(DequantizeTest, SymmetricCodesAreOffset) {
  QuantizedTensor tensor = allocate("int8-ch", 2, 3);
  tensor.scales.mutable_data<uint16_t>()[0] = float_to_f16(0.5f);
  tensor.scales.mutable_data<uint16_t>()[1] = float_to_f16(2.0f);
  set_codes(tensor, 0, {1, 128, 255});
  set_codes(tensor, 1, {127, 128, 129});
  EXPECT_THAT(weights(tensor), testing::ElementsAre(-63.5f, 0.0f, 63.5f, -2.0f, 0.0f, 2.0f));
}

TEST(DequantizeTest, GroupsAndARaggedLastOne) {
  QuantizedTensor tensor = allocate("int4-g2-sbf16", 2, 5);
  ASSERT_EQ(tensor.scales.shape(), (Shape{2, 3}));
  for (int i = 0; i < 6; ++i) tensor.scales.mutable_data<uint16_t>()[i] = float_to_bf16(float(1 << i));
  set_codes(tensor, 0, {9, 9, 9, 9, 9});
  set_codes(tensor, 1, {7, 9, 7, 9, 7});
  EXPECT_THAT(weights(tensor), testing::ElementsAre(1, 1, 2, 2, 4, -8, 8, -16, 16, -32));
  tensor.group_index = *Tensor::allocate(DType::i32, {5});
  const int32_t groups[] = {2, 0, 1, 1, 0};
  std::copy_n(groups, 5, tensor.group_index.mutable_data<int32_t>());
  EXPECT_THAT(weights(tensor), testing::ElementsAre(4, 1, 2, 2, 1, -32, 8, -16, 16, -8));
}

TEST(DequantizeTest, CodebooksAndFloats) {
  QuantizedTensor nf4 = allocate("nf4-g2-sf32", 1, 4);
  nf4.scales.mutable_data<float>()[0] = 3.0f;
  nf4.scales.mutable_data<float>()[1] = 0.5f;
  set_codes(nf4, 0, {0, 7, 15, 14});
  EXPECT_THAT(weights(nf4), testing::ElementsAre(-3.0f, 0.0f, 0.5f, 0.5f * 0.7229568362236023f));
  QuantizedTensor fp8 = allocate("fp8-e4m3-ch-sf32", 1, 3);
  fp8.scales.mutable_data<float>()[0] = 0.25f;
  set_codes(fp8, 0, {0x7e, 0x88, 0x38});
  EXPECT_THAT(weights(fp8), testing::ElementsAre(112.0f, -0x1p-8f, 0.25f));
  QuantizedTensor custom = allocate("codebook2-tensor-sf32", 2, 2);
  custom.scales.mutable_data<float>()[0] = 2.0f;
  const float table[] = {-5.0f, 0.0f, 0.125f, 7.0f};
  std::copy_n(table, 4, custom.codebook.mutable_data<float>());
  set_codes(custom, 0, {3, 2});
  set_codes(custom, 1, {0, 1});
  EXPECT_THAT(weights(custom), testing::ElementsAre(14.0f, 0.25f, -10.0f, 0.0f));
}

QuantizedTensor random_tensor(const char* text, int64_t out, int64_t in) {
  QuantizedTensor tensor = allocate(text, out, in);
  const Random random(3, RandomPurpose::test_data);
  std::vector<uint8_t> codes(static_cast<size_t>(in));
  for (int64_t row = 0; row < out; ++row) {
    for (int64_t i = 0; i < in; ++i) {
      codes[size_t(i)] = uint8_t(random.below(uint64_t(tensor.scheme.code_count()), uint64_t(row * in + i)));
    }
    set_codes(tensor, row, codes);
  }
  for (int64_t i = 0; i < tensor.scales.numel(); ++i) {
    tensor.scales.mutable_data<uint16_t>()[i] = float_to_f16(0.01f + random.uniform(uint64_t(i), 1));
  }
  return tensor;
}

TEST(DequantizeTest, RowsSlicesAndThreadsAgree) {
  for (const char* text : {"int3-g32", "int4-g64", "int5-ch", "int8-g16-full"}) {
    const QuantizedTensor tensor = random_tensor(text, 37, 1100);
    const std::vector<float> all = weights(tensor);
    for (const int threads : {1, 3}) {
      set_thread_count(threads);
      EXPECT_EQ(weights(tensor), all);
    }
    set_thread_count(0);
    std::vector<float> rows(3 * 1100), slice(501);
    tensor.dequantize_rows(5, 8, rows.data());
    EXPECT_TRUE(std::equal(rows.begin(), rows.end(), all.begin() + 5 * 1100));
    tensor.dequantize_slice(6, 512, 1013, slice.data());
    EXPECT_TRUE(std::equal(slice.begin(), slice.end(), all.begin() + 6 * 1100 + 512));
    EXPECT_THROW(tensor.dequantize_slice(6, 3, 9, slice.data()), InternalError);
  }
}

TEST(DequantizeTest, EmptyMatrices) {
  EXPECT_EQ(allocate("int4-g32", 0, 64).dequantize()->numel(), 0);
  EXPECT_EQ(allocate("int4-g32", 3, 0).dequantize()->numel(), 0);
}

// --- validate ------------------------------------------------------------------------------------------

// A good tensor of the scheme: all scales 1, all codes 1.
QuantizedTensor good(const char* text, int64_t out = 3, int64_t in = 10) {
  QuantizedTensor tensor = allocate(text, out, in);
  for (int64_t row = 0; row < out; ++row) set_codes(tensor, row, std::vector<uint8_t>(size_t(in), 1));
  for (int64_t i = 0; i < tensor.scales.numel(); ++i) {
    if (tensor.scheme.scale_dtype == DType::f32) {
      tensor.scales.mutable_data<float>()[i] = 1.0f;
    } else {
      tensor.scales.mutable_data<uint16_t>()[i] =
          tensor.scheme.scale_dtype == DType::f16 ? float_to_f16(1.0f) : float_to_bf16(1.0f);
    }
  }
  return tensor;
}

TEST(ValidateTest, GoodTensorsPass) {
  for (const char* text : {"int8-ch", "int8-tensor", "int4-g4", "int4-g4-asym", "int3-g4-asymf-sbf16",
                           "nf4-g4", "fp8-e4m3-ch-sf32", "fp8-e5m2-ch", "codebook3-ch", "int5-g16-sf32"}) {
    const Status status = good(text).validate("file", "w");
    EXPECT_TRUE(status) << text << ": " << (status ? "" : format_error(status.error()));
  }
  EXPECT_TRUE(good("int4-g4", 0, 10).validate("file", "w"));
  EXPECT_TRUE(good("int4-g4", 3, 0).validate("file", "w"));
}

struct BadCase {
  const char* what;
  const char* scheme;
  std::function<void(QuantizedTensor&)> spoil;
  Exit exit;
  const char* rule;
  const char* where;
};

TEST(ValidateTest, RefusesWhatARowOfTheTableNames) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto scale = [](int64_t index, float value) {
    return [=](QuantizedTensor& t) { t.scales.mutable_data<float>()[index] = value; };
  };
  const BadCase cases[] = {
      {"scale NaN", "int4-g4-sf32", scale(4, nan), Exit::numeric, "PK07", "\"w\".scales[1,1]"},
      {"scale infinite", "int4-g4-sf32", scale(0, INFINITY), Exit::numeric, "PK07", "\"w\".scales[0,0]"},
      {"scale 0", "int4-g4-sf32", scale(8, 0.0f), Exit::numeric, "PK07", "\"w\".scales[2,2]"},
      {"scale negative", "int8-ch-sf32", scale(1, -1.0f), Exit::numeric, "PK07", "\"w\".scales[1,0]"},
      {"half scale infinite", "int8-ch",
       [](QuantizedTensor& t) { t.scales.mutable_data<uint16_t>()[2] = 0x7c00; }, Exit::numeric, "PK07",
       "\"w\".scales[2,0]"},
      {"minimum NaN", "int4-g4-asymf-sf32",
       [=](QuantizedTensor& t) { t.minimums.mutable_data<float>()[7] = nan; }, Exit::numeric, "PK07",
       "\"w\".minimums[2,1]"},
      {"codebook infinite", "codebook3-ch",
       [](QuantizedTensor& t) { t.codebook.mutable_data<float>()[5] = INFINITY; }, Exit::numeric, "PK07",
       "\"w\".codebook[5]"},
      {"-128 on a narrow grid", "int8-ch",
       [](QuantizedTensor& t) { t.codes.mutable_data<uint8_t>()[17] = 0; }, Exit::malformed, "PK08",
       "\"w\".codes[1,7]"},
      {"NaN code", "fp8-e4m3-ch", [](QuantizedTensor& t) { t.codes.mutable_data<uint8_t>()[29] = 0xff; },
       Exit::malformed, "PK08", "\"w\".codes[2,9]"},
      {"infinite code", "fp8-e5m2-ch", [](QuantizedTensor& t) { t.codes.mutable_data<uint8_t>()[0] = 0x7c; },
       Exit::malformed, "PK08", "\"w\".codes[0,0]"},
      {"bits behind the row", "int3-g4",
       [](QuantizedTensor& t) { t.codes.mutable_data<uint8_t>()[7] |= 0x80; }, Exit::malformed, "PK08",
       "\"w\".codes[1,10]"},
      {"zero point 16 of 4 bits", "int4-g4-asym",
       [](QuantizedTensor& t) { t.zero_points.mutable_data<uint8_t>()[5] = 16; }, Exit::malformed, "PK08",
       "\"w\".zero_points[1,2]"},
      {"bits 17", "int4-g4", [](QuantizedTensor& t) { t.scheme.bits = 17; }, Exit::malformed, "PK09",
       "\"w\".bits"},
      {"bits 0", "int4-g4", [](QuantizedTensor& t) { t.scheme.bits = 0; }, Exit::malformed, "PK09",
       "\"w\".bits"},
      {"group 0", "int4-g4", [](QuantizedTensor& t) { t.scheme.group_size = 0; }, Exit::malformed, "PK09",
       "\"w\".group_size"},
      {"codes of another width", "int4-g4", [](QuantizedTensor& t) { t.scheme.bits = 5; }, Exit::malformed,
       "PK09", "\"w\".codes"},
      {"scales of another group size", "int4-g4", [](QuantizedTensor& t) { t.scheme.group_size = 5; },
       Exit::malformed, "PK09", "\"w\".scales"},
      {"scales of another type", "int4-g4", [](QuantizedTensor& t) { t.scheme.scale_dtype = DType::bf16; },
       Exit::malformed, "PK09", "\"w\".scales"},
      {"no zero points", "int4-g4-asym", [](QuantizedTensor& t) { t.zero_points = Tensor(); },
       Exit::malformed, "PK09", "\"w\".zero_points"},
      {"zero points too many", "int4-g4-asym",
       [](QuantizedTensor& t) { t.scheme.offset = QuantScheme::Offset::none; }, Exit::malformed, "PK09",
       "\"w\".zero_points"},
      {"no codebook", "codebook3-ch", [](QuantizedTensor& t) { t.codebook = Tensor(); }, Exit::malformed,
       "PK09", "\"w\".codebook"},
      {"unknown codebook", "nf4-g4", [](QuantizedTensor& t) { t.scheme.codebook = "nf5"; }, Exit::malformed,
       "PK09", "\"w\".codebook"},
      {"not a matrix", "int4-g4",
       [](QuantizedTensor& t) {
         t.shape = Shape{3, 2, 5};
       },
       Exit::malformed, "PK09", "\"w\".shape"},
      {"group index out of range", "int4-g4",
       [](QuantizedTensor& t) {
         t.group_index = *Tensor::allocate(DType::i32, {10});
         t.group_index.mutable_data<int32_t>()[6] = 3;
       },
       Exit::malformed, "PK10", "\"w\".group_index[6]"},
      {"group index negative", "int4-g4",
       [](QuantizedTensor& t) {
         t.group_index = *Tensor::allocate(DType::i32, {10});
         t.group_index.mutable_data<int32_t>()[0] = -1;
       },
       Exit::malformed, "PK10", "\"w\".group_index[0]"},
      {"group index too short", "int4-g4",
       [](QuantizedTensor& t) { t.group_index = *Tensor::allocate(DType::i32, {9}); }, Exit::malformed,
       "PK09", "\"w\".group_index"},
      {"group index without groups", "int8-ch",
       [](QuantizedTensor& t) { t.group_index = *Tensor::allocate(DType::i32, {10}); }, Exit::malformed,
       "PK09", "\"w\".group_index"},
  };
  for (const BadCase& c : cases) {
    SCOPED_TRACE(c.what);
    QuantizedTensor tensor = good(c.scheme);
    ASSERT_TRUE(tensor.validate("file", "w"));
    c.spoil(tensor);
    const Status status = tensor.validate("file", "w");
    if (status) {
      ADD_FAILURE() << "accepted";
      continue;
    }
    EXPECT_EQ(status.error().exit, c.exit);
    EXPECT_EQ(status.error().rule, c.rule);
    EXPECT_EQ(status.error().where, c.where);
    EXPECT_EQ(status.error().path, "file");
  }
}

TEST(ValidateTest, NamesTheFirstBadCodeForAnyNumberOfThreads) {
  QuantizedTensor tensor = good("int8-ch", 1000, 10);
  for (const int64_t index : {9995, 4321, 777}) tensor.codes.mutable_data<uint8_t>()[index] = 0;
  for (const int threads : {1, 2, 4}) {
    set_thread_count(threads);
    EXPECT_EQ(tensor.validate("file", "w").error().where, "\"w\".codes[77,7]");
  }
  set_thread_count(0);
}

}  // namespace
}  // namespace pare
