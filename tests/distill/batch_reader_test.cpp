#include "distill/batch_reader.h"

#include <gtest/gtest.h>

#include <atomic>
#include <new>
#include <stdexcept>

#include "tests/distill/training_streams.h"

namespace pare {
namespace {

using test::counting_stream;

std::vector<int32_t> values(const Tensor& tensor) {
  const auto* data = tensor.data<int32_t>();
  return {data, data + tensor.numel()};
}

std::shared_ptr<const TrainingData> data() {
  auto made =
      TrainingData::create({counting_stream(403), counting_stream(170, 1000)}, {.context = 5, .seed = 4});
  EXPECT_TRUE(made);
  return std::make_shared<const TrainingData>(*std::move(made));
}

TEST(BatchReader, GivesTheBatchesOfDirectCalls) {
  const auto source = data();
  for (const int depth : {1, 3}) {
    const BatchPlan plan{.sequences = 2, .accumulation = 3, .rank = 1, .ranks = 2};
    BatchReader reader(source, plan, 7, 60, {}, depth);
    for (int64_t step = 7; step < 60; ++step) {
      for (int64_t m = 0; m < 3; ++m) {
        const Result<TrainingBatch> batch = reader.next();
        ASSERT_TRUE(batch);
        const TrainingBatch expected = *source->batch(plan.first_sample(step, m), 2);
        ASSERT_EQ(values(batch->ids), values(expected.ids));
        ASSERT_EQ(values(batch->targets), values(expected.targets));
        ASSERT_EQ(batch->windows, expected.windows);
        ASSERT_EQ(batch->counted_targets, expected.counted_targets);
      }
    }
  }
}

TEST(BatchReader, PreparesEachBatchOnceAndInOrder) {
  std::vector<int64_t> prepared;  // of the thread, read after it ended
  {
    BatchReader reader(data(), {}, 0, 5, [&](TrainingBatch& batch) -> Status {
      prepared.push_back(batch.windows[0].window);
      batch.counted_targets = 77;
      return {};
    });
    for (int i = 0; i < 5; ++i) EXPECT_EQ(reader.next()->counted_targets, 77);
  }
  ASSERT_EQ(prepared.size(), 5u);
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(prepared[size_t(i)], data()->window_of(i).window);
}

TEST(BatchReader, StopsWithBatchesLeftAndReadsNoFurtherThanItsDepth) {
  std::atomic<int> made = 0;
  {
    BatchReader reader(
        data(), {}, 0, 1'000'000,
        [&](TrainingBatch&) -> Status {
          ++made;
          return {};
        },
        2);
    ASSERT_TRUE(reader.next());
  }
  EXPECT_LE(made, 5);  // taken, two ready, one waiting for room, and room for one more race
  const BatchReader unused(data(), {}, 0, 3);
}

TEST(BatchReader, ErrorsArriveAtTheirBatch) {
  const auto failing = [](auto fail) {
    return [fail, count = 0](TrainingBatch&) mutable -> Status { return ++count == 3 ? fail() : Status(); };
  };
  BatchReader reader(data(), {}, 0, 9, failing([]() -> Status {
                       return Error{.exit = Exit::malformed, .rule = "TC02", .path = "cache"};
                     }));
  EXPECT_TRUE(reader.next());
  EXPECT_TRUE(reader.next());
  for (int i = 0; i < 3; ++i) {
    const auto failed = reader.next();
    ASSERT_FALSE(failed);
    EXPECT_EQ(failed.error().rule, "TC02");
  }
  BatchReader throwing(data(), {}, 0, 9, failing([]() -> Status { throw std::bad_alloc(); }));
  EXPECT_TRUE(throwing.next());
  EXPECT_TRUE(throwing.next());
  EXPECT_EQ(throwing.next().error().exit, Exit::resource);
}

}  // namespace
}  // namespace pare
