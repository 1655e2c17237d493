#include "engine/core/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <stdexcept>
#include <thread>
#include <vector>

namespace pare {
namespace {

class Threads : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { set_thread_count(GetParam()); }
  void TearDown() override { set_thread_count(0); }
};

TEST_P(Threads, EveryItemRunsOnce) {
  EXPECT_EQ(thread_count(), GetParam());
  for (const int64_t count : {0, 1, 2, 3, 17, 1000}) {
    std::vector<std::atomic<int>> runs(static_cast<size_t>(count));
    parallel_for(count, [&](int64_t i) { ++runs[static_cast<size_t>(i)]; });
    for (const auto& r : runs) EXPECT_EQ(r, 1);
  }
  parallel_for(-3, [](int64_t) { FAIL(); });
}

TEST_P(Threads, ManyShortLoops) {
  int64_t sum = 0;
  std::vector<int64_t> values(8);
  for (int64_t loop = 0; loop < 20'000; ++loop) {
    parallel_for(8, [&](int64_t i) { values[static_cast<size_t>(i)] = loop * i; });
    for (const int64_t value : values) sum += value;
  }
  EXPECT_EQ(sum, 28 * (20'000ll * 19'999 / 2));
}

TEST_P(Threads, RangesCoverWithoutOverlap) {
  for (const int64_t size : {0, 1, 9, 10, 11, 1003}) {
    std::vector<int> seen(static_cast<size_t>(size));
    parallel_ranges(size, 10, [&](int64_t begin, int64_t end) {
      EXPECT_EQ(begin % 10, 0);
      EXPECT_TRUE(end == size || end - begin == 10);
      for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
    });
    for (const int s : seen) EXPECT_EQ(s, 1);
  }
}

TEST_P(Threads, LowestFailingItemIsRethrown) {
  for (int round = 0; round < 200; ++round) {
    try {
      parallel_for(100, [](int64_t i) {
        if (i % 10 == 7) throw std::runtime_error(std::to_string(i));
      });
      FAIL() << "no exception";
    } catch (const std::runtime_error& error) {
      ASSERT_STREQ(error.what(), "7");
    }
  }
  std::atomic<int> runs{0};
  parallel_for(10, [&](int64_t) { ++runs; });  // the pool is usable afterwards
  EXPECT_EQ(runs, 10);
}

TEST_P(Threads, NestedLoopsRunSerially) {
  std::atomic<int> runs{0};
  parallel_for(8, [&](int64_t) {
    const std::thread::id self = std::this_thread::get_id();
    const int index = thread_index();
    parallel_for(8, [&](int64_t) {
      EXPECT_EQ(std::this_thread::get_id(), self);
      EXPECT_EQ(thread_index(), index);
      ++runs;
    });
  });
  EXPECT_EQ(runs, 64);
}

TEST_P(Threads, IndexIsUniqueAmongRunningItems) {
  std::vector<std::atomic<int>> inside(static_cast<size_t>(thread_count()));
  parallel_for(2000, [&](int64_t) {
    const auto index = static_cast<size_t>(thread_index());
    ASSERT_LT(index, inside.size());
    EXPECT_EQ(inside[index]++, 0);
    --inside[index];
  });
}

TEST_P(Threads, SumsDoNotDependOnTheNumberOfThreads) {
  std::vector<double> parts(64);
  parallel_for(64, [&](int64_t part) {
    double sum = 0;
    for (int i = 0; i < 1000; ++i) sum += std::sin(static_cast<double>(part * 1000 + i));
    parts[static_cast<size_t>(part)] = sum;
  });
  double total = 0, expected = 0;
  for (const double part : parts) total += part;
  for (int part = 0; part < 64; ++part) {
    double sum = 0;
    for (int i = 0; i < 1000; ++i) sum += std::sin(static_cast<double>(part * 1000 + i));
    expected += sum;
  }
  EXPECT_EQ(total, expected);
}

TEST_P(Threads, TwoCallersTakeTurns) {
  std::atomic<int> runs{0};
  const auto caller = [&] {
    for (int i = 0; i < 500; ++i) parallel_for(5, [&](int64_t) { ++runs; });
  };
  std::thread other(caller);
  caller();
  other.join();
  EXPECT_EQ(runs, 5000);
}

INSTANTIATE_TEST_SUITE_P(Counts, Threads, ::testing::Values(1, 2, 3, 8));

TEST(ThreadCount, ZeroMeansAllCpusAndCanBeSetAgain) {
  set_thread_count(0);
  const int all = thread_count();
  EXPECT_GE(all, 1);
  for (int round = 0; round < 20; ++round) {
    set_thread_count(1 + round % 4);
    EXPECT_EQ(thread_count(), 1 + round % 4);
  }
  set_thread_count(0);
  EXPECT_EQ(thread_count(), all);
}

}  // namespace
}  // namespace pare
