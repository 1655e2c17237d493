// Pruning by gradients: scores by hand, what they predict, and whole jobs.
#include "prune/gradient_scores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/parallel.h"
#include "prune/gradient_job.h"
#include "prune/prune_step.h"
#include "tests/quantize/tiny_job.h"

namespace pare {
namespace {

using test::checked;
using test::memory_folder;
using test::MemorySink;

Tensor matrix(int64_t out, int64_t in, const std::vector<float>& values) {
  Tensor tensor = checked(Tensor::allocate(DType::f32, {out, in}));
  std::memcpy(tensor.mutable_raw(), values.data(), tensor.size_bytes());
  return tensor;
}

std::vector<float> values_of(const Tensor& tensor) {
  return {tensor.data<float>(), tensor.data<float>() + tensor.numel()};
}

// Which weights stay, row by row.
std::string kept(const Mask& mask, int64_t out, int64_t in) {
  std::string text;
  for (int64_t i = 0; i < out * in; ++i) text += mask.kept(i / in, i % in) ? '1' : '0';
  return text;
}

TEST(GradientScores, ByHand) {
  // Two windows with gradients g_1 and g_2 of
  //   g_1 = 1 -1  2  0      g_2 = 1  3 -2  0
  // so that g = 1 1 0 0, mean |g| = 1 2 2 0, F = 1 5 4 0.
  const Tensor w = matrix(1, 4, {2.0f, -1.0f, 0.5f, 4.0f});
  const Tensor g = matrix(1, 4, {1, 1, 0, 0}), a = matrix(1, 4, {1, 2, 2, 0}), f = matrix(1, 4, {1, 5, 4, 0});
  using Values = std::vector<float>;
  EXPECT_EQ(values_of(checked(gradient_scores(GradientScore::first, w, {g}))), (Values{2, 1, 0, 0}));
  EXPECT_EQ(values_of(checked(gradient_scores(GradientScore::per_sample, w, {a}))), (Values{2, 2, 1, 0}));
  EXPECT_EQ(values_of(checked(gradient_scores(GradientScore::fisher, w, {f}))), (Values{2, 2.5f, 0.5f, 0}));
  // |w g - w^2 F / 2|: |2 - 2|, |-1 - 2.5|, |0 - 0.5|, 0
  EXPECT_EQ(values_of(checked(gradient_scores(GradientScore::mixed, w, {g, f}))), (Values{0, 3.5f, 0.5f, 0}));

  const Tensor scores = checked(gradient_scores(GradientScore::fisher, w, {f}));
  EXPECT_EQ(kept(checked(select_matrix(scores, 2)), 1, 4), "1100");
  EXPECT_EQ(kept(checked(select_n_of_m(scores, 1, 2)), 1, 4), "0110");
  const Tensor first = checked(gradient_scores(GradientScore::first, w, {g}));
  EXPECT_EQ(kept(checked(select_matrix(first, 1)), 1, 4), "1101");  // of equal ones the earlier goes

  EXPECT_EQ(checked(parse_taylor_form("per-sample")), GradientScore::per_sample);
  EXPECT_EQ(parse_taylor_form("fisher").error().exit, Exit::usage);
  EXPECT_EQ(checked(parse_prune_method("obd")), PruneMethod::fisher);
}

class GradientPruning : public ::testing::Test {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }

  static BlockJob job(std::shared_ptr<const WeightSource> source) {
    BlockJob job;
    job.model = checked(describe_model(*source));
    job.source = std::move(source);
    job.windows = test::tiny_windows(6, 16);
    job.memory_limit = 1ull << 34;
    return job;
  }

  static SparsityList targets(const ModelDescription& model, const char* text) {
    PruneSelection selection;
    selection.target = checked(PruneTarget::parse(text));
    return checked(select_targets(model, selection, /*allow_ragged=*/true));
  }

  struct Run {
    std::optional<Error> error;
    std::map<std::string, WeightData> weights;
    Manifest manifest;
    std::vector<int64_t> counts;
    int starts = 0;
  };

