// activation, gated_activation, add, softcap, embedding on every backend.
#include <cmath>

#include "engine/tensor/tolerance.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

using ElementwiseTest = BackendTest;
PARE_INSTANTIATE_BACKENDS(ElementwiseTest);

constexpr Activation kKinds[] = {Activation::identity, Activation::relu,      Activation::silu,
                                 Activation::gelu,     Activation::gelu_tanh, Activation::quick_gelu};

TEST_P(ElementwiseTest, ActivationsAgreeOnAllSizes) {
  for (const Activation kind : kKinds) {
    for (const int64_t columns : kSizes) {
      SCOPED_TRACE(testing::Message() << "kind " << int(kind) << " columns " << columns);
      Padded x(uniform({3, columns}, 1, -20.0f, 20.0f)), out(3, columns, 8);
      ops::activation(kind, x.view(), out.view());
      EXPECT_TRUE(out.padding_is_intact());
      Padded in_place(copy_of(x.view()));
      ops::activation(kind, in_place.view(), in_place.view());
      EXPECT_TRUE(same_bits(in_place.view(), out.view())) << "aliased";
    }
  }
}

// Every exponent, both signs: no NaN at the far ends, and the definition everywhere.
TEST_P(ElementwiseTest, ActivationsHoldOverTheWholeRange) {
  std::vector<float> values;
  for (int exponent = -126; exponent <= 126; ++exponent) {
    for (const float mantissa : {1.0f, 1.37f, 1.99f}) {
      values.push_back(std::ldexp(mantissa, exponent));
      values.push_back(-std::ldexp(mantissa, exponent));
    }
  }
  for (float x = -110.0f; x <= 110.0f; x += 0.37f) values.push_back(x);
  const Tensor x = Tensor::wrap(values.data(), DType::f32, {1, int64_t(values.size())}, Device::check());
  Tensor out = zeros(DType::f32, x.shape());
  for (const Activation kind : kKinds) {
    SCOPED_TRACE(testing::Message() << "kind " << int(kind));
    ops::activation(kind, x, out);
    for (int64_t i = 0; i < out.numel(); ++i)
      EXPECT_TRUE(std::isfinite(out.data<float>()[i])) << values[size_t(i)];
  }
}

// Values at -2, -0.5, 0, 1, 3, from the formulas in double by the math module of Python.
TEST_P(ElementwiseTest, ActivationsGiveKnownValues) {
  struct Case {
    Activation kind;
    double expected[5];
  };
  const Case cases[] = {
      {Activation::silu, {-0.23840584, -0.18877034, 0.0, 0.73105858, 2.85772238}},
      {Activation::gelu, {-0.04550026, -0.15426877, 0.0, 0.84134475, 2.99595031}},
      {Activation::gelu_tanh, {-0.04540231, -0.15428599, 0.0, 0.84119199, 2.99636261}},
      {Activation::quick_gelu, {-0.06434138, -0.14961156, 0.0, 0.84579577, 2.98192869}},
      {Activation::relu, {0.0, 0.0, 0.0, 1.0, 3.0}},
      {Activation::identity, {-2.0, -0.5, 0.0, 1.0, 3.0}},
  };
  std::vector<float> values{-2.0f, -0.5f, 0.0f, 1.0f, 3.0f};
  const Tensor x = Tensor::wrap(values.data(), DType::f32, {1, 5}, Device::check());
  Tensor out = zeros(DType::f32, {1, 5});
  for (const Case& c : cases) {
    ops::activation(c.kind, x, out);
    for (int64_t i = 0; i < 5; ++i) EXPECT_NEAR(value_at(out, 0, i), c.expected[i], 1e-6) << int(c.kind);
  }
}

TEST_P(ElementwiseTest, GatedActivationsAgreeAndMayAlias) {
  for (const Activation kind : kKinds) {
    for (const int64_t columns : kSizes) {
      SCOPED_TRACE(testing::Message() << "kind " << int(kind) << " columns " << columns);
      const Tensor gate = uniform({4, columns}, 2, -9.0f, 9.0f), up = uniform({4, columns}, 3, -3.0f, 3.0f);
      Padded padded_gate(gate, 6), padded_up(up, 11), out(4, columns, 7);
      ops::gated_activation(kind, padded_gate.view(), padded_up.view(), out.view());
      EXPECT_TRUE(out.padding_is_intact());
      ops::gated_activation(kind, gate, padded_up.view(), padded_up.view());
      EXPECT_TRUE(same_bits(padded_up.view(), out.view())) << "out is up";
      ops::gated_activation(kind, padded_gate.view(), up, padded_gate.view());
      EXPECT_TRUE(same_bits(padded_gate.view(), out.view())) << "out is gate";
    }
  }
}

