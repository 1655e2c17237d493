// SparsityPattern and Mask.
#include "engine/tensor/mask.h"

#include <cmath>

#include <gtest/gtest.h>

#include "engine/tensor/float_formats.h"

namespace pare {
namespace {

TEST(SparsityPatternTest, TextRoundTrip) {
  for (const char* text : {"unstructured", "2:4", "4:8", "1:2", "15:16", "block-1x8", "block-16x16"}) {
    const auto pattern = SparsityPattern::parse(text);
    ASSERT_TRUE(pattern) << text;
    EXPECT_EQ(pattern->text(), text);
    EXPECT_EQ(*SparsityPattern::parse(pattern->text()), *pattern);
  }
  EXPECT_EQ(SparsityPattern::parse("2:4")->n, 2);
  EXPECT_EQ(SparsityPattern::parse("block-3x5")->block_columns, 5);
}

TEST(SparsityPatternTest, Refusals) {
  for (const char* text : {"", "4:4", "0:4", "5:4", "2:17", "2:", ":4", "2:4:8", "2 :4", "-2:4", "block-0x4",
                           "block-4", "block-4x", "random"}) {
    const auto pattern = SparsityPattern::parse(text);
    ASSERT_FALSE(pattern) << text;
    EXPECT_EQ(pattern.error().exit, Exit::usage) << text;
  }
}

TEST(MaskTest, BitsAndCounts) {
  for (const int64_t in : {1, 7, 8, 9, 64, 65}) {
    Mask mask = *Mask::all_kept(3, in);
    EXPECT_EQ(mask.kept_count(), 3 * in) << "unused bits are zero";
    EXPECT_EQ(mask.sparsity(), 0.0);
    mask.set(1, in - 1, false);
    EXPECT_FALSE(mask.kept(1, in - 1));
    EXPECT_TRUE(mask.kept(0, in - 1) && mask.kept(2, in - 1));
    EXPECT_EQ(mask.kept_count(), 3 * in - 1);
    EXPECT_DOUBLE_EQ(mask.sparsity(), 1.0 / double(3 * in));
    mask.set(1, in - 1, true);
    EXPECT_EQ(mask.kept_count(), 3 * in);
    EXPECT_THROW(mask.set(3, 0, true), InternalError);
  }
}

// Bits come low first, rows on a byte.
TEST(MaskTest, Layout) {
  Tensor bits = *Tensor::allocate(DType::u8, {2, 2});
  bits.mutable_data<uint8_t>()[3] = 0x02;
  const Mask mask(bits, 2, 10);
  EXPECT_TRUE(mask.kept(1, 9));
  EXPECT_EQ(mask.kept_count(), 1);
  EXPECT_THROW(Mask(bits, 2, 17), InternalError);
}

Mask mask_of(const std::vector<std::string>& rows) {
  Mask mask = *Mask::all_kept(int64_t(rows.size()), int64_t(rows[0].size()));
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < rows[r].size(); ++c) mask.set(int64_t(r), int64_t(c), rows[r][c] == '1');
  }
  return mask;
}

TEST(MaskTest, NOfM) {
  const SparsityPattern pattern = *SparsityPattern::parse("2:4");
  EXPECT_TRUE(mask_of({"11000110", "01011010"}).verify(pattern, "w"));
  const Status three = mask_of({"11000110", "01011011"}).verify(pattern, "w");
  ASSERT_FALSE(three);
  EXPECT_EQ(three.error().exit, Exit::malformed);
  EXPECT_EQ(three.error().where, "\"w\"[1,4]");
  EXPECT_EQ(three.error().got, "3");
  EXPECT_FALSE(mask_of({"10000110"}).verify(pattern, "w")) << "one kept of four";
  EXPECT_TRUE(mask_of({"1100011"}).verify(pattern, "w")) << "2 of the last 3: ceil(2 * 3 / 4) = 2";
  EXPECT_FALSE(mask_of({"1100010"}).verify(pattern, "w"));
  EXPECT_TRUE(mask_of({"11001"}).verify(pattern, "w")) << "1 of the last 1";
  EXPECT_FALSE(mask_of({"11000"}).verify(pattern, "w"));
}

TEST(MaskTest, Blocks) {
  const SparsityPattern pattern = *SparsityPattern::parse("block-2x3");
  EXPECT_TRUE(mask_of({"1110001", "1110001", "0001110"}).verify(pattern, "w"));
  const Status part = mask_of({"1110001", "1110001", "0001100"}).verify(pattern, "w");
  ASSERT_FALSE(part);
  EXPECT_EQ(part.error().where, "\"w\"[2,3]");
  EXPECT_TRUE(mask_of({"1010001"}).verify(*SparsityPattern::parse("unstructured"), "w"));
}

TEST(MaskTest, ApplyWritesPositiveZeros) {
  const Mask mask = mask_of({"101", "010"});
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Tensor ones = *Tensor::allocate(DType::f32, {2, 3});
    for (int64_t i = 0; i < 6; ++i) ones.mutable_data<float>()[i] = -2.0f;
    Tensor weight = *converted(ones, dtype);
    mask.apply(weight);
    const Tensor result = *converted(weight, DType::f32);
    for (int64_t r = 0; r < 2; ++r) {
      for (int64_t c = 0; c < 3; ++c) {
        const float value = result.data<float>()[r * 3 + c];
        EXPECT_EQ(value, mask.kept(r, c) ? -2.0f : 0.0f);
        EXPECT_EQ(std::signbit(value), mask.kept(r, c));
      }
    }
  }
}

}  // namespace
}  // namespace pare