  // The whole course; a stop after each window and each block and a new process in between when `is_stopped`.
  static Run run(const BlockJob& blocks, GradientScore score, const char* target, bool is_global,
                 bool is_stopped = false, bool allow_fallback = false) {
    Run result;
    const std::string path = memory_folder() + "/gradient-job";
    const SparsityList list = targets(blocks.model, target);
    for (JobMode mode = JobMode::fresh;; mode = JobMode::resume) {
      ++result.starts;
      JobFolder folder = checked(JobFolder::open(path, Json::object(), mode));
      BlockJob job = blocks;
      int64_t done = 0;
      job.block_done = [&](int) { ++done; };
      LossGradientOptions gradient_options;
      gradient_options.commit_seconds = 0.0;
      gradient_options.window_done = [&](int64_t) { ++done; };
      job.advance = [&](int64_t) -> Status {
        if (is_stopped && done > 0) return folder.interrupted_error();
        return {};
      };
      const auto all = [&]() -> Status {
        GradientJob gradients(job.model, list, score);
        PARE_CHECK(gradients.measure(job, gradient_options, folder));
        done = 0;
        PruneOptions options;
        options.method = score == GradientScore::fisher ? PruneMethod::fisher : PruneMethod::taylor;
        options.scope = Scope::layer;
        options.allow_empty = true;  // heads of four are soon empty
        options.allow_fallback = allow_fallback;
        options.scores = [&](const TensorSpec& spec, const Tensor& weight) {
          return gradients.scores(spec, weight);
        };
        if (is_global) {
          PARE_TRY(result.counts, gradients.counts(*job.source, job.model, list));
          for (size_t i = 0; i < list.size(); ++i)
            if (list[i]) options.counts[job.model.tensors[i].name] = result.counts[i];
        }
        PruneStep step(job.model, list, std::move(options));
        PARE_TRY(const BlockJobResult finished, run_blocks(job, step, folder));
        static_cast<void>(finished);
        MemorySink sink;
        PARE_CHECK(write_changed(
            job, folder, [](const TensorSpec&, WeightData&, TensorRecord&) { return Status(); }, sink,
            result.manifest));
        result.weights = std::move(sink.weights);
        return {};
      };
      const Status status = all();
      if (!status && status.error().exit == Exit::interrupted) continue;
      if (!status) result.error = status.error();
      checked(folder.remove());
      return result;
    }
  }

