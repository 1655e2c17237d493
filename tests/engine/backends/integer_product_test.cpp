// Products of rounded activations with integer codes, on every backend: exactly the reference, and the
// reference exactly what integer_product.h says, computed here a second time.
#include "engine/tensor/integer_product.h"

#include <cmath>
#include <limits>

#include "engine/core/parallel.h"
#include "tests/engine/backends/test_backends.h"

namespace pare::test {
namespace {

using IntegerProductTest = BackendTest;
PARE_INSTANTIATE_BACKENDS(IntegerProductTest);

constexpr const char* kSchemes[] = {"int8-ch",        "int8-tensor",     "int8-g64",      "int8-g64-asym",
                                    "int8-ch-asym",   "int8-g24",        "int8-ch-full",  "int8-ch-sf32",
                                    "int8-g32-sbf16", "int4-g64",        "int4-g32-asym", "int6-ch",
                                    "int2-g16",       "int8-tensor-asym"};

ActivationQuant dynamic(bool symmetric) {
  return {.symmetric = symmetric};
}
ActivationQuant fixed(float scale, bool symmetric = true, int zero_point = 0) {
  return {.mode = ActivationQuant::Mode::static_tensor,
          .symmetric = symmetric,
          .scale = scale,
          .zero_point = zero_point};
}
const std::vector<ActivationQuant>& activations() {
  static const std::vector<ActivationQuant> all{dynamic(true), dynamic(false), fixed(0.01f),
                                                fixed(0.004f, false, -17)};
  return all;
}

Result<PackedMatrix> pack(QuantizedTensor weight, const ActivationQuant& activation) {
  weight.activation = activation;
  return backend_for(Device::check()).prepack(std::make_shared<QuantizedTensor>(std::move(weight)));
}

void product(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, bool accumulate, Tensor& out) {
  Workspace workspace =
      *Workspace::reserve(ops::matmul_workspace_bytes(Device::check(), weight, x.size(0)), Device::check());
  ops::matmul(x, weight, bias, accumulate, out, workspace);
}

// The formula, from dequantized integers: weights with unit scales are code - zero.
float by_hand(const QuantizedTensor& weight, const Tensor& units, const ActivationQuant& activation,
              const float* x, int64_t n, float bias) {
  std::vector<int8_t> codes(size_t(weight.in()));
  const RoundedRow row = round_activations(activation, x, weight.in(), codes.data());
  const int64_t width = weight.scheme.group_width(weight.in()), groups = weight.scheme.groups(weight.in());
  float total = 0.0f;
  for (int64_t g = 0; g < groups; ++g) {
    int64_t sum = 0;
    for (int64_t k = g * width; k < std::min(weight.in(), (g + 1) * width); ++k)
      sum += int64_t(value_at(units, n, k)) * (codes[size_t(k)] - row.zero_point);
    const bool is_tensor = weight.scheme.granularity == QuantScheme::Granularity::tensor;
    const float scale = float(value_at(weight.scales, is_tensor ? 0 : n, g));
    total += (row.scale * scale) * float(sum);
  }
  return total + bias;
}

Tensor constant(DType dtype, const Shape& shape, int value) {
  return integers(shape, 1, value, value, dtype);
}

QuantizedTensor with_unit_scales(QuantizedTensor weight) {
  weight.scales = constant(weight.scales.dtype(), weight.scales.shape(), 1);
  return weight;
}

TEST_P(IntegerProductTest, IsTheFormulaToTheLastBit) {
  for (const char* text : kSchemes) {
    const QuantScheme scheme = *QuantScheme::parse(text);
    for (const auto& [m, n, k] : {std::tuple{1, 5, 3}, {3, 17, 65}, {15, 33, 129}, {2, 9, 300}}) {
      const QuantizedTensor weight = random_codes(scheme, n, k, 2, false);
      const Tensor units = *with_unit_scales(weight).dequantize();
      const Tensor x = uniform({m, k}, 3), bias = uniform({n}, 4);
      for (const ActivationQuant& activation : activations()) {
        SCOPED_TRACE(testing::Message()
                     << text << ", " << activation.text() << " m " << m << " n " << n << " k " << k);
        Padded out(m, n, 3);
        product(x, *pack(weight, activation), bias, false, out.view());
        EXPECT_TRUE(out.padding_is_intact());
        for (int64_t r = 0; r < m; ++r) {
          for (int64_t c = 0; c < n; ++c) {
            ASSERT_EQ(float(value_at(out.view(), r, c)),
                      by_hand(weight, units, activation, x.data<float>() + r * k, c, bias.data<float>()[c]))
                << r << "," << c;
          }
        }
      }
    }
  }
}

// The check backend compares bit for bit.
TEST_P(IntegerProductTest, AgreesOnAllSizes) {
  for (const char* text : {"int8-ch", "int8-g32", "int8-g24-asym"}) {
    for (const int64_t n : {1, 7, 8, 15, 16, 17, 31, 32, 33, 65}) {
      for (const int64_t k : {1, 3, 4, 5, 64, 127, 515}) {
        const PackedMatrix weight =
            *pack(random_codes(*QuantScheme::parse(text), n, k, 2, false), dynamic(true));
        for (const int64_t m : {1, 2, 3, 13, 14, 15, 29, 33}) {
          SCOPED_TRACE(testing::Message() << text << " m " << m << " n " << n << " k " << k);
          Padded x(uniform({m, k}, 5)), out(uniform({m, n}, 6), 3);
          product(x.view(), weight, uniform({n}, 7), true, out.view());
          EXPECT_TRUE(out.padding_is_intact());
        }
      }
    }
  }
}

// Every product at its largest, of one sign: sums reach the end of int32 and are cut beyond it.
TEST_P(IntegerProductTest, LongRowsDoNotOverflow) {
  for (const char* text : {"int8-ch", "int8-ch-full", "int8-ch-asym"}) {
    const QuantScheme scheme = *QuantScheme::parse(text);
    for (const ActivationQuant& activation : {dynamic(true), fixed(1.0f, false, -128)}) {
      const IntegerSegments bound(scheme, activation, 1 << 20);
      for (const int64_t k : {bound.widest, bound.widest + 1, 2 * bound.widest + 5}) {
        SCOPED_TRACE(testing::Message() << text << ", " << activation.text() << " k " << k);
        QuantizedTensor weight = *QuantizedTensor::allocate(scheme, 2, k);
        std::fill_n(weight.codes.mutable_data<uint8_t>(), k, uint8_t{255});
        std::fill_n(weight.codes.mutable_data<uint8_t>() + k, k,
                    uint8_t(scheme.text() == "int8-ch-sym" ? 1 : 0));
        weight.scales = constant(DType::f16, weight.scales.shape(), 1);
        if (weight.zero_points.defined()) weight.zero_points.mutable_data<uint8_t>()[1] = 255;
        const int value = activation.symmetric ? 127 : 255;
        const Tensor x = constant(DType::f32, {1, k}, value);
        Tensor out = zeros(DType::f32, {1, 2});
        product(x, *pack(weight, activation), Tensor(), false, out);
        const double high = weight.zero_points.defined() ? 255.0 : 127.0;
        const double low = scheme.range == QuantScheme::Range::full ? 128.0 : high;
        EXPECT_NEAR(value_at(out, 0, 0), double(k) * value * high, 1e-6 * double(k) * value * high);
        EXPECT_NEAR(value_at(out, 0, 1), -double(k) * value * low, 1e-6 * double(k) * value * low);
      }
    }
  }
}

TEST(IntegerSegmentsTest, BoundsOfInt32) {
  const auto widest = [](const char* scheme, bool symmetric) {
    return IntegerSegments(*QuantScheme::parse(scheme), dynamic(symmetric), 1 << 20).widest;
  };
  EXPECT_EQ(widest("int8-ch", true), 133144 / 64 * 64);  // algorithms: s8 x s8 narrow
  EXPECT_EQ(widest("int8-ch-asym", true), 66311 / 64 * 64);
  EXPECT_LE(widest("int8-ch-full", true), 132104);
  EXPECT_EQ(widest("int8-ch-asym", false), 33025 / 64 * 64);
}

TEST_P(IntegerProductTest, ZeroTokensGiveTheBiasAndBadOnesNaN) {
  const PackedMatrix weight =
      *pack(random_codes(*QuantScheme::parse("int8-ch"), 19, 40, 8, false), dynamic(true));
  Tensor x = uniform({5, 40}, 9);
  float* values = x.mutable_data<float>();
  std::fill_n(values, 40, 0.0f);
  values[40 + 3] = std::numeric_limits<float>::quiet_NaN();
  values[80 + 39] = std::numeric_limits<float>::infinity();
  for (int i = 0; i < 40; ++i) values[120 + i] *= 1e-42f;  // subnormal: the scale is raised, codes are small
  for (int i = 0; i < 40; ++i) values[160 + i] *= 1e36f;
  const Tensor bias = uniform({19}, 10);
  Tensor out = zeros(DType::f32, {5, 19});
  product(x, weight, bias, false, out);
  for (int64_t c = 0; c < 19; ++c) {
    EXPECT_EQ(float(value_at(out, 0, c)), bias.data<float>()[c]);
    EXPECT_TRUE(std::isnan(value_at(out, 1, c)));
    EXPECT_TRUE(std::isnan(value_at(out, 2, c)));
    EXPECT_TRUE(std::isfinite(value_at(out, 3, c)));
    EXPECT_TRUE(std::isfinite(value_at(out, 4, c)));
  }
}

TEST_P(IntegerProductTest, StaticScalesSaturate) {
  const QuantizedTensor weight = random_codes(*QuantScheme::parse("int8-ch"), 4, 16, 11, false);
  Tensor far = zeros(DType::f32, {1, 16}), end = zeros(DType::f32, {1, 16});
  for (int i = 0; i < 16; ++i) {
    far.mutable_data<float>()[i] = i % 2 == 0 ? 1e30f : -1e30f;
    end.mutable_data<float>()[i] = i % 2 == 0 ? 127.0f * 0.5f : -127.0f * 0.5f;
  }
  Tensor a = zeros(DType::f32, {1, 4}), b = zeros(DType::f32, {1, 4});
  const PackedMatrix packed = *pack(weight, fixed(0.5f));
  product(far, packed, Tensor(), false, a);
  product(end, packed, Tensor(), false, b);
  EXPECT_TRUE(same_bits(a, b));
}

TEST_P(IntegerProductTest, SameBytesForAnyNumberOfThreadsAndAnyBatch) {
  const int before = thread_count();
  const PackedMatrix weight =
      *pack(random_codes(*QuantScheme::parse("int8-g64"), 200, 192, 12, false), dynamic(true));
  const Tensor x = uniform({37, 192}, 13);
  std::vector<Tensor> results;
  for (const int threads : {1, 2, 4}) {
    set_thread_count(threads);
    results.push_back(zeros(DType::f32, {37, 200}));
    product(x, weight, Tensor(), false, results.back());
  }
  set_thread_count(before);
  EXPECT_TRUE(same_bits(results[0], results[1]));
  EXPECT_TRUE(same_bits(results[0], results[2]));
  for (const int64_t row : {0, 13, 36}) {  // a token alone
    Tensor one = zeros(DType::f32, {1, 200});
    product(x.rows(row, row + 1), weight, Tensor(), false, one);
    EXPECT_TRUE(same_bits(one, results[0].rows(row, row + 1)));
  }
}

TEST_P(IntegerProductTest, RefusesWhatHasNoIntegerProduct) {
  for (const char* text : {"nf4-g64", "fp8-e4m3-ch", "int4-g32-asymf"}) {
    const auto packed = tested().prepack([&] {
      QuantizedTensor weight = random_codes(*QuantScheme::parse(text), 4, 64, 14, false);
      weight.activation = dynamic(true);
      return std::make_shared<QuantizedTensor>(weight);
    }());
    ASSERT_FALSE(packed) << text;
    EXPECT_EQ(packed.error().exit, Exit::unsupported);
  }
  ActivationQuant narrow = dynamic(true);
  narrow.bits = 4;
  EXPECT_EQ(pack(random_codes(*QuantScheme::parse("int8-ch"), 4, 64, 15, false), narrow).error().exit,
            Exit::unsupported);
}

TEST_P(IntegerProductTest, EmptyMatrices) {
  const PackedMatrix no_inputs =
      *pack(random_codes(*QuantScheme::parse("int8-ch"), 3, 0, 16, false), dynamic(true));
  const Tensor bias = uniform({3}, 17);
  Tensor out = zeros(DType::f32, {2, 3});
  product(zeros(DType::f32, {2, 0}), no_inputs, bias, false, out);
  EXPECT_TRUE(same_bits(out.rows(0, 1).reshaped({3}), bias));
}

}  // namespace
}  // namespace pare::test
