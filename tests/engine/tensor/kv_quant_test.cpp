// Keys and values as codes: grids, bytes and degenerate vectors.
#include "engine/tensor/kv_quant.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "engine/backends/reference/reference_backend.h"
#include "engine/core/random.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/ops.h"

namespace pare {
namespace {

constexpr KvQuant kInt8{KvQuant::Kind::int8}, kInt4{KvQuant::Kind::int4};

struct Encoded {
  std::vector<uint8_t> codes;
  uint16_t scale = 0;
  uint8_t zero = 0;
  std::vector<float> back;
};

Encoded encode(KvQuant quant, const std::vector<float>& x) {
  Encoded e;
  e.codes.assign(size_t(quant.row_bytes(int64_t(x.size()))), 0xaa);
  e.back.resize(x.size());
  kv_encode(quant, x.data(), int64_t(x.size()), e.codes.data(), &e.scale,
            quant.has_zeros() ? &e.zero : nullptr);
  kv_decode(quant, e.codes.data(), e.scale, e.zero, int64_t(x.size()), e.back.data());
  return e;
}

std::vector<float> vector_of(int64_t count, uint64_t seed) {
  const Random random(seed, RandomPurpose::test_data);
  std::vector<float> x(static_cast<size_t>(count));
  for (size_t i = 0; i < x.size(); ++i) x[i] = 6.0f * random.uniform(i) - 2.0f;
  return x;
}

TEST(KvQuantTest, NamesAndBytes) {
  for (const char* name : {"none", "int8", "int4"}) EXPECT_EQ(KvQuant::parse(name)->name(), name);
  EXPECT_FALSE(KvQuant::parse("int2"));
  EXPECT_EQ(KvQuant{}.vector_bytes(64), 256u);
  EXPECT_EQ(kInt8.vector_bytes(64), 66u);  // d + 2, algorithms 4.10
  EXPECT_EQ(kInt4.vector_bytes(64), 35u);
  EXPECT_EQ(kInt4.vector_bytes(7), 7u);
}

TEST(KvQuantTest, ErrorIsAtMostHalfAStep) {
  for (const int64_t d : {1, 2, 7, 64, 65, 512}) {
    for (const KvQuant quant : {kInt8, kInt4}) {
      const std::vector<float> x = vector_of(d, uint64_t(d));
      const Encoded e = encode(quant, x);
      const float step = f16_to_float(e.scale);
      for (size_t i = 0; i < x.size(); ++i) {
        // int4: both ends are off by the rounding of the zero point and of the scale as well
        EXPECT_LE(std::abs(e.back[i] - x[i]), step * (quant == kInt8 ? 0.56f : 1.01f))
            << quant.name() << " " << i;
        EXPECT_EQ(e.back[i], kv_value(quant, e.codes.data(), e.scale, e.zero, d, int64_t(i)));
      }
    }
  }
}

// Codes 127 (255 as stored) at the largest magnitude; -128 never.
TEST(KvQuantTest, Int8ByHand) {
  const Encoded e = encode(kInt8, {127.0f, -127.0f, 0.0f, 1.5f, 2.5f, -0.4f});
  EXPECT_EQ(f16_to_float(e.scale), 1.0f);
  EXPECT_EQ(e.codes, (std::vector<uint8_t>{255, 1, 128, 130, 130, 128}));
}

TEST(KvQuantTest, Int4ByHand) {
  const Encoded e = encode(kInt4, {-5.0f, 10.0f, 0.0f, 2.5f, 3.5f});
  EXPECT_EQ(f16_to_float(e.scale), 1.0f);
  EXPECT_EQ(e.zero, 5);
  EXPECT_EQ(e.codes,
            (std::vector<uint8_t>{0x70, 0x9f, 0x05}));  // 0|7, 15|9, 5: component i below, i + 3 above
  EXPECT_EQ(e.back, (std::vector<float>{-5.0f, 10.0f, 0.0f, 2.0f, 4.0f}));
}

TEST(KvQuantTest, RoundingAgainChangesNothing) {
  for (const KvQuant quant : {kInt8, kInt4}) {
    const Encoded once = encode(quant, vector_of(64, 3));
    EXPECT_LE(std::abs(f16_to_float(encode(quant, once.back).scale) - f16_to_float(once.scale)),
              f16_to_float(once.scale) * 0x1p-4f);
  }
}

TEST(KvQuantTest, DegenerateVectors) {
  for (const KvQuant quant : {kInt8, kInt4}) {
    const Encoded zeros = encode(quant, std::vector<float>(5, 0.0f));
    EXPECT_EQ(f16_to_float(zeros.scale), 1.0f);
    EXPECT_EQ(zeros.back, std::vector<float>(5, 0.0f));
    const Encoded tiny = encode(quant, {1e-30f, -1e-42f, 0.0f});
    for (const float x : tiny.back) EXPECT_LE(std::abs(x), 0x1p-14f);
    const Encoded huge = encode(quant, {3e38f, -3e38f});
    for (const float x : huge.back) EXPECT_TRUE(std::isfinite(x));
    for (const float bad :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      const Encoded e = encode(quant, {1.0f, bad, 2.0f});
      for (const float x : e.back) EXPECT_TRUE(std::isnan(x));
    }
  }
}

TEST(KvQuantTest, HeadsAreIndependent) {
  install_backend(make_reference_backend());
  for (const KvQuant quant : {kInt8, kInt4}) {
    Tensor x = *Tensor::allocate(DType::f32, {3, 24});
    const std::vector<float> values = vector_of(72, 4);
    std::ranges::copy(values, x.mutable_data<float>());
    Tensor other = *converted(x, DType::f32);
    if (other.raw() == x.raw()) {
      other = *Tensor::allocate(DType::f32, {3, 24});
      std::ranges::copy(values, other.mutable_data<float>());
    }
    for (int row = 0; row < 3; ++row)
      for (int d = 8; d < 16; ++d) other.mutable_data<float>()[row * 24 + d] *= 100.0f;  // the second head
    Tensor seen = x.on(Device::reference()), other_seen = other.on(Device::reference());
    ops::kv_round(quant, seen, 3);
    ops::kv_round(quant, other_seen, 3);
    for (int i = 0; i < 72; ++i) {
      if (i % 24 >= 8 && i % 24 < 16) continue;
      EXPECT_EQ(x.data<float>()[i], other.data<float>()[i]) << i;
    }
  }
}

}  // namespace
}  // namespace pare