  // A pruned matrix as [out, in].
  static Tensor pruned(const Run& run, const TensorSpec& spec) {
    const Tensor values = checked(converted(run.weights.at(spec.name).dense(), DType::f32));
    return spec.transposed ? checked(transposed(values)) : values;
  }
};

constexpr GradientScore kScores[] = {GradientScore::first, GradientScore::per_sample, GradientScore::mixed,
                                     GradientScore::fisher};

TEST_F(GradientPruning, RemovesExactlyWhatWasAskedInItsPattern) {
  for (const char* model : {test::kTinyLlama, test::kTinyGpt2, test::kTinyMixtral}) {
    const BlockJob blocks = job(test::tiny_model(model));
    for (const char* text : {"0.5", "2:4", "0.5:block-4x4"}) {
      const PruneTarget target = checked(PruneTarget::parse(text));
      const Run done = run(blocks, GradientScore::per_sample, text, false, false, /*allow_fallback=*/true);
      ASSERT_FALSE(done.error) << format_error(*done.error);
      for (const TensorSpec& spec : blocks.model.tensors) {
        if (!spec.is_linear) continue;
        const Tensor values = pruned(done, spec);
        Mask mask = checked(Mask::all_kept(spec.out(), spec.in()));
        for (int64_t i = 0; i < values.numel(); ++i)
          if (values.data<float>()[i] == 0.0f) mask.set(i / spec.in(), i % spec.in(), false);
        EXPECT_TRUE(mask.verify(target.pattern, spec.name)) << spec.name;
        if (target.pattern.kind == SparsityPattern::Kind::block) continue;
        EXPECT_EQ(spec.out() * spec.in() - mask.kept_count(), target.removed(spec.out(), spec.in()))
            << spec.name << " " << text;
      }
    }
  }
}

TEST_F(GradientPruning, StopsAndThreadsDoNotMatter) {
  const int threads = thread_count();
  const BlockJob blocks = job(test::tiny_model(test::kTinyLlama));
  for (const GradientScore score : kScores) {
    for (const bool is_global : {false, true}) {
      set_thread_count(1);
      const Run plain = run(blocks, score, "0.5", is_global);
      set_thread_count(2);
      const Run stopped = run(blocks, score, "0.5", is_global, true);
      set_thread_count(threads);
      ASSERT_FALSE(plain.error) << format_error(*plain.error);
      EXPECT_GT(stopped.starts, 6);
      for (const auto& [name, data] : plain.weights) {
        const Tensor& other = stopped.weights.at(name).dense();
        ASSERT_EQ(std::memcmp(data.dense().raw(), other.raw(), other.size_bytes()), 0) << name;
      }
    }
  }
}

// One cut: the lowest scores of all matrices, equal ones by matrix and place.
TEST_F(GradientPruning, AGlobalCutIsASortOfAllScores) {
  const BlockJob blocks = job(test::tiny_model(test::kTinyLlama));
  // So few that no matrix reaches the cap.
  const SparsityList list = targets(blocks.model, "0.3");
  for (const GradientScore score : kScores) {
    const Run done = run(blocks, score, "0.3", true);
    ASSERT_FALSE(done.error) << format_error(*done.error);
    JobFolder folder = checked(JobFolder::open(memory_folder() + "/again", Json::object(), JobMode::fresh));
    GradientJob gradients(blocks.model, list, score);
    checked(gradients.measure(blocks, {}, folder));
    std::vector<std::tuple<float, size_t, int64_t>> all;
    int64_t asked = 0;
    for (size_t t = 0; t < list.size(); ++t) {
      if (!list[t]) continue;
      const Tensor weight = checked(float_values(*blocks.source, blocks.model.tensors[t]));
      const Tensor scores = checked(gradients.scores(blocks.model.tensors[t], weight));
      for (int64_t i = 0; i < scores.numel(); ++i) all.emplace_back(scores.data<float>()[i], t, i);
      asked += list[t]->sparsity.count(weight.numel());
    }
    std::sort(all.begin(), all.end());
    std::vector<int64_t> counts(list.size(), 0);
    for (int64_t i = 0; i < asked; ++i) ++counts[std::get<1>(all[size_t(i)])];
    EXPECT_EQ(counts, done.counts);
    EXPECT_NE(*std::max_element(counts.begin(), counts.end()), 0);
    for (size_t i = 0; i < all.size(); ++i) {
      const auto& [value, t, place] = all[i];
      const Tensor values = pruned(done, blocks.model.tensors[t]);
      ASSERT_EQ(values.data<float>()[place] == 0.0f, int64_t(i) < asked)
          << blocks.model.tensors[t].name << " " << place;
    }
    checked(folder.remove());
  }
}

// L(w) - L(w without the unit) for a column of down that is scaled by eps: the first-order score in the
// limit.
TEST_F(GradientPruning, TheFirstOrderPredictsTheLossAsAUnitFades) {
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  const auto original = test::tiny_model(test::kTinyLlama);
  const Tensor& weight = original->dense(name);
  const int64_t rows = weight.size(0), columns = weight.size(1);
  const auto with_column = [&](int64_t column, float factor) {
    const auto source = test::tiny_model(test::kTinyLlama);
    Tensor scaled = checked(Tensor::allocate(DType::f32, weight.shape()));
    std::memcpy(scaled.mutable_raw(), weight.raw(), weight.size_bytes());
    for (int64_t i = 0; i < rows; ++i) scaled.mutable_data<float>()[i * columns + column] *= factor;
    source->add(name, scaled);
    return source;
  };
  // The loss, and sum of w g over the column.
  const auto measured = [&](const std::shared_ptr<test::MemorySource>& source, int64_t column) {
    const BlockJob blocks = job(source);
    WeightGradients sums(blocks.model, {name}, {GradientMoment::mean});
    const WeightGradients reader = sums;
    JobFolder folder = checked(JobFolder::open(memory_folder() + "/unit", Json::object(), JobMode::fresh));
    const LossGradients values = checked(measure_loss_gradients(blocks, {}, sums, folder));
    const Tensor gradient = checked(reader.read(values, name, GradientMoment::mean));
    double sum = 0.0;
    for (int64_t i = 0; i < rows; ++i)
      sum += double(source->dense(name).data<float>()[i * columns + column]) *
             double(gradient.data<float>()[i * columns + column]);
    checked(folder.remove());
    return std::pair(values.loss, sum);
  };
  // The column that matters most, so that differences of the loss are far above rounding.
  int64_t column = 0;
  double most = 0.0;
  for (int64_t c = 0; c < columns; ++c) {
    const double sum = std::abs(measured(original, c).second);
    if (sum > most) most = sum, column = c;
  }
  const double without = measured(with_column(column, 0.0f), column).first;
  double last = 1e9;
  for (const float eps : {4.0f, 1.0f, 0.25f}) {
    const auto [loss, score] = measured(with_column(column, eps), column);
    const double error = std::abs((loss - without) / score - 1.0);
    EXPECT_LT(error, std::max(0.6 * last, 0.01)) << "eps " << eps;
    last = error;
  }
  EXPECT_LT(last, 0.05);
}

// A matrix behind which everything is zero has no gradient; its own zeros are not to blame.
TEST_F(GradientPruning, AMatrixWithoutGradientIsRefusedOrFallsBack) {
  const auto source = test::tiny_model(test::kTinyLlama);
  const std::string down = "model.layers.0.mlp.down_proj.weight";
  Tensor zeros = checked(Tensor::allocate(DType::f32, source->dense(down).shape()));
  std::memset(zeros.mutable_raw(), 0, zeros.size_bytes());
  source->add(down, zeros);
  const BlockJob blocks = job(source);
  const Run refused = run(blocks, GradientScore::first, "0.5", false);
  ASSERT_TRUE(refused.error);
  EXPECT_EQ(refused.error->exit, Exit::numeric);
  EXPECT_EQ(refused.error->rule, "NU10");
  EXPECT_NE(refused.error->where.find("layers.0.mlp"), std::string::npos);
  const Run fallen = run(blocks, GradientScore::first, "0.5", false, false, true);
  ASSERT_FALSE(fallen.error) << format_error(*fallen.error);
  int64_t fallbacks = 0;
  for (const TensorRecord& record : fallen.manifest.tensors) {
    if (record.fallback.empty()) continue;
    ++fallbacks;
    EXPECT_EQ(record.method_applied, "magnitude");
    EXPECT_EQ(record.method_asked, "taylor");
    EXPECT_NE(record.name, down);
  }
  EXPECT_EQ(fallbacks, 2);  // gate and up
}

}  // namespace
}  // namespace pare
