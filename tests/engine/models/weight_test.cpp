// One matrix in each form gives the same product and the same rows.
#include "engine/models/weight.h"

#include <gtest/gtest.h>

#include "tests/support/backends.h"
#include "tests/support/compare.h"
#include "tests/support/random_sparse.h"
#include "tests/support/tiny_model.h"

namespace pare {
namespace {

using test::checked;

constexpr int64_t kOut = 19, kIn = 33, kTokens = 5;

class Weights : public ::testing::TestWithParam<test::Arithmetic> {
 protected:
  void SetUp() override { device_ = test::use(GetParam()); }

  Tensor product(const Weight& weight, const Tensor& x) {
    Workspace workspace = checked(Workspace::reserve(weight.workspace_bytes(kTokens), device_));
    Tensor out = checked(Tensor::allocate(DType::f32, {kTokens, weight.out()}, device_));
    weight.multiply(x.on(device_), /*accumulate=*/false, out, workspace);
    EXPECT_EQ(workspace.peak(), workspace.capacity());
    return out;
  }

  // A weight made from `data` gives the product and the rows of the dense matrix, with the memory that was
  // planned.
  void expect_form(const WeightData& data);

  Device device_;
};

// x * W^T + bias in double.
Tensor expected(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  Tensor out = checked(Tensor::allocate(DType::f32, {x.size(0), weight.size(0)}));
  for (int64_t t = 0; t < x.size(0); ++t) {
    for (int64_t o = 0; o < weight.size(0); ++o) {
      double sum = double(bias.data<float>()[o]);
      for (int64_t i = 0; i < x.size(1); ++i)
        sum += double(x.data<float>()[t * x.size(1) + i]) * double(weight.data<float>()[o * x.size(1) + i]);
      out.mutable_data<float>()[t * weight.size(0) + o] = float(sum);
    }
  }
  return out;
}

void Weights::expect_form(const WeightData& data) {
  const StoredTensor stored = data.described("w");
  const Tensor dense = checked(converted(checked(data.to_dense_tensor()), DType::f32));
  const Tensor x = test::random_normal({kTokens, kIn}, "x", 0, 1),
               bias = test::random_normal({kOut}, "b", 0, 1);
  const Weight made = checked(Weight::make("w", data, false, bias.on(device_), device_));
  ASSERT_TRUE(made.defined());
  EXPECT_EQ(made.out(), kOut);
  EXPECT_LE(test::relative_error(product(made, x), expected(x, dense, bias)), 1e-5) << stored.form_text();
  EXPECT_EQ(Weight::planned(stored, kOut, kIn, device_).workspace_bytes(kTokens),
            made.workspace_bytes(kTokens))
      << stored.form_text();
  // accumulate adds to what is there
  Workspace workspace = checked(Workspace::reserve(made.workspace_bytes(kTokens), device_));
  Tensor out = checked(Tensor::allocate(DType::f32, {kTokens, kOut}, device_));
  made.multiply(x.on(device_), /*accumulate=*/true, out, workspace);
  made.multiply(x.on(device_), /*accumulate=*/true, out, workspace);
  Tensor twice = expected(x, dense, bias);
  for (int64_t i = 0; i < twice.numel(); ++i) twice.mutable_data<float>()[i] *= 2.0f;
  EXPECT_LE(test::relative_error(out, twice), 1e-5) << stored.form_text();

  const Weight table = checked(Weight::make("w", data, false, {}, device_, WeightUse::both));
  const std::vector<int32_t> ids{3, 0, 18, 3, 7};
  Tensor rows = checked(Tensor::allocate(DType::f32, {kTokens, kIn}, device_));
  table.gather(test::tensor_of(ids, device_), 1.0f, /*accumulate=*/false, rows);
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t i = 0; i < kIn; ++i)
      ASSERT_FLOAT_EQ(rows.data<float>()[t * kIn + i], dense.data<float>()[ids[size_t(t)] * kIn + i])
          << stored.form_text();
}

TEST_P(Weights, DenseFormsAgree) {
  const Tensor weight = test::random_normal({kOut, kIn}, "w", 0, 1),
               x = test::random_normal({kTokens, kIn}, "x", 0, 1);
  const Tensor bias = test::random_normal({kOut}, "b", 0, 1);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16, DType::f8_e4m3, DType::f8_e5m2}) {
    const auto narrow = converted(weight, dtype);
    if (!narrow) continue;  // rounding to the 8-bit floats may not be offered
    const Tensor exact = checked(converted(*narrow, DType::f32));
    const Tensor want = expected(x, exact, bias);
    const Weight plain = checked(Weight::make("w", {.form = *narrow}, false, bias.on(device_), device_));
    EXPECT_LE(test::relative_error(product(plain, x), want), 1e-6) << dtype_name(dtype);
    const Tensor swapped = checked(transposed(*narrow));
    const Weight conv = checked(Weight::make("w", {.form = swapped}, true, bias.on(device_), device_));
    EXPECT_TRUE(conv.is_copy());
    EXPECT_EQ(conv.out(), kOut);
    EXPECT_LE(test::relative_error(product(conv, x), want), 1e-6) << dtype_name(dtype);
  }
}

