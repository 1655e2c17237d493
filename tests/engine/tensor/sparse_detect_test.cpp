// The sparse form of a matrix that has zeros: the pattern is found, the values stay.
#include "engine/tensor/sparse_detect.h"

#include <cstring>

#include <gtest/gtest.h>

#include "tests/support/random_sparse.h"

namespace pare {
namespace {

using test::pattern_of;
using test::random_codes;
using test::random_mask;
using test::random_matrix;

bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         std::memcmp(a.raw(), b.raw(), a.size_bytes()) == 0;
}

// With negative zeros where `w * mask` of other programs leaves them.
Tensor pruned(DType dtype, const Mask& mask, bool negative_zeros) {
  Tensor weight = random_matrix(dtype, mask.out(), mask.in(), 3);
  mask.apply(weight);
  for (int64_t row = 0; negative_zeros && row < mask.out(); ++row) {
    for (int64_t column = row % 3; column < mask.in(); column += 3) {
      if (mask.kept(row, column)) continue;
      const int64_t at = row * mask.in() + column;
      if (dtype == DType::f32) {
        weight.mutable_data<float>()[at] = -0.0f;
      } else {
        weight.mutable_data<uint16_t>()[at] = 0x8000;
      }
    }
  }
  return weight;
}

// Patterns whose indices cost less than a mask and its pointers.
TEST(SparseDetectTest, FindsThePatternThatWasUsed) {
  for (const char* text :
       {"unstructured", "2:4", "4:8", "1:4", "1:2", "block-1x8", "block-4x4", "block-16x16"}) {
    for (const int64_t in : {128, 131}) {
      for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        const Mask mask = random_mask(pattern_of(text), 64, in, 0.5, 9);
        const auto found = sparse_form_of(pruned(dtype, mask, true), std::nullopt);
        ASSERT_TRUE(found && *found) << text;
        EXPECT_EQ((*found)->pattern.text(), text) << in;
        EXPECT_TRUE((*found)->validate("p", "w"));
        EXPECT_TRUE(same(*(*found)->to_dense(), pruned(dtype, mask, false))) << text;
      }
    }
  }
}

TEST(SparseDetectTest, AskedForOneItIsThatOrNothing) {
  const Tensor loose = pruned(DType::bf16, random_mask({}, 32, 64, 0.5, 1), false);
  EXPECT_FALSE(*sparse_form_of(loose, pattern_of("2:4")));
  EXPECT_TRUE(*sparse_form_of(loose, pattern_of("unstructured")));
  EXPECT_FALSE(*sparse_form_of(loose, pattern_of("block-16x16"))) << "every block is kept: nothing gained";
  const Tensor quarter = pruned(DType::bf16, random_mask(pattern_of("1:4"), 32, 63, 0.5, 1), false);
  EXPECT_TRUE(*sparse_form_of(quarter, pattern_of("2:4"))) << "zeros fill the groups";
  EXPECT_TRUE(same(*(*sparse_form_of(quarter, pattern_of("2:4")))->to_dense(), quarter));
  EXPECT_FALSE(*sparse_form_of(random_matrix(DType::bf16, 32, 64, 1), std::nullopt)) << "no zeros";
  EXPECT_FALSE(*sparse_form_of(*Tensor::allocate(DType::i32, {4, 4}), std::nullopt)) << "no sparse form";
}

TEST(SparseDetectTest, FittedMasksFollowTheirPattern) {
  for (const char* text : {"2:4", "3:4", "5:8", "2:7", "block-3x5", "unstructured"}) {
    for (const double share : {0.0, 0.05, 0.2}) {
      const Mask nonzero = random_mask({}, 13, 45, share, 5);
      const auto mask = fitted_mask(nonzero, pattern_of(text));
      ASSERT_TRUE(mask);
      if (!*mask) continue;
      EXPECT_TRUE((*mask)->verify(pattern_of(text), "w")) << text;
      for (int64_t row = 0; row < 13; ++row)
        for (int64_t column = 0; column < 45; ++column)
          EXPECT_TRUE((*mask)->kept(row, column) || !nonzero.kept(row, column)) << text;
    }
  }
  EXPECT_TRUE(*fitted_mask(random_mask({}, 13, 45, 0.0, 5), pattern_of("2:4")));
  EXPECT_FALSE(*fitted_mask(*Mask::all_kept(2, 8), pattern_of("2:4")));
}

TEST(SparseDetectTest, CodesOfZero) {
  const Mask mask = random_mask(pattern_of("2:4"), 16, 128, 0.5, 2);
  const SparseTensor sparse =
      *SparseTensor::from_quantized(random_codes("int4-g32", 16, 128, 2), mask, pattern_of("2:4"));
  const QuantizedTensor whole = *sparse.to_quantized("p", "w");
  EXPECT_TRUE(*zeros_hold(whole, mask));
  EXPECT_FALSE(*zeros_hold(random_codes("int4-g32", 16, 128, 2), mask));
  const auto found = sparse_form_of(whole, std::nullopt);
  ASSERT_TRUE(found && *found);
  EXPECT_TRUE(same(*(*found)->to_dense(), *sparse.to_dense()));
  EXPECT_LE((*found)->size_bytes(), sparse.size_bytes());
}

}  // namespace
}  // namespace pare
