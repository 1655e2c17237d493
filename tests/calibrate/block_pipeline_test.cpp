// The walk over blocks against an ordinary forward pass, and laws that hold for every ceiling and thread
// count.
#include "calibrate/block_pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "calibrate/observer.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/parallel.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"

namespace pare {
namespace {

using test::checked;
using testing::HasSubstr;

// One chunk, for tests that compare with a single batch; odd, so that no kernel's tile fits.
constexpr int64_t kSamples = 3, kContext = 31;
constexpr Site kSites[] = {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out};
constexpr StatisticSet kAll{Statistic::second_moment, Statistic::absmean, Statistic::absmax,
                            Statistic::square,        Statistic::range,   Statistic::histogram};

CalibrationWindows windows_of(int64_t samples, int64_t context) {
  CalibrationWindows windows{
      .ids = {}, .samples = samples, .context = context, .token_hash = "t", .text_hash = "x"};
  for (int64_t i = 0; i < samples * context; ++i) windows.ids.push_back(int32_t((i * i + 3 * i) % 40));
  return windows;
}

// Keeps what it sees; changes nothing unless told.
class Watcher : public Step {
 public:
  StatisticSet wanted(int, Site) const override { return kAll; }
  bool wants_cross_moment() const override { return true; }
  Status compress(BlockEdit& block, const StageInput& input) override {
    seen[{block.index(), input.site}] = input.statistics;
    if (input.cross_moment.defined()) cross[{block.index(), input.site}] = input.cross_moment;
    if (block.index() != zeroed_block) return {};
    for (const TensorSpec* spec : block.linears(input.site)) {
      if (spec->role != zeroed_role) continue;
      PARE_TRY(Tensor values, block.values(*spec));
      std::memset(values.mutable_raw(), 0, values.size_bytes());
      PARE_CHECK(block.replace(*spec, values, DType::f32));
    }
    return {};
  }

  std::map<std::pair<int, Site>, SiteStatistics> seen;
  std::map<std::pair<int, Site>, Tensor> cross;
  int zeroed_block = -1;
  Role zeroed_role = Role::down;
};

std::string bytes_of(const Tensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.raw()), tensor.size_bytes()};
}

// Everything in statistics as bytes.
std::string bytes_of(const SiteStatistics& s) {
  const auto raw = [](const auto& values) {
    return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof values[0]);
  };
  const double range[] = {s.low,       s.high,       s.moving_low,    s.moving_high,
                          s.first_low, s.first_high, double(s.tokens)};
  return bytes_of(s.second_moment) + raw(s.abs_sum) + raw(s.abs_max) + raw(s.square_sum) +
         raw(std::span(range)) + raw(s.histogram->positive) + raw(s.histogram->negative);
}

class Pipeline : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    install_backend(make_cpu_backend());
    source_ = test::tiny_model(GetParam());
  }
  void TearDown() override { set_thread_count(0); }

  std::unique_ptr<BlockPipeline> open(int64_t samples = kSamples, int64_t context = kContext,
                                      uint64_t limit = uint64_t(1) << 40, bool original = false) {
    edited_ = std::make_shared<EditedSource>(source_);
    PipelineOptions options;
    options.memory_limit = limit;
    options.spill_folder = test::memory_folder();
    options.original_stream = original;
    return checked(BlockPipeline::create(edited_, source_, windows_of(samples, context), options));
  }

  // All states and all statistics of a whole walk.
  std::string walk(BlockPipeline& pipeline, Watcher& step, int first = 0) {
    for (int block = first; block < pipeline.block_count(); ++block) checked(pipeline.run_block(block, step));
    std::string bytes;
    for (int64_t i = 0; i < pipeline.state_chunks(); ++i) bytes += bytes_of(checked(pipeline.state_chunk(i)));
    for (const auto& [site, statistics] : step.seen)
      if (site.first >= first) bytes += bytes_of(statistics);
    return bytes;
  }

  std::shared_ptr<test::MemorySource> source_;
  std::shared_ptr<EditedSource> edited_;
};