TEST_P(Weights, MappedBytesAreUsedWithoutCopying) {
  const Tensor weight = checked(converted(test::random_normal({kOut, kIn}, "w", 0, 1), DType::bf16));
  const Weight made = checked(Weight::make("w", {.form = weight}, false, {}, device_));
  EXPECT_FALSE(made.is_copy());
  EXPECT_EQ(made.size_bytes(), weight.size_bytes());
  EXPECT_EQ(weight.storage().use_count(), 2);
}

TEST_P(Weights, QuantizedEqualsItsDequantizedForm) {
  const Tensor weight = test::random_normal({kOut, kIn}, "w", 0, 1),
               x = test::random_normal({kTokens, kIn}, "x", 0, 1);
  const Tensor bias = test::random_normal({kOut}, "b", 0, 1);
  const auto quantized = std::make_shared<const QuantizedTensor>(test::int8_of(weight));
  ASSERT_TRUE(quantized->validate("p", "w"));
  const Tensor dense = checked(quantized->dequantize());
  const Weight made =
      checked(Weight::make("w", {.form = quantized}, false, bias.on(device_), device_, WeightUse::both));
  EXPECT_LE(test::relative_error(product(made, x), expected(x, dense, bias)), 1e-5);
  const WeightData form{.form = quantized};
  EXPECT_EQ(Weight::planned(form.described("w"), kOut, kIn, device_).workspace_bytes(kTokens),
            made.workspace_bytes(kTokens));

  const std::vector<int32_t> ids{3, 0, 18, 3, 7};
  Tensor rows = checked(Tensor::allocate(DType::f32, {kTokens, kIn}, device_));
  made.gather(test::tensor_of(ids, device_), 2.0f, /*accumulate=*/false, rows);
  for (int64_t t = 0; t < kTokens; ++t)
    for (int64_t i = 0; i < kIn; ++i)
      EXPECT_FLOAT_EQ(rows.data<float>()[t * kIn + i], 2.0f * dense.data<float>()[ids[size_t(t)] * kIn + i]);
}

TEST_P(Weights, SparseFormsEqualTheMatrixWithZeros) {
  uint64_t seed = 0;
  for (const char* text : {"unstructured", "2:4", "3:7", "block-4x4"}) {
    const SparsityPattern pattern = test::pattern_of(text);
    const Mask mask = test::random_mask(pattern, kOut, kIn, 0.5, ++seed);
    for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      expect_form({.form = std::make_shared<const SparseTensor>(checked(SparseTensor::from_dense(
                       test::random_matrix(dtype, kOut, kIn, seed), mask, pattern)))});
    }
    for (const char* scheme :
         {"int8-ch", "int4-g16", "int4-g16-asym", "int4-g16-asymf", "codebook3-g16", "nf4-g16"}) {
      const QuantizedTensor codes = test::random_codes(scheme, kOut, kIn, seed);
      expect_form({.form = std::make_shared<const SparseTensor>(
                       checked(SparseTensor::from_quantized(codes, mask, pattern)))});
    }
  }
}

