// Scores of units by gradients: sums over slices by hand, and what structured jobs choose by them.
#include "prune/structured/unit_gradients.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "engine/backends/cpu/cpu_backend.h"
#include "prune/structured/select.h"
#include "tests/prune/structured/tiny_structured.h"

namespace pare {
namespace {

using test::checked;
using test::memory_folder;
using test::StructuredRun;

// Keeps w g of every window for everything.
class Recorder final : public GradientSums {
 public:
  bool wants(const TensorSpec&) const override { return true; }
  Status start() override { return {}; }
  uint64_t size_bytes() const override { return 1; }
  void add(const ParameterList& parameters) override {
    std::map<std::string, std::vector<double>> window;
    for (const auto& parameter : parameters)
      for (int64_t i = 0; i < parameter->value.numel(); ++i)
        window[parameter->name].push_back(double(parameter->value.data<float>()[i]) *
                                          double(parameter->gradient.data<float>()[i]));
    windows.push_back(std::move(window));
  }
  std::vector<std::span<std::byte>> state() override { return {std::span(&nothing_, 1)}; }
  Status finish(int64_t) override { return {}; }

  std::vector<std::map<std::string, std::vector<double>>> windows;

 private:
  std::byte nothing_{};
};

LossGradients measured(const StructuredJob& job, GradientSums& sums, std::optional<JobFolder>& folder,
                       const std::string& name) {
  folder.emplace(checked(JobFolder::open(memory_folder() + "/" + name, Json::object(), JobMode::fresh)));
  return checked(measure_loss_gradients(job, {}, sums, *folder));
}

// A slice: rows (axis 0) or columns (axis 1) [begin, end) of a tensor; -1: all of it.
struct Slice {
  std::string name;
  int axis = -1;
  int64_t begin = 0, end = 0;
};

class UnitGradientsTest : public ::testing::Test {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }

  static double by_hand(const StructuredJob& job, const Recorder& recorder, UnitScore score,
                        const std::vector<Slice>& slices) {
    double total = 0.0;
    for (const auto& window : recorder.windows) {
      double sum = 0.0;
      for (const Slice& slice : slices) {
        const auto found = window.find(slice.name);
        if (found == window.end()) continue;  // no such bias
        const TensorSpec* spec = job.model.find(slice.name);
        const int64_t columns = spec->shape.rank() == 1 ? 1 : spec->in();
        for (size_t i = 0; i < found->second.size(); ++i) {
          const int64_t place = slice.axis == 1 ? int64_t(i) % columns : int64_t(i) / columns;
          if (slice.axis >= 0 && (place < slice.begin || place >= slice.end)) continue;
          sum += score == UnitScore::taylor ? found->second[i] : 0.5 * found->second[i] * found->second[i];
        }
      }
      total += std::abs(sum);
    }
    return total / double(recorder.windows.size());
  }