// The inputs of every site, by the stages of the model over all samples at once.
std::map<std::pair<int, Site>, Tensor> inputs_of(Model& model, const CalibrationWindows& windows,
                                                 Tensor& hidden) {
  const Batch batch{.sequences = windows.samples, .tokens_per_sequence = windows.context};
  Workspace workspace = checked(Workspace::reserve(model.workspace_bytes(batch, 1), Device::cpu()));
  checked(model.load_all());
  checked(model.reserve_positions(windows.context));
  hidden = checked(Tensor::allocate(DType::f32, {batch.tokens(), model.config().hidden_size}));
  checked(model.embed(test::tensor_of(windows.ids, Device::cpu()), batch, hidden, workspace));
  std::map<std::pair<int, Site>, Tensor> inputs;
  for (int block = 0; block < int(model.config().block_count()); ++block) {
    Tensor last;
    for (const Site site : kSites) {
      Tensor x = checked(Tensor::allocate(DType::f32, {batch.tokens(), model.site_channels(block, site)}));
      const bool is_normed = site == Site::attention_in || site == Site::mlp_in;
      checked(model.produce(block, site, batch, is_normed ? hidden : last, x, workspace));
      if (!is_normed) model.consume(block, site, x, hidden, workspace);
      inputs[{block, site}] = last = x;
    }
  }
  return inputs;
}

TEST_P(Pipeline, StatisticsEqualThoseOfAnOrdinaryForward) {
  const auto pipeline = open();
  checked(pipeline->embed());
  Watcher step;
  walk(*pipeline, step);
  auto model = checked(Model::open(source_, Device::cpu()));
  Tensor hidden;
  for (const auto& [site, x] : inputs_of(*model, pipeline->windows(), hidden)) {
    const SiteStatistics& got = step.seen.at(site);
    const int64_t tokens = x.size(0), channels = x.size(1);
    ASSERT_EQ(got.tokens, tokens);
    ASSERT_EQ(got.samples, kSamples);
    const float* v = x.data<float>();
    float low = v[0], high = v[0];
    for (int64_t i = 0; i < x.numel(); ++i) low = std::min(low, v[i]), high = std::max(high, v[i]);
    EXPECT_EQ(got.low, low);
    EXPECT_EQ(got.high, high);
    std::vector<double> moment(size_t(channels * channels));
    double largest = 0.0;
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0.0, square = 0.0;
      float peak = 0.0f;
      for (int64_t t = 0; t < tokens; ++t) {
        sum += std::abs(double(v[t * channels + c]));
        square += double(v[t * channels + c]) * double(v[t * channels + c]);
        peak = std::max(peak, std::abs(v[t * channels + c]));
      }
      EXPECT_NEAR(got.abs_sum[size_t(c)], sum, 1e-9 * sum);
      EXPECT_NEAR(got.square_sum[size_t(c)], square, 1e-9 * square);
      EXPECT_EQ(got.abs_max[size_t(c)], peak);
      for (int64_t d = 0; d < channels; ++d) {
        double& entry = moment[size_t(c * channels + d)];
        for (int64_t t = 0; t < tokens; ++t)
          entry += double(v[t * channels + c]) * double(v[t * channels + d]);
        largest = std::max(largest, std::abs(entry));
      }
    }
    const float* h = got.second_moment.data<float>();
    for (size_t i = 0; i < moment.size(); ++i) ASSERT_NEAR(h[i], moment[i], 1e-5 * largest);
    // Two passes: the limit is the largest magnitude of all samples; every value is counted once.
    const double limit = std::max(-double(low), double(high));
    EXPECT_EQ(got.histogram->limit, limit);
    std::vector<uint64_t> positive(Histogram::kBins), negative(Histogram::kBins);
    for (int64_t i = 0; i < x.numel(); ++i) {
      const auto bin =
          std::min<int64_t>(Histogram::kBins - 1, int64_t(std::abs(double(v[i])) * Histogram::kBins / limit));
      ++(v[i] < 0.0f ? negative : positive)[size_t(bin)];
    }
    int64_t differences = 0;  // a value on the edge of a bin may round to its neighbour
    for (size_t i = 0; i < positive.size(); ++i)
      differences += std::abs(int64_t(positive[i]) - int64_t(got.histogram->positive[i])) +
                     std::abs(int64_t(negative[i]) - int64_t(got.histogram->negative[i]));
    EXPECT_LE(differences, 4);
  }
}

TEST_P(Pipeline, StatesEqualAChainOfBlocksBitForBit) {
  const auto pipeline = open();
  checked(pipeline->embed());
  Watcher step;
  auto model = checked(Model::open(source_, Device::cpu()));
  const test::Trace trace = test::walk(*model, test::tensor_of(pipeline->windows().ids, Device::cpu()),
                                       {.sequences = kSamples, .tokens_per_sequence = kContext});
  for (int block = 0; block < pipeline->block_count(); ++block) {
    EXPECT_EQ(bytes_of(checked(pipeline->state_chunk(0))), bytes_of(trace.hidden[size_t(block)]));
    checked(pipeline->run_block(block, step));
    EXPECT_FALSE(pipeline->model().block_loaded(block));
  }
  EXPECT_EQ(bytes_of(checked(pipeline->state_chunk(0))), bytes_of(trace.hidden.back()));
}

