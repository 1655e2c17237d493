#include "distill/training_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <span>
#include <thread>

#include "tests/distill/training_streams.h"

namespace pare {
namespace {

using test::counting_stream;
using testing::ElementsAre;

std::vector<int32_t> values(const Tensor& tensor) {
  const auto* data = tensor.data<int32_t>();
  return {data, data + tensor.numel()};
}

TrainingData data_of(std::vector<TrainingStream> streams, const TrainingDataOptions& options,
                     DataPart part = DataPart::training) {
  auto data = TrainingData::create(std::move(streams), options, part);
  EXPECT_TRUE(data) << format_error(data.error());
  return *std::move(data);
}

Error refusal(std::vector<TrainingStream> streams, const TrainingDataOptions& options,
              DataPart part = DataPart::training) {
  const auto data = TrainingData::create(std::move(streams), options, part);
  return data ? Error{} : data.error();
}

TEST(TrainingData, TargetsAreTheTokensBehindTheInputs) {
  const TrainingData data = data_of({counting_stream(9, 100)}, {.context = 4, .shuffle = false});
  const TrainingBatch batch = *data.batch(0, 2);
  EXPECT_THAT(values(batch.ids), ElementsAre(100, 101, 102, 103, 104, 105, 106, 107));
  EXPECT_THAT(values(batch.targets), ElementsAre(101, 102, 103, 104, 105, 106, 107, 108));
  EXPECT_EQ(batch.counted_targets, 8);
  EXPECT_EQ(batch.tokens, 8);
  EXPECT_THAT(batch.windows, ElementsAre(WindowId{0, 0}, WindowId{0, 1}));
}

TEST(TrainingData, NothingStandsBehindTheLastToken) {
  const TrainingData data = data_of({counting_stream(8)}, {.context = 4, .shuffle = false});
  const TrainingBatch batch = *data.batch(1, 2);  // and the first window of the next epoch
  EXPECT_THAT(values(batch.targets), ElementsAre(5, 6, 7, -1, 1, 2, 3, 4));
  EXPECT_EQ(batch.counted_targets, 7);
  EXPECT_EQ(data.counted_targets(1, 2), 7);
}

TEST(TrainingData, WithBosEachTokenIsATargetOnce) {
  const TrainingData data = data_of({counting_stream(8, 10)}, {.context = 4, .shuffle = false, .bos_id = 1});
  const TrainingBatch batch = *data.batch(0, 2);
  EXPECT_THAT(values(batch.ids), ElementsAre(1, 10, 11, 12, 1, 14, 15, 16));
  EXPECT_THAT(values(batch.targets), ElementsAre(10, 11, 12, 13, 14, 15, 16, 17));
  EXPECT_EQ(batch.counted_targets, 8);
}

TEST(TrainingData, FirstTokensOfDocumentsCanBeMasked) {
  // Documents begin at 0, 3, 4, 8 and, without tokens of its own, 8 again.
  const auto stream = [] { return counting_stream(13, 0, 0.0, {0, 3, 4, 8, 8}); };
  const TrainingData data =
      data_of({stream()}, {.context = 4, .shuffle = false, .mask_document_starts = true});
  const TrainingBatch batch = *data.batch(0, 3);
  EXPECT_THAT(values(batch.targets), ElementsAre(1, 2, -1, -1, 5, 6, 7, -1, 9, 10, 11, 12));
  EXPECT_EQ(batch.counted_targets, 9);
  for (int64_t i = 0; i < 3; ++i)
    EXPECT_EQ(data.counted_targets(i, 1), data.batch(i, 1)->counted_targets) << i;
  // Behind a BOS of ours a document may begin: 4 and 8 lie there.
  const TrainingData bos =
      data_of({stream()}, {.context = 4, .shuffle = false, .mask_document_starts = true, .bos_id = 99});
  EXPECT_THAT(values(bos.batch(0, 3)->targets), ElementsAre(0, 1, 2, -1, 4, 5, 6, 7, 8, 9, 10, 11));
  EXPECT_EQ(bos.counted_targets(0, 3), 11);
}

TEST(TrainingData, EveryWindowOncePerEpochAndInAnotherOrder) {
  const TrainingData data = data_of({counting_stream(4 * 37 + 3)}, {.context = 4, .seed = 5});
  EXPECT_EQ(data.windows(), 37);
  EXPECT_EQ(data.samples_per_pass(), 37);
  std::vector<std::vector<int64_t>> epochs;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::set<int64_t> seen;
    epochs.emplace_back();
    for (int64_t i = 0; i < 37; ++i) {
      const int64_t window = data.window_of(epoch * 37 + i).window;
      seen.insert(window);
      epochs.back().push_back(window);
    }
    EXPECT_EQ(seen.size(), 37u);
    EXPECT_EQ(*seen.rbegin(), 36);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  EXPECT_NE(epochs[1], epochs[2]);
  const TrainingData other = data_of({counting_stream(4 * 37 + 3)}, {.context = 4, .seed = 6});
  std::vector<int64_t> first;
  for (int64_t i = 0; i < 37; ++i) first.push_back(other.window_of(i).window);
  EXPECT_NE(first, epochs[0]);
}

TEST(TrainingData, ASampleDoesNotDependOnWhatWasReadBefore) {
  const auto make = [] {
    return data_of({counting_stream(403, 0, 2.0), counting_stream(170, 1000, 1.0)},
                   {.context = 5, .seed = 9});
  };
  const TrainingData all = make();
  const TrainingBatch whole = *all.batch(0, 500);
  for (const int64_t first : {499, 0, 250, 17, 251}) {
    const TrainingData resumed = make();
    const TrainingBatch one = *resumed.batch(first, 1);
    const auto expected = values(whole.ids);
    EXPECT_EQ(values(one.ids),
              std::vector<int32_t>(expected.begin() + 5 * first, expected.begin() + 5 * first + 5));
    EXPECT_EQ(one.windows[0], whole.windows[size_t(first)]);
  }
}

TEST(TrainingData, WithoutWeightsAllStreamsEndTogether) {
  const TrainingData data =
      data_of({counting_stream(40), counting_stream(120, 1000), counting_stream(12, 5000)},
              {.context = 4, .seed = 1});
  EXPECT_EQ(data.windows(), 43);
  EXPECT_EQ(data.samples_per_pass(), 43);
  std::set<std::pair<int32_t, int64_t>> seen;
  for (int64_t i = 43; i < 86; ++i) {
    const WindowId id = data.window_of(i);
    seen.emplace(id.stream, id.window);
  }
  EXPECT_EQ(seen.size(), 43u);
}

TEST(TrainingData, WeightsAreSharesOfTheSamples) {
  const TrainingData data =
      data_of({counting_stream(400, 0, 3.0), counting_stream(4000, 1000, 1.0)}, {.context = 4});
  std::map<int32_t, int64_t> drawn;
  for (int64_t i = 0; i < 1000; ++i) ++drawn[data.window_of(i).stream];
  EXPECT_EQ(drawn[0], 750);
  EXPECT_EQ(drawn[1], 250);
  // 1000 windows of the second stream take 4 samples each, to within half a draw.
  EXPECT_NEAR(double(data.samples_per_pass()), 4000.0, 3.0);
}

TEST(TrainingData, TheHeldOutEndIsNeverTrainedOn) {
  const TrainingDataOptions options{.context = 4, .seed = 3, .held_out_share = 0.2};
  const auto streams = [] {
    return std::vector<TrainingStream>{counting_stream(41, 0, 5.0), counting_stream(81, 1000, 1.0)};
  };
  const TrainingData training = data_of(streams(), options);
  const TrainingData held_out = data_of(streams(), options, DataPart::held_out);
  EXPECT_EQ(training.windows(), 8 + 16);
  EXPECT_EQ(held_out.windows(), 2 + 4);
  std::set<int32_t> trained;
  const TrainingBatch batch = *training.batch(0, 100);
  for (const Tensor& tensor : {batch.ids, batch.targets})
    for (const int32_t id : values(tensor)) trained.insert(id);
  EXPECT_EQ(trained.size(), 1 + 32 + 64);  // and -1
  std::set<std::pair<int32_t, int64_t>> checked;
  for (int64_t i = 0; i < held_out.windows(); ++i) {
    const WindowId id = held_out.window_of(i);
    checked.emplace(id.stream, id.window);
    for (const int32_t token : values(held_out.batch(i, 1)->ids)) EXPECT_FALSE(trained.contains(token));
  }
  EXPECT_THAT(checked, ElementsAre(std::pair(0, 8), std::pair(0, 9), std::pair(1, 16), std::pair(1, 17),
                                   std::pair(1, 18), std::pair(1, 19)));
}

TEST(TrainingData, RanksReadTheMicroBatchesOfOneRankThatAccumulates) {
  const TrainingData data = data_of({counting_stream(4000)}, {.context = 4, .seed = 2});
  for (int64_t step = 0; step < 5; ++step) {
    const BatchPlan one{.sequences = 3, .accumulation = 6};
    int64_t micro_batch = 0;
    for (int rank = 0; rank < 3; ++rank) {
      const BatchPlan plan{.sequences = 3, .accumulation = 2, .rank = rank, .ranks = 3};
      EXPECT_EQ(plan.samples_per_step(), one.samples_per_step());
      for (int64_t m = 0; m < 2; ++m, ++micro_batch) {
        const TrainingBatch mine = *data.batch(plan.first_sample(step, m), 3);
        const TrainingBatch same = *data.batch(one.first_sample(step, micro_batch), 3);
        EXPECT_EQ(values(mine.ids), values(same.ids));
      }
    }
  }
}

TEST(TrainingData, WindowsOfATeacherCacheAreAllWindowsInOrder) {
  const auto streams = [] { return std::vector{counting_stream(10), counting_stream(9, 100)}; };
  const TrainingData data = data_of(streams(), {.context = 4, .held_out_share = 0.5});
  EXPECT_EQ(data.all_windows(), 4);
  std::array<int32_t, 4> ids;
  data.inputs_of(3, ids.data());
  EXPECT_THAT(ids, ElementsAre(104, 105, 106, 107));
  EXPECT_EQ(data.index_of({1, 1}), 3);
  for (int64_t i = 0; i < 8; ++i) {
    const TrainingBatch batch = *data.batch(i, 1);
    data.inputs_of(data.index_of(batch.windows[0]), ids.data());
    EXPECT_EQ(values(batch.ids), std::vector<int32_t>(ids.begin(), ids.end()));
  }
  // What the teacher sees decides the digest, and nothing else does.
  const auto hash = [&](const TrainingDataOptions& options) {
    return data_of(streams(), options).input_hash();
  };
  EXPECT_EQ(hash({.context = 4}), hash({.context = 4, .seed = 7, .shuffle = false, .held_out_share = 0.5}));
  EXPECT_NE(hash({.context = 4}), hash({.context = 5}));
  EXPECT_NE(hash({.context = 4}), hash({.context = 4, .bos_id = 1}));
  EXPECT_NE(hash({.context = 4}),
            data_of({counting_stream(10), counting_stream(9, 101)}, {.context = 4}).input_hash());
}

TEST(TrainingData, ThreadsReadTheSame) {
  const TrainingData data = data_of({counting_stream(403), counting_stream(170, 1000)}, {.context = 5});
  std::vector<std::vector<int32_t>> read(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < read.size(); ++t)
    threads.emplace_back([&data, &mine = read[t]] {
      for (int64_t i = 0; i < 400; ++i)
        for (const int32_t id : values(data.batch(i, 1)->ids)) mine.push_back(id);
    });
  for (std::thread& thread : threads) thread.join();
  for (const auto& other : read) EXPECT_EQ(other, read[0]);
}

TEST(TrainingData, RefusesWhatCannotBeTrainedOn) {
  EXPECT_EQ(refusal({counting_stream(9)}, {.context = 1}).path, "--context");
  EXPECT_EQ(refusal({counting_stream(9)}, {.context = 4, .held_out_share = 1.0}).path, "--held-out");
  EXPECT_EQ(refusal({counting_stream(9)}, {.context = 4, .held_out_share = -0.1}).rule, "CL06");
  EXPECT_EQ(refusal({counting_stream(9)}, {.context = 4}, DataPart::held_out).rule, "CL06");
  EXPECT_EQ(refusal({counting_stream(9, 0, 1.0), counting_stream(9)}, {.context = 4}).rule, "CL13");
  EXPECT_EQ(refusal({counting_stream(9, 0, -1.0)}, {.context = 4}).rule, "CL06");
  const Error few = refusal({counting_stream(9), counting_stream(3)}, {.context = 4});
  EXPECT_EQ(few.exit, Exit::malformed);
  EXPECT_EQ(few.rule, "DT07");
  EXPECT_EQ(few.path, "stream of 3");
  EXPECT_EQ(few.got, "3");
  EXPECT_EQ(few.limit, "4");
  EXPECT_EQ(refusal({counting_stream(7)}, {.context = 4, .held_out_share = 0.1}).rule, "DT07");
  const Error id = refusal({counting_stream(9, 95)}, {.context = 4, .vocabulary = 100});
  EXPECT_EQ(id.rule, "DT14");
  EXPECT_EQ(id.where, "token 5");
  EXPECT_EQ(id.got, "100");
}

}  // namespace
}  // namespace pare