TEST_P(Weights, LowRankFormsAreTwoProductsAndABase) {
  const SparsityPattern pattern = test::pattern_of("2:4");
  const Mask mask = test::random_mask(pattern, kOut, kIn, 0.5, 3);
  const QuantizedTensor codes = test::random_codes("int4-g16-asym", kOut, kIn, 4);
  const std::vector<LowRankTensor::Base> bases = {
      std::monostate(), test::random_matrix(DType::bf16, kOut, kIn, 5),
      std::make_shared<const QuantizedTensor>(codes),
      std::make_shared<const SparseTensor>(
          checked(SparseTensor::from_dense(test::random_matrix(DType::f16, kOut, kIn, 6), mask, pattern))),
      std::make_shared<const SparseTensor>(checked(SparseTensor::from_quantized(codes, mask, pattern)))};
  for (const LowRankTensor::Base& base : bases) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      LowRankTensor tensor;
      tensor.shape = Shape{kOut, kIn};
      tensor.left = test::random_matrix(dtype, kOut, 6, 7);
      tensor.right = test::random_matrix(dtype, 6, kIn, 8);
      tensor.base = base;
      expect_form({.form = std::make_shared<const LowRankTensor>(tensor)});
    }
  }
}

// A product of integers: the same bytes however it is computed, and near the product with float inputs.
TEST_P(Weights, RoundedInputsGiveTheBytesOfTheReference) {
  const Tensor weight = test::random_normal({kOut, kIn}, "w", 0, 1),
               x = test::random_normal({kTokens, kIn}, "x", 0, 1);
  const Tensor bias = test::random_normal({kOut}, "b", 0, 1);
  QuantizedTensor quantized = test::int8_of(weight);
  quantized.activation = ActivationQuant{};
  const auto shared = std::make_shared<const QuantizedTensor>(quantized);
  const Weight made = checked(Weight::make("w", {.form = shared}, false, bias.on(device_), device_));
  const WeightData form{.form = shared};
  EXPECT_EQ(Weight::planned(form.described("w"), kOut, kIn, device_).workspace_bytes(kTokens),
            made.workspace_bytes(kTokens));
  const Tensor got = product(made, x);
  EXPECT_LE(test::relative_error(got, expected(x, checked(quantized.dequantize()), bias)), 0.02);
  const Tensor kept = checked(converted(got, DType::f32));

  const Device reference = test::use(test::arithmetics_of_this_host().front());
  const Weight oracle = checked(Weight::make("w", {.form = shared}, false, bias.on(reference), reference));
  Tensor want = checked(Tensor::allocate(DType::f32, {kTokens, kOut}, reference));
  Workspace workspace = checked(Workspace::reserve(oracle.workspace_bytes(kTokens), reference));
  oracle.multiply(x.on(reference), /*accumulate=*/false, want, workspace);
  EXPECT_EQ(test::relative_error(kept, want), 0.0);
}

TEST_P(Weights, InputsThatCannotBeRoundedAreRefused) {
  QuantizedTensor quantized = test::int8_of(test::random_normal({kOut, kIn}, "w", 0, 1));
  quantized.activation = ActivationQuant{.bits = 4};
  const auto made =
      Weight::make("w", {.form = std::make_shared<const QuantizedTensor>(quantized)}, false, {}, device_);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().exit, Exit::unsupported);
}

INSTANTIATE_TEST_SUITE_P(Arithmetics, Weights, ::testing::ValuesIn(test::arithmetics_of_this_host()),
                         [](const auto& info) { return test::test_name(info.param.name); });

}  // namespace
}  // namespace pare
