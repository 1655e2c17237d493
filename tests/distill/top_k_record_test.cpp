#include "distill/top_k_record.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/core/random.h"

namespace pare {
namespace {

TopKRow row_of(std::vector<int32_t> ids) {
  TopKRow row;
  for (size_t i = 0; i < ids.size(); ++i) row.logits.push_back(uint16_t(0x8000 + 37 * i));
  row.ids = std::move(ids);
  row.log_sum = 1.25f;
  row.log_sum_at_temperature = 7.5f;
  return row;
}

void expect_round_trip(const TopKRecord& record, const TopKRow& row, bool has_temperature) {
  std::vector<std::byte> bytes(record.bytes(), std::byte(0xff));
  record.write(row, bytes);
  TopKRow back;
  ASSERT_TRUE(record.read(bytes, back));
  EXPECT_EQ(back.ids, row.ids);
  EXPECT_EQ(back.logits, row.logits);
  EXPECT_EQ(back.log_sum, row.log_sum);
  EXPECT_EQ(back.log_sum_at_temperature, has_temperature ? row.log_sum_at_temperature : row.log_sum);
}

TEST(TopKRecord, GivesBackAnyIds) {
  const Random random(1, RandomPurpose::test_data);
  uint32_t step = 0;
  for (const int64_t vocabulary : {1, 2, 3, 64, 65, 127, 1000, 49'152, 151'936, 4'000'000})
    for (const int64_t k : {1, 2, 3, 17, 64, 333}) {
      if (k > vocabulary) continue;
      for (const bool has_temperature : {false, true}) {
        const TopKRecord record(vocabulary, k, has_temperature);
        std::vector<int32_t> first(static_cast<size_t>(k)), spread;
        std::iota(first.begin(), first.end(), 0);
        expect_round_trip(record, row_of(first), has_temperature);
        std::vector<int32_t> last = first;
        for (int32_t& id : last) id += int32_t(vocabulary - k);
        expect_round_trip(record, row_of(last), has_temperature);
        for (uint64_t i = 0; int64_t(spread.size()) < k; ++i) {
          const auto id = int32_t(random.below(uint64_t(vocabulary), i, step));
          if (std::find(spread.begin(), spread.end(), id) == spread.end()) spread.push_back(id);
        }
        ++step;
        std::sort(spread.begin(), spread.end());
        expect_round_trip(record, row_of(spread), has_temperature);
      }
    }
}

// 4 bytes, 2 per logit, and ids in less than ceil(log2 V) bits each.
TEST(TopKRecord, BytesPerToken) {
  EXPECT_EQ(TopKRecord(32'768, 64, false).bytes(), 4u + 128u + (64 * 9 + 64 + 63 + 7) / 8);
  EXPECT_EQ(TopKRecord(49'152, 64, false).bytes(), 224u);
  EXPECT_EQ(TopKRecord(49'152, 64, true).bytes(), 228u);
  for (const int64_t vocabulary : {1000, 32'000, 49'152, 128'256, 151'936, 262'144})
    for (const int64_t k : {16, 50, 64, 128}) {
      const double packed =
          4.0 + 2.0 * double(k) + double(k) * std::ceil(std::log2(double(vocabulary))) / 8.0;
      EXPECT_LT(double(TopKRecord(vocabulary, k, false).bytes()), packed) << vocabulary << " " << k;
    }
}

// Every change of one bit of the ids gives other ids or is refused; none is read as the same row.
TEST(TopKRecord, NoBitIsWithoutMeaning) {
  const TopKRecord record(1000, 5, false);
  const TopKRow row = row_of({3, 4, 500, 998, 999});
  std::vector<std::byte> bytes(record.bytes());
  record.write(row, bytes);
  int refused = 0;
  for (size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    std::vector<std::byte> changed = bytes;
    changed[bit / 8] ^= std::byte(1 << bit % 8);
    TopKRow back;
    if (!record.read(changed, back)) {
      ++refused;
      continue;
    }
    EXPECT_TRUE(std::is_sorted(back.ids.begin(), back.ids.end()));
    EXPECT_LT(back.ids.back(), 1000);
    EXPECT_TRUE(back.ids != row.ids || back.logits != row.logits || back.log_sum != row.log_sum) << bit;
  }
  EXPECT_GT(refused, 10);
}

}  // namespace
}  // namespace pare