  static void expect_close(const std::vector<double>& got, const std::function<double(int64_t)>& wanted,
                           const std::string& what) {
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_NEAR(got[i], wanted(int64_t(i)), 1e-9 * std::abs(wanted(int64_t(i))) + 1e-15)
          << what << " " << i;
  }
};

TEST_F(UnitGradientsTest, AreSumsOverAllCoupledSlices) {
  const Structure all[] = {Structure::layers, Structure::hidden, Structure::heads, Structure::mlp};
  for (const char* config : {test::kTinyBiased, test::kTinyQwen2, test::kTinyQwen3}) {
    const StructuredJob job = test::structured_job(test::tiny_model(config));
    const ModelConfig& shape = job.model.config;
    Recorder recorder;
    std::optional<JobFolder> folders[2];
    measured(job, recorder, folders[0], "recorded");
    for (const UnitScore score : {UnitScore::taylor, UnitScore::fisher}) {
      UnitGradients sums(job.model, all, score);
      const LossGradients values = measured(job, sums, folders[1], unit_score_name(score).data());
      const int block = 1;
      const std::string prefix = "model.layers.1.";
      const int64_t d = shape.blocks[1].head_dim,
                    per_group = shape.blocks[1].heads / shape.blocks[1].kv_heads;
      expect_close(
          sums.read(values, UnitSum::channel, block),
          [&](int64_t c) {
            return by_hand(job, recorder, score,
                           {{prefix + "mlp.gate_proj.weight", 0, c, c + 1},
                            {prefix + "mlp.gate_proj.bias", 0, c, c + 1},
                            {prefix + "mlp.up_proj.weight", 0, c, c + 1},
                            {prefix + "mlp.up_proj.bias", 0, c, c + 1},
                            {prefix + "mlp.down_proj.weight", 1, c, c + 1}});
          },
          "channel");
      const auto query_slices = [&](int64_t first, int64_t last) {
        return std::vector<Slice>{{prefix + "self_attn.q_proj.weight", 0, first * d, last * d},
                                  {prefix + "self_attn.q_proj.bias", 0, first * d, last * d},
                                  {prefix + "self_attn.o_proj.weight", 1, first * d, last * d}};
      };
      expect_close(
          sums.read(values, UnitSum::query_head, block),
          [&](int64_t h) { return by_hand(job, recorder, score, query_slices(h, h + 1)); }, "query head");
      expect_close(
          sums.read(values, UnitSum::kv_group, block),
          [&](int64_t k) {
            std::vector<Slice> slices = query_slices(k * per_group, (k + 1) * per_group);
            for (const char* name : {"k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias"})
              slices.push_back({prefix + "self_attn." + name, 0, k * d, (k + 1) * d});
            return by_hand(job, recorder, score, slices);
          },
          "group");
      std::vector<Slice> layer;
      for (const TensorSpec& spec : job.model.tensors)
        if (spec.block == block) layer.push_back({spec.name});
      expect_close(
          sums.read(values, UnitSum::layer, block),
          [&](int64_t) { return by_hand(job, recorder, score, layer); }, "layer");
      // Everything with a dimension of the residual stream, found by size: no other size here is 24.
      std::vector<Slice> hidden;
      for (const TensorSpec& spec : job.model.tensors) {
        const bool is_head_row = spec.role == Role::query && shape.blocks[1].heads * d == shape.hidden_size;
        if (spec.shape.rank() == 1) {
          const bool reads = spec.role == Role::bias &&
                             job.model.find(spec.owner)->role != Role::attention_output &&
                             job.model.find(spec.owner)->role != Role::down;
          if (!reads && spec.shape[0] == shape.hidden_size) hidden.push_back({spec.name, 0});
          continue;
        }
        const bool is_o = spec.role == Role::attention_output;
        if (spec.in() == shape.hidden_size && !is_o) hidden.push_back({spec.name, 1});
        if (is_o || (spec.out() == shape.hidden_size && spec.in() != shape.hidden_size && !is_head_row))
          hidden.push_back({spec.name, 0});
      }
      expect_close(
          sums.read(values, UnitSum::hidden, -1),
          [&](int64_t j) {
            for (Slice& slice : hidden) slice.begin = j, slice.end = j + 1;
            return by_hand(job, recorder, score, hidden);
          },
          "dimension");
      checked(folders[1]->remove());
    }
    checked(folders[0]->remove());
  }
}

TEST_F(UnitGradientsTest, ExpertsHaveTheirTensorsAndTheirRowOfTheRouter) {
  const StructuredJob job = test::structured_job(test::tiny_model(test::kTinyMixtral));
  Recorder recorder;
  std::optional<JobFolder> folders[2];
  measured(job, recorder, folders[0], "recorded");
  const Structure experts[] = {Structure::experts};
  UnitGradients sums(job.model, experts, UnitScore::taylor);
  const LossGradients values = measured(job, sums, folders[1], "experts");
  expect_close(
      sums.read(values, UnitSum::expert, 1),
      [&](int64_t e) {
        std::vector<Slice> slices;
        for (const TensorSpec& spec : job.model.tensors) {
          if (spec.block == 1 && spec.expert == e) slices.push_back({spec.name});
          if (spec.block == 1 && spec.role == Role::router) slices.push_back({spec.name, 0, e, e + 1});
        }
        EXPECT_EQ(slices.size(), 4u);
        return by_hand(job, recorder, UnitScore::taylor, slices);
      },
      "expert");
  for (auto& folder : folders) checked(folder->remove());
}

// What a job keeps are the best units by the scores of the whole model.
TEST_F(UnitGradientsTest, JobsKeepTheBestUnits) {
  for (const UnitScore score : {UnitScore::taylor, UnitScore::fisher}) {
    for (const bool repair : {false, true}) {
      StructuredJob job = test::structured_job(test::tiny_model(test::kTinyQwen2));
      job.options.sizes.layers = 3;
      job.options.sizes.hidden = 20;
      job.options.sizes.intermediate = 24;
      job.options.sizes.heads = 4;
      job.options.layer_score = job.options.hidden_score = score;
      job.options.head_score = job.options.mlp_score = score;
      job.options.repair = repair;
      const Structure all[] = {Structure::layers, Structure::hidden, Structure::heads, Structure::mlp};
      UnitGradients sums(job.model, all, score);
      std::optional<JobFolder> folder;
      const LossGradients values = measured(job, sums, folder, "scores");
      const StructuredRun run(job);
      ASSERT_FALSE(run.error) << format_error(*run.error);
      const ModelConfig after = checked(describe_model(*run.model)).config;
      EXPECT_EQ(after.block_count(), 3);
      EXPECT_EQ(after.hidden_size, 20);
      EXPECT_EQ(after.blocks.front().intermediate_size, 24);
      EXPECT_EQ(after.blocks.front().heads, 4);
      std::vector<double> layers;
      for (int layer = 0; layer < 4; ++layer)
        layers.push_back(sums.read(values, UnitSum::layer, layer).front());
      const std::vector<int64_t> kept = best_units(layers, 3);
      const std::vector<Json> notes = checked(block_notes(*run.folder));
      ASSERT_EQ(notes.size(), 3u);
      for (size_t i = 0; i < notes.size(); ++i) {
        const BlockUnits units = checked(units_of_note(notes[i], job.model.config.blocks[0], "test"));
        EXPECT_EQ(units.channels, best_units(sums.read(values, UnitSum::channel, int(kept[i])), 24));
      }
      checked(folder->remove());
    }
  }
}

TEST_F(UnitGradientsTest, ExpertsAreKeptByTheirScores) {
  StructuredJob job = test::structured_job(test::tiny_model(test::kTinyMixtral));
  job.options.sizes.experts = 3;
  job.options.expert_score = UnitScore::taylor;
  EXPECT_TRUE(needs_data(job.options, job.model.config));
  EXPECT_GT(checked(gradient_bytes(job, 16)), 0u);
  const StructuredRun run(job);
  ASSERT_FALSE(run.error) << format_error(*run.error);
  EXPECT_EQ(checked(describe_model(*run.model)).config.blocks.front().experts, 3);
}

TEST_F(UnitGradientsTest, AStoppedJobGivesTheSameModel) {
  const auto make = [] {
    StructuredJob job = test::structured_job(test::tiny_model(test::kTinyLlama));
    job.options.sizes.intermediate = 24;
    job.options.mlp_score = UnitScore::taylor;
    job.options.gradients.commit_seconds = 0.0;
    return job;
  };
  StructuredJob plain = make();
  const StructuredRun whole(plain);
  ASSERT_FALSE(whole.error) << format_error(*whole.error);
  const std::string path = memory_folder() + "/stopped";
  int starts = 0;
  for (JobMode mode = JobMode::fresh;; mode = JobMode::resume) {
    StructuredJob job = make();
    bool has_done_one = false;
    job.options.gradients.window_done = [&](int64_t) { has_done_one = true; };
    job.block_done = [&](int) { has_done_one = true; };
    job.advance = [&](int64_t) -> Status {
      if (has_done_one) return Error{.exit = Exit::interrupted, .what = "stopped"};
      return {};
    };
    StructuredRun run(job, path, mode);
    ASSERT_LT(++starts, 40);
    if (run.error && run.error->exit == Exit::interrupted) continue;
    ASSERT_FALSE(run.error) << format_error(*run.error);
    EXPECT_EQ(test::bytes_of(*run.model), test::bytes_of(*whole.model));
    break;
  }
  EXPECT_GT(starts, 8);
}

TEST_F(UnitGradientsTest, WindowsAreNeeded) {
  StructuredJob job = test::structured_job(test::tiny_model(test::kTinyLlama));
  job.windows = {};
  job.options.sizes.intermediate = 24;
  job.options.mlp_score = UnitScore::fisher;
  const StructuredRun run(job);
  ASSERT_TRUE(run.error);
  EXPECT_EQ(run.error->exit, Exit::usage);
}

}  // namespace
}  // namespace pare
