#include "prune/prune_step.h"

#include <gtest/gtest.h>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/parallel.h"
#include "prune/prune_stream.h"
#include "prune/sensitivity.h"
#include "tests/quantize/tiny_job.h"

namespace pare {
namespace {

using test::checked;
using test::memory_folder;
using test::MemorySink;

struct Case {
  PruneMethod method;
  const char* target;
  bool whole_block = false;
};

class PruneJob : public ::testing::Test {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }

  static BlockJob job(const char* model) {
    BlockJob job;
    job.source = test::tiny_model(model);
    job.model = checked(describe_model(*job.source));
    job.windows = test::tiny_windows(8, 16);
    job.memory_limit = 1ull << 34;
    return job;
  }

  static SparsityList targets(const ModelDescription& model, const char* text) {
    PruneSelection selection;
    selection.target = checked(PruneTarget::parse(text));
    return checked(select_targets(model, selection, /*allow_ragged=*/true));
  }

  static PruneOptions options(const Case& c) {
    PruneOptions options;
    options.method = c.method;
    options.scope = c.method == PruneMethod::wanda ? Scope::row : Scope::layer;
    options.sparsegpt.block = 32;
    options.whole_block = c.whole_block;
    options.allow_empty = true;  // heads of four are soon empty
    return options;
  }

  // What a sink gets; a stop after each commit and a new process in between when `is_stopped`.
  static std::map<std::string, WeightData> run(const BlockJob& blocks, const Case& c, bool is_stopped) {
    const std::string path = memory_folder() + "/prune-job";
    const Json identity = Json::object();
    const SparsityList list = targets(blocks.model, c.target);
    MemorySink sink;
    for (JobMode mode = JobMode::fresh;; mode = JobMode::resume) {
      JobFolder folder = checked(JobFolder::open(path, identity, mode));
      BlockJob job = blocks;
      bool has_done_one = false;
      job.block_done = [&](int) { has_done_one = true; };
      job.advance = [&](int64_t) -> Status {
        if (is_stopped && has_done_one) return folder.interrupted_error();
        return {};
      };
      PruneStep step(job.model, list, options(c));
      const auto result = run_blocks(job, step, folder);
      if (!result && result.error().exit == Exit::interrupted) continue;
      checked(result);
      Manifest manifest;
      checked(write_changed(
          job, folder, [](const TensorSpec&, WeightData&, TensorRecord&) { return Status(); }, sink,
          manifest));
      for (const TensorRecord& record : manifest.tensors) {
        const Json* kept = record.extra.find("kept");
        if (kept == nullptr) continue;
        EXPECT_GT(record.extra.find("output_error")->as_double(), 0.0) << record.name;
        EXPECT_EQ(record.fallback, "");
      }
      checked(folder.remove());
      break;
    }
    return sink.weights;
  }
};

void expect_same(const std::map<std::string, WeightData>& a, const std::map<std::string, WeightData>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, data] : a) {
    const Tensor& mine = data.dense();
    const Tensor& other = b.at(name).dense();
    ASSERT_EQ(mine.size_bytes(), other.size_bytes()) << name;
    EXPECT_EQ(std::memcmp(mine.raw(), other.raw(), mine.size_bytes()), 0) << name;
  }
}

constexpr Case kCases[] = {{PruneMethod::magnitude, "0.5"},   {PruneMethod::wanda, "0.5"},
                           {PruneMethod::wanda, "2:4", true}, {PruneMethod::sparsegpt, "0.5"},
                           {PruneMethod::sparsegpt, "2:4"},   {PruneMethod::sparsegpt, "0.5:block-4x4"}};

TEST_F(PruneJob, RemovesExactlyWhatWasAskedInItsPattern) {
  for (const char* model : {test::kTinyLlama, test::kTinyGpt2})
    for (const Case& c : kCases) {
      const BlockJob blocks = job(model);
      const PruneTarget target = checked(PruneTarget::parse(c.target));
      const auto weights = run(blocks, c, false);
      for (const TensorSpec& spec : blocks.model.tensors) {
        const Tensor& got = weights.at(spec.name).dense();
        const WeightData before = checked(blocks.source->load(spec.name));
        if (!spec.is_linear) {
          EXPECT_EQ(std::memcmp(got.raw(), before.dense().raw(), got.size_bytes()), 0) << spec.name;
          continue;
        }
        Tensor matrix = checked(converted(got, DType::f32));
        if (spec.transposed) matrix = checked(transposed(matrix));
        Mask mask = checked(Mask::all_kept(spec.out(), spec.in()));
        for (int64_t i = 0; i < matrix.numel(); ++i)
          if (matrix.data<float>()[i] == 0.0f) mask.set(i / spec.in(), i % spec.in(), false);
        EXPECT_TRUE(mask.verify(target.pattern, spec.name)) << spec.name << " " << c.target;
        if (target.pattern.kind == SparsityPattern::Kind::block) continue;
        const int64_t expected = c.method == PruneMethod::wanda && target.pattern.m == 0
                                     ? spec.out() * target.sparsity.count(spec.in())
                                     : target.removed(spec.out(), spec.in());
        EXPECT_EQ(spec.out() * spec.in() - mask.kept_count(), expected) << spec.name << " " << c.target;
      }
    }
}

