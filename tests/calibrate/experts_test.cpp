// Statistics of the experts of a mixture, from a walk over the blocks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "calibrate/block_pipeline.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/parallel.h"
#include "engine/models/expert_slots.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"

namespace pare {
namespace {

using test::checked;
using testing::HasSubstr;

constexpr StatisticSet kAll{Statistic::second_moment, Statistic::absmax, Statistic::square, Statistic::range,
                            Statistic::histogram};

CalibrationWindows windows_of(int64_t samples, int64_t context) {
  CalibrationWindows windows{
      .ids = {}, .samples = samples, .context = context, .token_hash = "t", .text_hash = "x"};
  for (int64_t i = 0; i < samples * context; ++i) windows.ids.push_back(int32_t((i * i + 3 * i) % 40));
  return windows;
}

class Watcher : public Step {
 public:
  bool takes_experts() const override { return takes; }
  StatisticSet wanted(int, Site) const override { return kAll; }
  Status compress(BlockEdit& block, const StageInput& input) override {
    seen[{block.index(), int(input.site), input.expert}] = input.statistics;
    for (const TensorSpec* spec : block.linears(input.site, input.expert)) {
      visits[spec->name] += 1;
      if (spec->name != zeroed) continue;
      PARE_TRY(Tensor values, block.values(*spec));
      std::memset(values.mutable_raw(), 0, values.size_bytes());
      PARE_CHECK(block.replace(*spec, values, DType::f32));
    }
    return {};
  }

  bool takes = true;
  std::string zeroed;
  std::map<std::tuple<int, int, int>, SiteStatistics> seen;  // block, site, expert
  std::map<std::string, int> visits;
};

class Mixture : public ::testing::Test {
 protected:
  void SetUp() override {
    install_backend(make_cpu_backend());
    source_ = test::tiny_model(test::kTinyMixtral);
  }
  void TearDown() override { set_thread_count(0); }

  std::unique_ptr<BlockPipeline> open(const CalibrationWindows& windows, uint64_t limit = uint64_t(1) << 40) {
    edited_ = std::make_shared<EditedSource>(source_);
    PipelineOptions options;
    options.memory_limit = limit;
    options.spill_folder = test::memory_folder();
    auto pipeline = checked(BlockPipeline::create(edited_, source_, windows, options));
    checked(pipeline->embed());
    return pipeline;
  }

  std::string walk(BlockPipeline& pipeline, Watcher& step) {
    std::string bytes;
    for (int block = 0; block < pipeline.block_count(); ++block) checked(pipeline.run_block(block, step));
    for (int64_t i = 0; i < pipeline.state_chunks(); ++i) {
      const Tensor state = checked(pipeline.state_chunk(i));
      bytes.append(reinterpret_cast<const char*>(state.raw()), state.size_bytes());
    }
    for (const auto& [key, s] : step.seen) {
      bytes.append(reinterpret_cast<const char*>(s.second_moment.raw()), s.second_moment.size_bytes());
      bytes.append(reinterpret_cast<const char*>(s.square_sum.data()), s.square_sum.size() * sizeof(double));
    }
    return bytes;
  }

