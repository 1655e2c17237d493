// The small operations of training, and those over lists, on every backend.
#include <cmath>
#include <cstring>
#include <limits>

#include "engine/tensor/float_formats.h"
#include "tests/engine/backends/training_support.h"

namespace pare::test {
namespace {

using TrainingSmallTest = TrainingTest;
PARE_INSTANTIATE_BACKENDS(TrainingSmallTest);

Mask striped(int64_t rows, int64_t columns) {
  Mask mask = *Mask::all_kept(rows, columns);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = r % 3; c < columns; c += 3) mask.set(r, c, false);
  return mask;
}

// Sizes below and above a block's piece, with and without masks, and one that begins off a 16-byte boundary.
TEST_P(TrainingSmallTest, AListOfParametersIsEachByItself) {
  const std::vector<Shape> shapes{{3, 5}, {1, 16'384}, {130, 257}, {1, 1}, {7, 33}};
  const Mask mask = striped(130, 257);
  std::vector<ops::AdamWItem> items;
  std::vector<std::vector<Tensor>> alone;
  for (size_t i = 0; i < shapes.size(); ++i) {
    const uint64_t seed = 40 + 10 * i;
    const Shape wider{shapes[i].numel() + 1};
    const auto make = [&](uint64_t s, float low, float high) {
      const Tensor whole = uniform(wider, s, low, high).on(device());
      const int64_t begin = i == 4 ? 1 : 0;
      return whole.rows(begin, begin + shapes[i].numel()).reshaped(shapes[i]);
    };
    const std::vector<Tensor> all{make(seed, -1, 1), make(seed + 1, -0.1f, 0.1f), make(seed + 2, 0, 0.01f),
                                  make(seed + 3, -2, 2)};
    alone.emplace_back();
    for (const Tensor& x : all) alone.back().push_back(copy_of(x).on(device()));
    const float rate = 1e-3f * float(i + 1);
    items.push_back({all[0],
                     all[1],
                     all[2],
                     all[3],
                     i == 2 ? &mask : nullptr,
                     {.gradient_scale = 0.5f, .lr = rate, .decay = i % 2 ? 0.1f : 0.0f, .step = 3}});
  }
  ops::adamw_list(items);
  for (size_t i = 0; i < items.size(); ++i) {
    ops::adamw(alone[i][0], alone[i][1], alone[i][2], alone[i][3], items[i].mask, items[i].step);
    EXPECT_TRUE(same_bits(items[i].w, alone[i][0])) << i;
    EXPECT_TRUE(same_bits(items[i].m, alone[i][1])) << i;
    EXPECT_TRUE(same_bits(items[i].v, alone[i][2])) << i;
  }
}

TEST_P(TrainingSmallTest, OneNumberForAllGradients) {
  std::vector<Tensor> list;
  double want = 0.0;
  for (const int64_t count : {1, 17, 16'385, 40'001, 3}) {
    list.push_back(integers({count}, uint64_t(count), -9, 9).on(device()));
    for (int64_t i = 0; i < count; ++i) want += std::pow(double(list.back().data<float>()[i]), 2);
  }
  EXPECT_EQ(ops::sum_of_squares(std::span<const Tensor>(list)), want);  // exact in any order
  EXPECT_EQ(ops::sum_of_squares(std::span<const Tensor>()), 0.0);
  list[3].mutable_data<float>()[39'999] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(ops::sum_of_squares(std::span<const Tensor>(list))));
}

TEST_P(TrainingSmallTest, MaskedElementsBecomeZero) {
  for (const Shape& shape : {Shape{1, 1}, Shape{5, 7}, Shape{64, 300}, Shape{3, 20'000}}) {
    const Mask mask = striped(shape[0], shape[1]);
    Tensor x = uniform(shape, 50).on(device());
    const Tensor before = copy_of(x);
    ops::apply_mask(mask, x);
    for (int64_t r = 0; r < shape[0]; ++r) {
      for (int64_t c = 0; c < shape[1]; ++c) {
        const double want = mask.kept(r, c) ? value_at(before, r, c) : 0.0;
        ASSERT_EQ(value_at(x, r, c), want) << r << ", " << c;
        ASSERT_FALSE(want == 0.0 && std::signbit(value_at(x, r, c)));
      }
    }
  }
}

TEST_P(TrainingSmallTest, SumsOfColumnsAreAdded) {
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 1}, {7, 31}, {65, 33}, {300, 70}}) {
    const Tensor content = integers({rows, columns}, 51);
    const Padded x(content, 3);
    Padded& view = const_cast<Padded&>(x);
    Tensor sums = integers({columns}, 52).on(device());
    const Tensor before = copy_of(sums);
    ops::column_sums(view.view().on(device()), sums);
    for (int64_t c = 0; c < columns; ++c) {
      double want = double(before.data<float>()[c]);
      for (int64_t r = 0; r < rows; ++r) want += value_at(content, r, c);
      ASSERT_EQ(double(sums.data<float>()[c]), want) << c;
    }
  }
}

TEST_P(TrainingSmallTest, ScalesAndRounds) {
  for (const int64_t count : {1, 7, 1023, 1024, 5001}) {
    Tensor x = uniform({count}, 53, -3.0f, 3.0f).on(device());
    Tensor doubled = zeros(DType::f32, {count}).on(device());
    ops::scale(x, 1.7f, doubled);
    for (int64_t i = 0; i < count; ++i) ASSERT_EQ(doubled.data<float>()[i], 1.7f * x.data<float>()[i]) << i;
    ops::scale(x, 1.7f, x);
    EXPECT_TRUE(same_bits(x, doubled));
    for (const DType dtype : {DType::bf16, DType::f16}) {
      Tensor rounded = zeros(dtype, {count}).on(device());
      ops::round_into(x, rounded);
      for (int64_t i = 0; i < count; ++i) {
        const float value = x.data<float>()[i];
        ASSERT_EQ(rounded.data<uint16_t>()[i],
                  dtype == DType::bf16 ? float_to_bf16(value) : float_to_f16(value));
      }
    }
  }
}

TEST_P(TrainingSmallTest, StepsStayWithinWhatIsStored) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Tensor steps = uniform({9, 40}, 54, -0.1f, 0.4f).on(device()), scales = zeros(DType::f32, {9, 40});
    scales = scales.on(device());
    steps.mutable_data<float>()[3] = 9e9f;
    steps.mutable_data<float>()[5] = nan;
    steps.mutable_data<float>()[7] = -INFINITY;
    const Tensor before = copy_of(steps);
    ops::bound_steps(1e-3f, 60'000.0f, dtype, steps, scales);
    for (int64_t i = 0; i < steps.numel(); ++i) {
      const float was = before.data<float>()[i], step = steps.data<float>()[i];
      const float scale = scales.data<float>()[i];
      if (!std::isfinite(was)) {
        ASSERT_TRUE(std::isnan(step) && std::isnan(scale)) << i;
        continue;
      }
      ASSERT_EQ(step, std::clamp(was, 1e-3f, 60'000.0f)) << i;
      const float want = dtype == DType::f32    ? step
                         : dtype == DType::bf16 ? bf16_to_float(float_to_bf16(step))
                                                : f16_to_float(float_to_f16(step));
      ASSERT_EQ(scale, want) << i;
    }
  }
  // One step for all rows.
  Tensor step = uniform({1, 1}, 55, 0.0f, 0.0f).on(device()), scales = zeros(DType::f32, {301, 1});
  scales = scales.on(device());
  ops::bound_steps(0.25f, 1.0f, DType::f16, step, scales);
  EXPECT_EQ(value_at(step, 0, 0), 0.25);
  for (int64_t i = 0; i < 301; ++i) ASSERT_EQ(scales.data<float>()[i], 0.25f);
}

}  // namespace
}  // namespace pare::test
