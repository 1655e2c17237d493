// Two factors and a base: the product in double, every base, faults.
#include "engine/tensor/low_rank_tensor.h"

#include <cmath>
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

constexpr int64_t kOut = 21, kIn = 40, kRank = 5;

LowRankTensor factors(DType dtype) {
  LowRankTensor tensor;
  tensor.shape = Shape{kOut, kIn};
  tensor.left = random_matrix(dtype, kOut, kRank, 1);
  tensor.right = random_matrix(dtype, kRank, kIn, 2);
  return tensor;
}

std::vector<LowRankTensor::Base> bases() {
  const SparsityPattern pattern = pattern_of("2:4");
  const Mask mask = random_mask(pattern, kOut, kIn, 0.5, 4);
  const QuantizedTensor codes = random_codes("int4-g16-asym", kOut, kIn, 5);
  return {std::monostate(), random_matrix(DType::bf16, kOut, kIn, 3),
          std::make_shared<const QuantizedTensor>(codes),
          std::make_shared<const SparseTensor>(
              *SparseTensor::from_dense(random_matrix(DType::f16, kOut, kIn, 6), mask, pattern)),
          std::make_shared<const SparseTensor>(*SparseTensor::from_quantized(codes, mask, pattern))};
}

Tensor dense_of(const LowRankTensor::Base& base) {
  if (const auto* dense = std::get_if<Tensor>(&base)) return *converted(*dense, DType::f32);
  if (const auto* codes = std::get_if<std::shared_ptr<const QuantizedTensor>>(&base))
    return *(*codes)->dequantize();
  if (const auto* sparse = std::get_if<std::shared_ptr<const SparseTensor>>(&base))
    return *converted(*(*sparse)->to_dense(), DType::f32);
  return *Tensor::allocate(DType::f32, {kOut, kIn});
}

TEST(LowRankTensorTest, ProductPlusBase) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const LowRankTensor::Base& base : bases()) {
      LowRankTensor tensor = factors(dtype);
      tensor.base = base;
      ASSERT_TRUE(tensor.validate("p", "w")) << format_error(tensor.validate("p", "w").error());
      const Tensor left = *converted(tensor.left, DType::f32), right = *converted(tensor.right, DType::f32);
      const Tensor got = *tensor.to_dense(), addend = dense_of(base);
      uint64_t bytes = uint64_t((kOut + kIn) * kRank * dtype_bytes(dtype));
      if (base.index() == 1) bytes += uint64_t(kOut * kIn * 2);
      if (base.index() < 2) {
        EXPECT_EQ(tensor.size_bytes(), bytes);
      } else {
        EXPECT_GT(tensor.size_bytes(), bytes);
      }
      std::vector<float> rows(size_t(2 * kIn));
      tensor.dense_rows(3, 5, rows.data());
      for (int64_t row = 0; row < kOut; ++row) {
        for (int64_t column = 0; column < kIn; ++column) {
          double sum = double(addend.data<float>()[row * kIn + column]);
          for (int64_t k = 0; k < kRank; ++k)
            sum +=
                double(left.data<float>()[row * kRank + k]) * double(right.data<float>()[k * kIn + column]);
          const float value = got.data<float>()[row * kIn + column];
          ASSERT_NEAR(value, sum, 1e-5) << row << "," << column;
          if (row == 3 || row == 4) {
            EXPECT_EQ(rows[size_t((row - 3) * kIn + column)], value);
          }
        }
      }
    }
  }
}

TEST(LowRankTensorTest, Faults) {
  const std::vector<std::pair<const char*, std::function<void(LowRankTensor&)>>> faults = {
      {"left rows", [](LowRankTensor& t) { t.left = random_matrix(DType::f32, kOut + 1, kRank, 1); }},
      {"right rank", [](LowRankTensor& t) { t.right = random_matrix(DType::f32, kRank + 1, kIn, 1); }},
      {"right columns", [](LowRankTensor& t) { t.right = random_matrix(DType::f32, kRank, kIn - 1, 1); }},
      {"types differ", [](LowRankTensor& t) { t.right = random_matrix(DType::bf16, kRank, kIn, 1); }},
      {"no right", [](LowRankTensor& t) { t.right = {}; }},
      {"rank 0",
       [](LowRankTensor& t) {
         t.left = *Tensor::allocate(DType::f32, {kOut, 0});
         t.right = *Tensor::allocate(DType::f32, {0, kIn});
       }},
      {"integers",
       [](LowRankTensor& t) {
         t.left = *Tensor::allocate(DType::i32, {kOut, kRank});
       }},
      {"base shape", [](LowRankTensor& t) { t.base = random_matrix(DType::f32, kOut, kIn + 1, 1); }},
      {"coded base shape",
       [](LowRankTensor& t) {
         t.base = std::make_shared<const QuantizedTensor>(random_codes("int4-g8", 3, 8, 1));
       }},
  };
  for (const auto& [what, bend] : faults) {
    LowRankTensor tensor = factors(DType::f32);
    bend(tensor);
    const Status status = tensor.validate("p", "w");
    ASSERT_FALSE(status) << what;
    EXPECT_EQ(status.error().rule, "PK11") << what;
    EXPECT_EQ(status.error().exit, Exit::malformed) << what;
  }
  LowRankTensor tensor = factors(DType::f32);
  tensor.right.mutable_data<float>()[7] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(tensor.validate("p", "w").error().exit, Exit::numeric);
}

}  // namespace
}  // namespace pare