  std::shared_ptr<test::MemorySource> source_;
  std::shared_ptr<EditedSource> edited_;
};

// Against the slots of a plain staged forward: each expert saw the tokens that chose it, and only those.
TEST_F(Mixture, EveryExpertSeesItsOwnTokens) {
  const CalibrationWindows windows = windows_of(3, 31);
  const auto pipeline = open(windows);
  Watcher step;
  walk(*pipeline, step);
  auto model = checked(Model::open(source_, Device::cpu()));
  checked(model->load_all());
  checked(model->reserve_positions(windows.context));
  const Batch batch{.sequences = windows.samples, .tokens_per_sequence = windows.context};
  Workspace workspace = checked(Workspace::reserve(model->workspace_bytes(batch, 1), Device::cpu()));
  Tensor hidden = checked(Tensor::allocate(DType::f32, {batch.tokens(), 24}));
  checked(model->embed(test::tensor_of(windows.ids, Device::cpu()), batch, hidden, workspace));
  for (int block = 0; block < 2; ++block) {
    const BlockConfig& shape = model->config().blocks[size_t(block)];
    Tensor inner;
    for (const Site site : {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out}) {
      Tensor x = checked(Tensor::allocate(DType::f32, {batch.tokens(), model->site_channels(block, site)}));
      const bool is_normed = site == Site::attention_in || site == Site::mlp_in;
      checked(model->produce(block, site, batch, is_normed ? hidden : inner, x, workspace));
      if (!is_normed) model->consume(block, site, x, hidden, workspace);
      inner = x;
    }
    int64_t tokens = 0;
    for (int expert = 0; expert < 5; ++expert) {
      const SiteStatistics& got = step.seen.at({block, int(Site::mlp_out), expert});
      ASSERT_EQ(got.channels, 40);
      std::vector<double> squares(40, 0.0);
      std::vector<float> largest(40, 0.0f);
      int64_t count = 0;
      for (int64_t row = 0; row < batch.tokens(); ++row) {
        for (int64_t slot = 0; slot < 2; ++slot) {
          const float* at = ExpertSlots::of(shape).at(inner, row, slot);
          if (int(at[0]) != expert) continue;
          ++count;
          for (size_t c = 0; c < 40; ++c) {
            squares[c] += double(at[2 + c]) * double(at[2 + c]);
            largest[c] = std::max(largest[c], std::fabs(at[2 + c]));
          }
        }
      }
      EXPECT_EQ(got.tokens, count) << "block " << block << " expert " << expert;
      if (count > 0) {
        uint64_t values = 0;
        for (const auto* counts : {&got.histogram->positive, &got.histogram->negative})
          for (const uint64_t n : *counts) values += n;
        EXPECT_EQ(values, uint64_t(count * 40));
      }
      for (size_t c = 0; c < 40; ++c) {
        EXPECT_NEAR(got.square_sum[c], squares[c], 1e-9 * squares[c]);
        EXPECT_EQ(got.abs_max[c], largest[c]);
        EXPECT_NEAR(got.second_moment.data<float>()[c * 41], squares[c], 1e-4 * squares[c]);
      }
      tokens += count;
    }
    EXPECT_EQ(tokens, 2 * batch.tokens()) << "two experts per token";
    EXPECT_EQ(step.seen.at({block, int(Site::mlp_in), -1}).tokens, batch.tokens());
  }
  // Every linear once, whatever the number of experts.
  for (const TensorSpec& spec : model->description().tensors)
    EXPECT_EQ(step.visits[spec.name], spec.is_linear ? 1 : 0) << spec.name;
}

TEST_F(Mixture, SameBytesForEveryCeilingAndThreadCount) {
  const CalibrationWindows windows = windows_of(2 * (4096 / 40) + 3, 40);
  set_thread_count(1);
  const auto all = open(windows);
  Watcher first, second;
  const std::string want = walk(*all, first);
  EXPECT_EQ(all->spilled_bytes(), 0u);
  set_thread_count(2);
  const auto none = open(windows, 0);
  EXPECT_EQ(walk(*none, second) == want, true);
  EXPECT_GT(none->spilled_bytes(), 0u);
}

// States are those of the edited model's ordinary forward.
TEST_F(Mixture, EditsOfOneExpertReachTheNextBlock) {
  const CalibrationWindows windows = windows_of(3, 31);
  const auto pipeline = open(windows);
  Watcher step;
  step.zeroed = "model.layers.0.block_sparse_moe.experts.2.w2.weight";
  walk(*pipeline, step);
  auto model = checked(Model::open(edited_, Device::cpu()));
  const test::Trace trace =
      test::walk(*model, test::tensor_of(windows.ids, Device::cpu()),
                 {.sequences = windows.samples, .tokens_per_sequence = windows.context});
  const Tensor state = checked(pipeline->state_chunk(0));
  EXPECT_EQ(std::memcmp(state.raw(), trace.hidden.back().raw(), state.size_bytes()), 0);
}

TEST_F(Mixture, WhatCannotTellExpertsApartIsRefused) {
  const CalibrationWindows windows = windows_of(2, 8);
  Watcher step;
  step.takes = false;
  const Status refused = open(windows)->run_block(0, step);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::unsupported);
  EXPECT_THAT(format_error(refused.error()), HasSubstr("mixture of experts"));
  std::map<Site, SiteStatistics> statistics;
  const Status observed = open(windows)->observe_block(
      0, [](Site) { return kAll; }, statistics);
  ASSERT_FALSE(observed);
  EXPECT_EQ(observed.error().exit, Exit::unsupported);
  PipelineOptions options;
  options.original_stream = true;
  const auto both = BlockPipeline::create(std::make_shared<EditedSource>(source_), source_, windows, options);
  ASSERT_FALSE(both);
  EXPECT_EQ(both.error().exit, Exit::unsupported);
}

}  // namespace
}  // namespace pare
