// Both ways of merging against the definition.
#include "engine/tokenizer/bpe_merge.h"

#include <gtest/gtest.h>

#include "engine/core/random.h"

namespace pare {
namespace {

std::vector<int32_t> merge_by_definition(const PairRanks& merges, std::vector<int32_t> symbols) {
  while (true) {
    size_t best = symbols.size();
    Merge lowest;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const Merge merge = merges.find(symbols[i], symbols[i + 1]);
      if (merge.exists() && merge.rank < lowest.rank) {
        lowest = merge;
        best = i;
      }
    }
    if (best == symbols.size()) return symbols;
    symbols[best] = lowest.result;
    symbols.erase(symbols.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST(BpeMerge, EqualsTheDefinitionForShortAndLongPieces) {
  // Words over three letters; each merge joins two earlier tokens into a new one.
  const Random random(11, RandomPurpose::test_data);
  for (uint32_t trial = 0; trial < 60; ++trial) {
    std::vector<std::string> tokens = {"a", "b", "c"};
    PairRanks merges;
    merges.reserve(40);
    for (uint32_t rank = 0; rank < 40; ++rank) {
      const uint64_t left = random.below(tokens.size(), rank * 2, trial);
      const uint64_t right = random.below(tokens.size(), rank * 2 + 1, trial);
      const std::string joined = tokens[left] + tokens[right];
      auto known = std::find(tokens.begin(), tokens.end(), joined);
      if (known == tokens.end()) known = tokens.insert(tokens.end(), joined);
      merges.set(static_cast<int32_t>(left), static_cast<int32_t>(right),
                 {rank, static_cast<int32_t>(known - tokens.begin())});
    }
    for (const uint64_t length : std::initializer_list<uint64_t>{0, 1, 2, 3, 7, 30, 48, 49, 60, 200}) {
      Scratch scratch;
      for (uint64_t i = 0; i < length; ++i) {
        scratch.symbols.push_back(static_cast<int32_t>(random.below(3, 1000 + i, trial)));
      }
      const std::vector<int32_t> expected = merge_by_definition(merges, scratch.symbols);
      std::vector<int32_t> ids;
      merge_symbols(merges, scratch, ids);
      EXPECT_EQ(ids, expected) << "trial " << trial << ", length " << length;
    }
  }
}

TEST(PairRanks, TheLaterOfTwoEqualPairsCounts) {
  PairRanks merges;
  merges.reserve(2);
  merges.set(1, 2, {0, 7});
  merges.set(1, 2, {5, 8});
  EXPECT_EQ(merges.find(1, 2).rank, 5u);
  EXPECT_EQ(merges.find(1, 2).result, 8);
  EXPECT_FALSE(merges.find(2, 1).exists());
}

}  // namespace
}  // namespace pare
