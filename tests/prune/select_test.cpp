#include "prune/select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "engine/core/parallel.h"
#include "engine/core/random.h"
#include "prune/magnitude.h"

namespace pare {
namespace {

enum class Kind { normal, equal, two_values, rising, falling, zeros };

Tensor scores_of(Kind kind, int64_t out, int64_t in, uint32_t stream = 1) {
  Tensor scores = Tensor::allocate(DType::f32, {out, in}).value();
  const Random random(7, RandomPurpose::test_data, stream);
  float* data = scores.mutable_data<float>();
  for (int64_t i = 0; i < out * in; ++i) {
    switch (kind) {
      case Kind::normal:
        data[i] = std::abs(random.normal(uint64_t(i)));
        break;
      case Kind::equal:
        data[i] = 0.25f;
        break;
      case Kind::two_values:
        data[i] = random.below(2, uint64_t(i)) == 0 ? 0.5f : 1.5f;
        break;
      case Kind::rising:
        data[i] = float(i) * 1e-3f;
        break;
      case Kind::falling:
        data[i] = float(out * in - i) * 1e-3f;
        break;
      case Kind::zeros:
        data[i] = random.below(3, uint64_t(i)) == 0 ? 1.0f : (i % 2 == 0 ? 0.0f : -0.0f);
        break;
    }
  }
  return scores;
}

constexpr Kind kKinds[] = {Kind::normal, Kind::equal,   Kind::two_values,
                           Kind::rising, Kind::falling, Kind::zeros};

// The k lowest by a stable sort: the definition.
std::vector<bool> kept_by_sorting(const float* scores, int64_t count, int64_t k) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return scores[a] < scores[b]; });
  std::vector<bool> kept(static_cast<size_t>(count), true);
  for (int64_t i = 0; i < k; ++i) kept[size_t(order[size_t(i)])] = false;
  return kept;
}

TEST(Select, MatrixEqualsAStableSort) {
  for (const Kind kind : kKinds) {
    const Tensor scores = scores_of(kind, 37, 53);
    for (const int64_t k : {int64_t{0}, int64_t{1}, int64_t{500}, int64_t{980}, int64_t{37 * 53 - 1}}) {
      const std::vector<bool> expected = kept_by_sorting(scores.data<float>(), 37 * 53, k);
      const Mask mask = select_matrix(scores, k).value();
      EXPECT_EQ(mask.kept_count(), 37 * 53 - k);
      for (int64_t i = 0; i < 37 * 53; ++i)
        ASSERT_EQ(mask.kept(i / 53, i % 53), expected[size_t(i)]) << int(kind) << " k " << k << " at " << i;
    }
  }
}

TEST(Select, RowsEqualAStableSortAndHaveEqualCounts) {
  for (const Kind kind : kKinds) {
    const Tensor scores = scores_of(kind, 19, 70);
    const Mask mask = select_rows(scores, 31).value();
    for (int64_t row = 0; row < 19; ++row) {
      const std::vector<bool> expected = kept_by_sorting(scores.data<float>() + row * 70, 70, 31);
      for (int64_t i = 0; i < 70; ++i) ASSERT_EQ(mask.kept(row, i), expected[size_t(i)]) << int(kind);
    }
  }
}

TEST(Select, GroupsKeepExactlyNOfMAndTheRaggedEndItsShare) {
  for (const Kind kind : kKinds)
    for (const auto& [n, m] : {std::pair{2, 4}, {4, 8}, {1, 2}, {1, 16}, {15, 16}, {3, 5}}) {
      const int64_t in = 50;
      const Tensor scores = scores_of(kind, 9, in);
      const Mask mask = select_n_of_m(scores, n, m).value();
      for (int64_t row = 0; row < 9; ++row)
        for (int64_t begin = 0; begin < in; begin += m) {
          const int64_t width = std::min<int64_t>(m, in - begin), gone = (m - n) * width / m;
          const std::vector<bool> expected =
              kept_by_sorting(scores.data<float>() + row * in + begin, width, gone);
          for (int64_t i = 0; i < width; ++i)
            ASSERT_EQ(mask.kept(row, begin + i), expected[size_t(i)]) << n << ":" << m << " " << begin;
        }
    }
}

TEST(Select, BlocksGoWholeAndBalancedOnesEquallyPerRow) {
  const SparsityPattern pattern = SparsityPattern::parse("block-4x8").value();
  const Tensor scores = scores_of(Kind::normal, 30, 50);  // ragged on both sides: 8 x 7 blocks
  const Sparsity half = Sparsity::of(0.5);
  for (const bool is_balanced : {true, false}) {
    const Mask mask = select_blocks(scores, pattern, half, is_balanced).value();
    EXPECT_TRUE(mask.verify(pattern, "w"));
    int64_t gone = 0;
    for (int64_t top = 0; top < 30; top += 4) {
      int64_t in_row = 0;
      for (int64_t left = 0; left < 50; left += 8) in_row += !mask.kept(top, left);
      if (is_balanced) {
        EXPECT_EQ(in_row, 3) << top;
      }
      gone += in_row;
    }
    EXPECT_EQ(gone, is_balanced ? 24 : 28);
  }
}