TEST_P(ElementwiseTest, AddIsExact) {
  for (const int64_t count : kSizes) {
    Tensor x = uniform({count}, 4, -1e3f, 1e3f), y = uniform({count}, 5, -1e-3f, 1e-3f);
    Tensor out = zeros(DType::f32, {count});
    ops::add(x, y, out);
    for (int64_t i = 0; i < count; ++i)
      EXPECT_EQ(out.data<float>()[i], x.data<float>()[i] + y.data<float>()[i]);
    ops::add(x, y, x);
    EXPECT_TRUE(same_bits(x, out));
    ops::add(out, out, out);
    for (int64_t i = 0; i < count; ++i) EXPECT_EQ(out.data<float>()[i], 2.0f * x.data<float>()[i]);
  }
}

TEST_P(ElementwiseTest, SoftcapBoundsAndKeepsSmallValues) {
  for (const int64_t count : kSizes) {
    Tensor x = uniform({count}, 6, -200.0f, 200.0f);
    ops::softcap(x, 30.0f);
    for (int64_t i = 0; i < count; ++i) EXPECT_LE(std::abs(x.data<float>()[i]), 30.0f);
  }
  Tensor x = uniform({50}, 7, -0.01f, 0.01f);
  const Tensor before = copy_of(x);
  ops::softcap(x, 50.0f);  // tanh(y) = y - y^3 / 3
  for (int64_t i = 0; i < 50; ++i)
    EXPECT_NEAR(x.data<float>()[i], before.data<float>()[i], tolerance::softcap(50.0));
  Tensor far = zeros(DType::f32, {2});
  far.mutable_data<float>()[0] = 1e30f;
  far.mutable_data<float>()[1] = -1e30f;
  ops::softcap(far, 30.0f);
  EXPECT_EQ(far.data<float>()[0], 30.0f);
  EXPECT_EQ(far.data<float>()[1], -30.0f);
}

TEST_P(ElementwiseTest, EmbeddingCopiesRows) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    for (const int64_t channels : kSizes) {
      SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " channels " << channels);
      const Tensor table = uniform({11, channels}, 8, -2.0f, 2.0f, dtype);
      const std::vector<int32_t> ids{10, 0, 3, 3};
      Padded out(4, channels);
      ops::embedding(indices(ids), table, 1.0f, false, out.view());
      EXPECT_TRUE(out.padding_is_intact());
      for (int64_t t = 0; t < 4; ++t) {
        for (int64_t c = 0; c < channels; ++c) {
          ASSERT_EQ(value_at(out.view(), t, c), value_at(table, ids[size_t(t)], c)) << t << "," << c;
        }
      }
      ops::embedding(indices(ids), table, 0.3f, true, out.view());
      ops::embedding(indices(ids), table, 7.0f, false, out.view());
      EXPECT_TRUE(out.padding_is_intact());
    }
  }
}

TEST_P(ElementwiseTest, QuantizedEmbeddingIsTheDequantizedRow) {
  for (const char* text :
       {"int8-ch", "int8-tensor", "int4-g32", "int4-g128-asym", "int4-g64-asymf", "int2-g64", "int3-g32-asym",
        "int5-ch", "int6-g64", "int7-g16", "nf4-g64", "fp8-e4m3-ch", "fp8-e5m2-ch"}) {
    const QuantScheme scheme = *QuantScheme::parse(text);
    for (const int64_t channels : kSizes) {
      SCOPED_TRACE(testing::Message() << text << " channels " << channels);
      const QuantizedTensor table = random_codes(scheme, 9, channels, 9, false);
      const Tensor dense = *table.dequantize();
      Padded out(3, channels);
      const std::vector<int32_t> ids{8, 0, 8};
      ops::embedding(indices(ids), table, 1.0f, false, out.view());
      EXPECT_TRUE(out.padding_is_intact());
      for (int64_t t = 0; t < 3; ++t) {
        for (int64_t c = 0; c < channels; ++c) {
          ASSERT_EQ(value_at(out.view(), t, c), value_at(dense, ids[size_t(t)], c)) << t << "," << c;
        }
      }
      ops::embedding(indices(ids), table, 12.5f, true, out.view());
    }
  }
}

TEST_P(ElementwiseTest, EmptyTensorsAreNothingToDo) {
  Tensor x = zeros(DType::f32, {3, 0}), out = zeros(DType::f32, {3, 0});
  ops::activation(Activation::silu, x, out);
  ops::gated_activation(Activation::silu, x, x, out);
  ops::add(x, x, out);
  ops::softcap(x, 1.0f);
  Tensor none = zeros(DType::f32, {0, 4});
  ops::embedding(indices({}), uniform({3, 4}, 1), 1.0f, false, none);
}

}  // namespace
}  // namespace pare::test