TEST_P(Pipeline, ObserveBlockIsTheWalkWithoutAStep) {
  const auto pipeline = open();
  checked(pipeline->embed());
  Watcher step;
  const std::string want = walk(*pipeline, step);
  const auto other = open();
  checked(other->embed());
  std::string got, statistics_bytes;
  for (int block = 0; block < other->block_count(); ++block) {
    std::map<Site, SiteStatistics> statistics;
    checked(other->observe_block(
        block, [](Site) { return kAll; }, statistics));
    for (const auto& entry : statistics) statistics_bytes += bytes_of(entry.second);
  }
  got = bytes_of(checked(other->state_chunk(0))) + statistics_bytes;
  EXPECT_EQ(got == want, true);
}

// Samples that make four chunks; everything in memory, all on disk, some of both.
TEST_P(Pipeline, SameBytesForEveryCeilingAndThreadCount) {
  const int64_t context = GetParam() == test::kTinyGpt2 ? 32 : 40, samples = 2 * (4096 / context) + 3;
  const auto all = open(samples, context, uint64_t(1) << 40, true);
  EXPECT_EQ(all->state_chunks(), 6);
  checked(all->embed());
  Watcher first;
  set_thread_count(1);
  const std::string want = walk(*all, first);
  EXPECT_EQ(all->spilled_bytes(), 0u);
  set_thread_count(2);
  const auto none = open(samples, context, 0, true);
  checked(none->embed());
  Watcher second;
  EXPECT_EQ(walk(*none, second) == want, true);
  const BlockConfig& shape = none->model().config().blocks.front();
  const uint64_t channels = uint64_t(24 + shape.heads * shape.head_dim + shape.intermediate_size);
  EXPECT_EQ(none->spilled_bytes(), uint64_t(samples * context) * channels * sizeof(float) * 2);
  for (const auto& [site, cross] : first.cross)
    EXPECT_EQ(bytes_of(cross) == bytes_of(second.cross.at(site)), true);
}

TEST_P(Pipeline, RestoredStatesContinueTheWalk) {
  const auto whole = open();
  checked(whole->embed());
  Watcher step;
  checked(whole->run_block(0, step));
  std::vector<std::string> states;
  for (int64_t i = 0; i < whole->state_chunks(); ++i)
    states.push_back(bytes_of(checked(whole->state_chunk(i))));
  const std::string want = walk(*whole, step, 1);
  for (const uint64_t limit : {uint64_t(0), uint64_t(1) << 40}) {
    const auto resumed = open(kSamples, kContext, limit);
    for (size_t i = 0; i < states.size(); ++i)
      checked(resumed->restore_state_chunk(int64_t(i), std::as_bytes(std::span(states[i]))));
    Watcher later;
    EXPECT_EQ(walk(*resumed, later, 1) == want, true) << limit;
  }
}

// Blocks see what the compressed parts before them make, within the block and after it.
TEST_P(Pipeline, LaterSitesSeeCompressedParts) {
  const auto plain = open();
  checked(plain->embed());
  Watcher before;
  walk(*plain, before);
  const auto changed = open(kSamples, kContext, uint64_t(1) << 40, true);
  checked(changed->embed());
  Watcher after;
  after.zeroed_block = 0;
  after.zeroed_role = Role::attention_output;
  walk(*changed, after);
  for (const auto& [site, statistics] : before.seen) {
    const bool is_earlier =
        site.first == 0 && (site.second == Site::attention_in || site.second == Site::attention_out);
    EXPECT_EQ(bytes_of(statistics) == bytes_of(after.seen.at(site)), is_earlier)
        << site.first << " " << site_name(site.second);
  }
  // The edit stays in the source: a model opened from it makes the same states.
  auto model = checked(Model::open(edited_, Device::cpu()));
  const test::Trace trace = test::walk(*model, test::tensor_of(changed->windows().ids, Device::cpu()),
                                       {.sequences = kSamples, .tokens_per_sequence = kContext});
  EXPECT_EQ(bytes_of(checked(changed->state_chunk(0))) == bytes_of(trace.hidden.back()), true);

  // Cross moments: original inputs by rows, compressed ones by columns, in double.
  auto original = checked(Model::open(source_, Device::cpu()));
  Tensor end;
  const auto left = inputs_of(*original, changed->windows(), end),
             right = inputs_of(*model, changed->windows(), end);
  for (const std::pair<int, Site>& site : {std::pair(1, Site::attention_in), std::pair(1, Site::mlp_out)}) {
    const Tensor &a = left.at(site), &b = right.at(site), &got = after.cross.at(site);
    const int64_t n = a.size(1);
    double largest = 0.0, error = 0.0;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0.0;
        for (int64_t t = 0; t < a.size(0); ++t)
          sum += double(a.data<float>()[t * n + i]) * double(b.data<float>()[t * n + j]);
        largest = std::max(largest, std::abs(sum));
        error = std::max(error, std::abs(sum - double(got.data<float>()[i * n + j])));
      }
    EXPECT_LE(error, 1e-5 * largest);
    EXPECT_NE(bytes_of(got), bytes_of(after.seen.at(site).second_moment));
  }
}

