#include "engine/core/memory.h"

#include <gtest/gtest.h>

#include <vector>

namespace pare {
namespace {

TEST(Memory, FiguresAreConsistent) {
  EXPECT_GT(resident_bytes(), 100'000u);
  EXPECT_GE(peak_resident_bytes(), resident_bytes() / 2);
  EXPECT_GT(available_bytes(), 1'000'000u);
  EXPECT_LT(available_bytes(), 1ull << 50);
  EXPECT_GE(available_cpus(), 1);
}

TEST(Memory, PrivatePeakSeesAnAllocation) {
  const uint64_t before = peak_private_bytes();
  {
    std::vector<char> block(64u << 20, 1);
    sample_private_bytes();
    EXPECT_EQ(block[12345], 1);
  }
  EXPECT_GE(peak_private_bytes(), before + (32u << 20));
}

}  // namespace
}  // namespace pare