TEST_F(PruneJob, StoppedAfterEveryBlockGivesTheSameBytes) {
  for (const Case& c : kCases) {
    const BlockJob blocks = job(test::kTinyLlama);
    expect_same(run(blocks, c, false), run(blocks, c, true));
  }
}

TEST_F(PruneJob, ThreadsAndMemoryCeilingDoNotMatter) {
  const int threads = thread_count();
  for (const Case& c : kCases) {
    BlockJob blocks = job(test::kTinyLlama);
    set_thread_count(1);
    const auto one = run(blocks, c, false);
    set_thread_count(2);
    blocks.memory_limit = 1;  // all activations on disk
    expect_same(one, run(blocks, c, false));
    set_thread_count(threads);
  }
}

TEST_F(PruneJob, NoSparsityIsTheModelByteForByte) {
  const BlockJob blocks = job(test::kTinyLlama);
  for (const PruneMethod method : {PruneMethod::magnitude, PruneMethod::wanda, PruneMethod::sparsegpt}) {
    const auto folder_path = memory_folder() + "/prune-none";
    JobFolder folder = checked(JobFolder::open(folder_path, Json::object(), JobMode::fresh));
    PruneStep step(blocks.model, targets(blocks.model, "0"), options({method, "0"}));
    checked(run_blocks(blocks, step, folder));
    MemorySink sink;
    Manifest manifest;
    checked(write_changed(
        blocks, folder, [](const TensorSpec&, WeightData&, TensorRecord&) { return Status(); }, sink,
        manifest));
    checked(folder.remove());
    for (const auto& [name, data] : sink.weights) {
      const WeightData before = checked(blocks.source->load(name));
      EXPECT_EQ(std::memcmp(data.dense().raw(), before.dense().raw(), data.dense().size_bytes()), 0) << name;
    }
  }
}

TEST_F(PruneJob, EmptyMatricesAndHeadsAreRefusedUnlessAllowed) {
  const BlockJob blocks = job(test::kTinyLlama);
  const TensorSpec* query = blocks.model.find(Role::query, 0);
  ASSERT_NE(query, nullptr);
  Mask mask = checked(Mask::all_kept(query->out(), query->in()));
  EXPECT_TRUE(check_not_empty(blocks.model, *query, mask, "m"));
  const int64_t d = blocks.model.config.blocks[0].head_dim;
  for (int64_t row = d; row < 2 * d; ++row)
    for (int64_t column = 0; column < query->in(); ++column) mask.set(row, column, false);
  const Status head = check_not_empty(blocks.model, *query, mask, "m");
  ASSERT_FALSE(head);
  EXPECT_EQ(head.error().exit, Exit::numeric);
  EXPECT_EQ(head.error().rule, "NU15");
  EXPECT_NE(head.error().what.find("head 1"), std::string::npos);
  mask.set(d, 3, true);
  EXPECT_TRUE(check_not_empty(blocks.model, *query, mask, "m"));
}

// A global cut is one stable sort over all matrices in their order.
TEST_F(PruneJob, GlobalCountsEqualOneSortOverAllMatrices) {
  const BlockJob blocks = job(test::kTinyLlama);
  const SparsityList list = targets(blocks.model, "0.4");
  const std::vector<int64_t> counts =
      checked(global_counts(*blocks.source, blocks.model, list, Normalisation::none));
  std::vector<std::pair<float, size_t>> all;
  int64_t k = 0;
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i]) continue;
    const Tensor weight =
        checked(converted(checked(blocks.source->load(blocks.model.tensors[i].name)).dense(), DType::f32));
    for (int64_t j = 0; j < weight.numel(); ++j) all.emplace_back(std::abs(weight.data<float>()[j]), i);
    k += list[i]->sparsity.count(weight.numel());
  }
  std::stable_sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<int64_t> expected(list.size(), 0);
  for (int64_t j = 0; j < k; ++j) ++expected[all[size_t(j)].second];
  EXPECT_EQ(counts, expected);
}

TEST_F(PruneJob, AllocationsRemoveWhatWasAskedInTotal) {
  const BlockJob blocks = job(test::kTinyLlama);
  const SparsityList list = targets(blocks.model, "0.6");
  PipelineOptions pipeline;
  pipeline.memory_limit = 1ull << 34;
  MeasuredOptions measured;
  measured.memory_limit = 1ull << 34;
  const Sparsity share = Sparsity::of(0.6);
  const SparsityList owl =
      checked(owl_targets(blocks.source, blocks.model, blocks.windows, list, share, {}, pipeline));
  const SparsityList chosen =
      checked(measured_targets(blocks.source, blocks.model, blocks.windows, list, share, measured, pipeline));
  for (const SparsityList* result : {&owl, &chosen}) {
    double removed = 0.0, weights = 0.0;
    bool differs = false;
    for (size_t i = 0; i < list.size(); ++i) {
      ASSERT_EQ((*result)[i].has_value(), list[i].has_value());
      if (!list[i]) continue;
      const double size = double(blocks.model.tensors[i].shape.numel());
      removed += (*result)[i]->sparsity.share() * size;
      weights += size;
      differs = differs || (*result)[i]->sparsity != share;
    }
    EXPECT_NEAR(removed / weights, 0.6, 2e-6);
    EXPECT_TRUE(differs);
  }
}

}  // namespace
}  // namespace pare