TEST_P(Pipeline, WhatIsNotFiniteIsNamed) {
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    source_ = test::tiny_model(GetParam());
    const auto description = checked(describe_model(*source_));
    const std::string name = description.find(Role::embedding, -1)->name;
    Tensor table = source_->dense(name);
    // Id 39 is met at sample 1 alone.
    table.mutable_data<float>()[39 * 24 + 7] = value;
    for (const bool has_survey : {false, true}) {
      edited_ = std::make_shared<EditedSource>(source_);
      CalibrationWindows windows = windows_of(3, 8);
      for (int32_t& id : windows.ids) id %= 39;
      windows.ids[8 + 5] = 39;
      PipelineOptions options;
      options.spill_folder = test::memory_folder();
      const auto pipeline = checked(BlockPipeline::create(edited_, source_, windows, options));
      checked(pipeline->embed());
      class Surveyor : public Watcher {
       public:
        bool is_on = false;
        StatisticSet survey(int, Site) const override {
          return is_on ? StatisticSet{Statistic::absmax} : StatisticSet();
        }
      } step;
      step.is_on = has_survey;
      const Status status = pipeline->run_block(0, step);
      ASSERT_FALSE(status);
      EXPECT_EQ(status.error().exit, Exit::numeric);
      EXPECT_EQ(status.error().rule, "NU06");
      EXPECT_EQ(status.error().path, "memory");
      EXPECT_THAT(status.error().where, HasSubstr("block 0 attn.in sample 1 token 5"));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Pipeline, ::testing::Values(test::kTinyLlama, test::kTinyGpt2),
                         [](const auto& info) { return info.index == 0 ? "Llama" : "Gpt2"; });

TEST(PipelineErrors, UnknownIdsAndStops) {
  install_backend(make_cpu_backend());
  const auto source = test::tiny_model(test::kTinyLlama);
  const auto edited = std::make_shared<EditedSource>(source);
  CalibrationWindows windows = windows_of(2, 8);
  windows.ids[9] = 40;
  PipelineOptions options;
  options.spill_folder = test::memory_folder();
  auto pipeline = checked(BlockPipeline::create(edited, source, windows, options));
  const Status status = pipeline->embed();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().exit, Exit::malformed);
  options.advance = [](int64_t) -> Status { return Error{.exit = Exit::interrupted}; };
  pipeline = checked(BlockPipeline::create(edited, source, windows_of(2, 8), options));
  checked(pipeline->embed());
  Watcher step;
  const Status stopped = pipeline->run_block(0, step);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().exit, Exit::interrupted);
}

TEST_P(Pipeline, PassBlockShowsInputAndOutput) {
  const auto pipeline = open(135, 31);  // two chunks
  checked(pipeline->embed());
  Watcher step;
  const auto other = open(135, 31);
  checked(other->embed());
  for (int block = 0; block < pipeline->block_count(); ++block) {
    std::string before, after;
    std::string expected_before;
    for (int64_t i = 0; i < other->state_chunks(); ++i)
      expected_before += bytes_of(checked(other->state_chunk(i)));
    checked(pipeline->pass_block(block, [&](const Tensor& x, const Tensor& y) -> Status {
      before += bytes_of(x), after += bytes_of(y);
      return {};
    }));
    checked(other->run_block(block, step));
    std::string expected_after;
    for (int64_t i = 0; i < other->state_chunks(); ++i)
      expected_after += bytes_of(checked(other->state_chunk(i)));
    EXPECT_EQ(before, expected_before);
    EXPECT_EQ(after, expected_after);
  }
}

}  // namespace
}  // namespace pare