TEST(Select, OneCutOverSeveralMatricesEqualsOneOverAll) {
  std::vector<Tensor> parts;
  std::vector<float> all;
  for (uint32_t i = 0; i < 4; ++i) {
    parts.push_back(scores_of(i % 2 == 0 ? Kind::two_values : Kind::normal, 11, 13, i));
    all.insert(all.end(), parts.back().data<float>(), parts.back().data<float>() + 143);
  }
  const int64_t k = 300;
  CutFinder finder;
  for (const Tensor& part : parts) finder.count_upper({part.data<float>(), 143});
  finder.choose_upper(k);
  for (const Tensor& part : parts) finder.count_lower({part.data<float>(), 143});
  const Cut cut = finder.cut();
  const std::vector<bool> expected = kept_by_sorting(all.data(), int64_t(all.size()), k);
  int64_t ties = cut.ties;
  for (size_t part = 0; part < parts.size(); ++part) {
    const Mask mask = mask_below(parts[part], cut, &ties).value();
    for (int64_t i = 0; i < 143; ++i)
      ASSERT_EQ(mask.kept(i / 13, i % 13), expected[part * 143 + size_t(i)]) << part << " " << i;
  }
  EXPECT_EQ(ties, 0);
}

TEST(Select, ThreadsDoNotMatter) {
  const Tensor scores = scores_of(Kind::two_values, 1200, 900);
  const int threads = thread_count();
  std::vector<std::vector<uint8_t>> masks;
  for (const int count : {1, 2, 5}) {
    set_thread_count(count);
    const Mask mask = select_matrix(scores, 500000).value();
    const uint8_t* bits = mask.bits().data<uint8_t>();
    masks.emplace_back(bits, bits + mask.bits().numel());
  }
  set_thread_count(threads);
  EXPECT_EQ(masks[0], masks[1]);
  EXPECT_EQ(masks[0], masks[2]);
}

TEST(Magnitude, BitsCutAsScoresDo) {
  const Random random(9, RandomPurpose::test_data);
  for (const DType dtype : {DType::bf16, DType::f16}) {
    Tensor values = Tensor::allocate(DType::f32, {301, 977}).value();
    for (int64_t i = 0; i < values.numel(); ++i)
      values.mutable_data<float>()[i] =
          i % 17 == 0 ? (i % 2 == 0 ? 0.0f : -0.0f) : random.normal(uint64_t(i));
    const Tensor weight = converted(values, dtype).value();
    const Tensor floats = converted(weight, DType::f32).value();
    std::vector<float> scores;
    for (int64_t i = 0; i < floats.numel(); ++i) scores.push_back(std::abs(floats.data<float>()[i]));
    for (const int64_t k : {int64_t{0}, int64_t{1}, int64_t{100000}, int64_t{147038}, int64_t{290000}}) {
      MagnitudeCounts counts;
      ASSERT_TRUE(counts.add(weight, "w", "m"));
      MagnitudeCounts::Cut cut = counts.cut(k);
      int64_t zeros = 0;
      double removed = 0.0;
      const double reported = counts.energy(cut).removed;
      const Tensor pruned = cut_magnitudes(weight, cut, &zeros).value();
      const std::vector<bool> kept = kept_by_sorting(scores.data(), int64_t(scores.size()), k);
      int64_t expected_zeros = 0;
      for (int64_t i = 0; i < weight.numel(); ++i) {
        const uint16_t expected = kept[size_t(i)] ? weight.data<uint16_t>()[i] : uint16_t{0};
        ASSERT_EQ(pruned.data<uint16_t>()[i], expected) << k << " at " << i;
        expected_zeros += (expected & 0x7fff) == 0;
        if (!kept[size_t(i)]) removed += double(scores[size_t(i)]) * double(scores[size_t(i)]);
      }
      EXPECT_EQ(zeros, expected_zeros) << k;
      EXPECT_NEAR(reported, removed, 1e-9 * std::max(1.0, removed));
    }
  }
}

TEST(Magnitude, RefusesWhatIsNotFinite) {
  Tensor weight = Tensor::allocate(DType::bf16, {2, 3}).value();
  for (int64_t i = 0; i < 6; ++i) weight.mutable_data<uint16_t>()[i] = 0x3f80;
  weight.mutable_data<uint16_t>()[4] = 0xff80;  // minus infinity
  MagnitudeCounts counts;
  const Status status = counts.add(weight, "w", "m");
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().exit, Exit::numeric);
  EXPECT_NE(status.error().where.find("[1,1]"), std::string::npos);
}

TEST(Target, CountsAreExactAndTextsComeBack) {
  EXPECT_EQ(Sparsity::parse("0.5").value().count(7), 3);
  EXPECT_EQ(Sparsity::parse("33.3333%").value().count(1000000), 333333);
  EXPECT_EQ(Sparsity::of(0.6).count(1000000007), 600000004);
  for (const char* text : {"0.5", "0.123456", "0", "2:4", "1:16", "0.5:block-16x16"})
    EXPECT_EQ(PruneTarget::parse(text).value().text(), text);
  for (const char* text :
       {"1", "1.5", "-0.1", "nan", "", "4:2", "2:17", "0:4", "0.1234567", "0.5:block-0x4", "a"})
    EXPECT_EQ(PruneTarget::parse(text).error().exit, Exit::usage) << text;
  const PruneTarget pattern = PruneTarget::parse("2:4").value();
  EXPECT_EQ(pattern.removed(3, 10), 3 * (2 * 2 + 1));  // a last group of two loses one
}

}  // namespace
}  // namespace pare
