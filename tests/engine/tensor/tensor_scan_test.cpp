// Non-finite values, overflow counts, positions.
#include "engine/tensor/tensor_scan.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"

namespace pare {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(ScanTest, FindsTheFirstForAnyTypeAndNumberOfThreads) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Tensor values = *Tensor::allocate(DType::f32, {1000, 333});
    float* data = values.mutable_data<float>();
    for (int64_t i = 0; i < values.numel(); ++i) data[i] = float(i % 100) - 50.0f;
    const Tensor clean = *converted(values, dtype);
    EXPECT_FALSE(scan_non_finite(clean).any());
    EXPECT_TRUE(require_finite(clean, "w", "file"));
    data[200'000] = kNan;
    data[200'001] = -INFINITY;
    data[65'536] = INFINITY;  // first of a chunk
    data[332'999] = -kNan;    // the last value
    const Tensor spoiled = *converted(values, dtype);
    for (const int threads : {1, 2, 5}) {
      set_thread_count(threads);
      const NonFinite found = scan_non_finite(spoiled);
      EXPECT_EQ(found.nan_count, 2) << dtype_name(dtype);
      EXPECT_EQ(found.infinity_count, 2) << dtype_name(dtype);
      EXPECT_EQ(found.first_index, 65'536) << dtype_name(dtype);
    }
    set_thread_count(0);
  }
}

TEST(ScanTest, EveryPositionOfASmallTensor) {
  Tensor tensor = *Tensor::allocate(DType::f32, {3, 7});
  for (int64_t i = 0; i < 21; ++i) {
    for (const float bad : {kNan, INFINITY, -INFINITY}) {
      tensor.mutable_data<float>()[i] = bad;
      EXPECT_EQ(scan_non_finite(tensor).first_index, i);
    }
    tensor.mutable_data<float>()[i] = std::numeric_limits<float>::max();
  }
  EXPECT_FALSE(scan_non_finite(tensor).any());
}

TEST(ScanTest, AllPatternsOfTheNarrowTypes) {
  for (const DType dtype : {DType::f8_e4m3, DType::f8_e5m2, DType::f16, DType::bf16}) {
    const int64_t count = int64_t{1} << dtype_bits(dtype);
    const Tensor codes = *Tensor::allocate(dtype, {count});
    int64_t nans = 0, infinities = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (dtype_bits(dtype) == 8) codes.mutable_data<uint8_t>()[i] = uint8_t(i);
      if (dtype_bits(dtype) == 16) codes.mutable_data<uint16_t>()[i] = uint16_t(i);
    }
    const Tensor values = *converted(codes, DType::f32);
    for (int64_t i = 0; i < count; ++i) {
      nans += std::isnan(values.data<float>()[i]) ? 1 : 0;
      infinities += std::isinf(values.data<float>()[i]) ? 1 : 0;
    }
    EXPECT_EQ(scan_non_finite(codes).nan_count, nans) << dtype_name(dtype);
    EXPECT_EQ(scan_non_finite(codes).infinity_count, infinities) << dtype_name(dtype);
  }
}

TEST(ScanTest, ViewsDoNotSeeTheGaps) {
  Tensor wide = *Tensor::allocate(DType::f32, {5, 9});
  for (int64_t r = 0; r < 5; ++r) wide.mutable_data<float>()[r * 9 + 8] = kNan;
  EXPECT_FALSE(scan_non_finite(wide.columns(0, 8)).any());
  wide.mutable_data<float>()[3 * 9 + 4] = INFINITY;
  EXPECT_EQ(scan_non_finite(wide.columns(2, 8)).first_index, 3 * 6 + 2);
}

TEST(ScanTest, IntegersAndF64) {
  Tensor integers = *Tensor::allocate(DType::i32, {4});
  integers.mutable_data<int32_t>()[1] = 0x7fc00000;
  EXPECT_FALSE(scan_non_finite(integers).any());
  Tensor doubles = *Tensor::allocate(DType::f64, {4});
  doubles.mutable_data<double>()[2] = std::nan("");
  EXPECT_EQ(scan_non_finite(doubles).first_index, 2);
  EXPECT_FALSE(scan_non_finite(*Tensor::allocate(DType::f32, {0, 3})).any());
}

TEST(RequireFiniteTest, NamesPositionCountAndKind) {
  Tensor tensor = *Tensor::allocate(DType::f32, {20, 5000});
  tensor.mutable_data<float>()[12 * 5000 + 4031] = kNan;
  tensor.mutable_data<float>()[15 * 5000] = INFINITY;
  const Status status = require_finite(tensor, "model.w", "a.safetensors");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().exit, Exit::numeric);
  EXPECT_EQ(status.error().rule, "NU01");
  EXPECT_EQ(status.error().where, "\"model.w\"[12,4031]");
  EXPECT_EQ(status.error().got, "1 NaN, 1 infinite of 100000");
  EXPECT_EQ(status.error().path, "a.safetensors");
  tensor.mutable_data<float>()[12 * 5000 + 4031] = 0.0f;
  EXPECT_EQ(require_finite(tensor, "model.w", "a.safetensors").error().rule, "NU02");
}

// Thresholds: the first float that rounds beyond the largest finite value of the target.
TEST(OverflowTest, Thresholds) {
  const std::tuple<DType, float> cases[] = {{DType::f16, 65520.0f},
                                            {DType::f8_e5m2, 61440.0f},
                                            {DType::f8_e4m3, std::nextafter(464.0f, INFINITY)},
                                            {DType::bf16, std::bit_cast<float>(0x7f7f8000u)}};
  for (const auto& [target, threshold] : cases) {
    Tensor tensor = *Tensor::allocate(DType::f32, {2, 3});
    float* data = tensor.mutable_data<float>();
    int64_t first = 0;
    data[1] = std::nextafter(threshold, 0.0f);
    EXPECT_EQ(count_overflow(tensor, target, &first), 0) << dtype_name(target);
    EXPECT_EQ(first, -1);
    data[4] = -threshold;
    data[5] = std::numeric_limits<float>::max();
    EXPECT_EQ(count_overflow(tensor, target, &first), 2) << dtype_name(target);
    EXPECT_EQ(first, 4);
    data[0] = INFINITY;  // not finite to begin with: another rule's business
    data[3] = kNan;
    EXPECT_EQ(count_overflow(tensor, target, nullptr), 2);
  }
}

// The two 16-bit targets overflow exactly where the conversion gives infinity.
TEST(OverflowTest, AgreesWithTheConversion) {
  for (uint32_t bits = 0x47000000u; bits < 0x7f800000u; bits += 997) {
    float value = std::bit_cast<float>(bits);
    const Tensor tensor = Tensor::wrap(&value, DType::f32, {1});
    ASSERT_EQ(count_overflow(tensor, DType::f16, nullptr) == 1, std::isinf(f16_to_float(float_to_f16(value))))
        << value;
    ASSERT_EQ(count_overflow(tensor, DType::bf16, nullptr) == 1,
              std::isinf(bf16_to_float(float_to_bf16(value))));
    if (bits > 0x48000000u) bits += 1'000'003;
  }
}

TEST(IndexTextTest, AnyRank) {
  EXPECT_EQ(index_text({20, 5000}, 12 * 5000 + 4031), "[12,4031]");
  EXPECT_EQ(index_text({7}, 3), "[3]");
  EXPECT_EQ(index_text({2, 3, 4}, 23), "[1,2,3]");
  EXPECT_EQ(index_text({}, 0), "[]");
}

}  // namespace
}  // namespace pare
