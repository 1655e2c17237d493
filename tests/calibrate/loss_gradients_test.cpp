// Gradients over calibration windows: against PyTorch and against differences of the loss; what the sums are
// made of; threads, memory and resuming do not matter.
#include "calibrate/loss_gradients.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "calibrate/weight_gradients.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/parallel.h"
#include "tests/support/memory_source.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"
#include "tests/support/walk.h"

namespace pare {
namespace {

using test::checked;
using test::memory_folder;

const std::vector<GradientMoment> kMoments = {GradientMoment::mean, GradientMoment::absolute,
                                              GradientMoment::square};

CalibrationWindows windows_of(std::vector<int32_t> ids, int64_t samples) {
  CalibrationWindows windows;
  windows.samples = samples;
  windows.context = int64_t(ids.size()) / samples;
  windows.ids = std::move(ids);
  return windows;
}

CalibrationWindows random_windows(int64_t samples, int64_t context) {
  std::vector<int32_t> ids;
  const Random random(5, RandomPurpose::test_data, "windows");
  for (int64_t i = 0; i < samples * context; ++i) ids.push_back(int32_t(random.below(40, uint64_t(i))));
  return windows_of(std::move(ids), samples);
}

// Windows [begin, end) of these.
CalibrationWindows part(const CalibrationWindows& all, int64_t begin, int64_t end) {
  return windows_of({all.ids.begin() + begin * all.context, all.ids.begin() + end * all.context},
                    end - begin);
}

BlockJob job_of(std::shared_ptr<const WeightSource> source, CalibrationWindows windows) {
  BlockJob job;
  job.model = checked(describe_model(*source));
  job.source = std::move(source);
  job.windows = std::move(windows);
  job.memory_limit = 1ull << 34;
  return job;
}

std::vector<std::string> linears(const ModelDescription& model) {
  std::vector<std::string> names;
  for (const TensorSpec& spec : model.tensors)
    if (spec.is_linear) names.push_back(spec.name);
  return names;
}

// All moments of all linears after a run in a folder of its own.
struct Measured {
  WeightGradients sums;
  std::optional<JobFolder> folder;
  LossGradients values;
  explicit Measured(const BlockJob& job, const std::string& name = "gradients")
      : sums(job.model, linears(job.model), kMoments) {
    folder.emplace(checked(JobFolder::open(memory_folder() + "/" + name, Json::object(), JobMode::fresh)));
    WeightGradients running = sums;
    values = checked(measure_loss_gradients(job, {}, running, *folder));
  }
  ~Measured() { checked(folder->remove()); }
  Tensor read(const std::string& name, GradientMoment moment) const {
    return checked(sums.read(values, name, moment));
  }
  std::string bytes() const {
    return {reinterpret_cast<const char*>(values.values->bytes().data()), values.values->bytes().size()};
  }
};

class LossGradientsTest : public ::testing::Test {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }
};

double largest(const Tensor& x) {
  double most = 0.0;
  for (int64_t i = 0; i < x.numel(); ++i) most = std::max(most, std::abs(double(x.data<float>()[i])));
  return most;
}

// PyTorch took all sequences as one batch; here each is a window.
TEST_F(LossGradientsTest, TheMeanIsPyTorchsGradient) {
  for (const char* fixture : {"fixtures/llama-tied", "fixtures/qwen2", "fixtures/mixtral", "fixtures/gpt2"}) {
    PARE_SHARED_OR_SKIP(folder, fixture);
    const auto expected = test::read_tensors(folder + "/expected.safetensors");
    const Tensor& ids = expected.at("input_ids");
    const BlockJob job = job_of(test::MemorySource::read(folder), windows_of(test::ids_of(ids), ids.size(0)));
    const Measured measured(job);
    EXPECT_NEAR(measured.values.loss, double(*expected.at("loss").data<float>()), 1e-5) << fixture;
    EXPECT_EQ(measured.values.windows, ids.size(0));
    for (const std::string& name : linears(job.model)) {
      Tensor got = measured.read(name, GradientMoment::mean);
      if (job.model.find(name)->transposed) got = checked(transposed(got));
      const Tensor& wanted = expected.at("grad." + name);
      ASSERT_EQ(got.shape(), wanted.shape()) << name;
      const double bound = 1e-4 * largest(wanted) + 1e-7;
      for (int64_t i = 0; i < got.numel(); ++i)
        ASSERT_NEAR(double(got.data<float>()[i]), double(wanted.data<float>()[i]), bound) << name << " " << i;
    }
  }
}

TEST_F(LossGradientsTest, MomentsAreThoseOfSingleWindows) {
  const int64_t count = 5;
  for (const char* config : {test::kTinyLlama, test::kTinyMixtral}) {
    const auto source = test::tiny_model(config);
    const CalibrationWindows windows = random_windows(count, 12);
    const BlockJob job = job_of(source, windows);
    const Measured all(job);
    std::map<std::string, std::vector<Tensor>> single;  // g_n
    double loss = 0.0;
    for (int64_t n = 0; n < count; ++n) {
      const Measured one(job_of(source, part(windows, n, n + 1)), "one");
      loss += one.values.loss / double(count);
      for (const std::string& name : linears(job.model))
        single[name].push_back(one.read(name, GradientMoment::mean));
    }
    EXPECT_NEAR(all.values.loss, loss, 1e-12);
    for (const auto& [name, gradients] : single) {
      const Tensor mean = all.read(name, GradientMoment::mean);
      const Tensor absolute = all.read(name, GradientMoment::absolute);
      const Tensor square = all.read(name, GradientMoment::square);
      for (int64_t i = 0; i < mean.numel(); ++i) {
        double sums[3] = {0.0, 0.0, 0.0};
        for (const Tensor& gradient : gradients) {
          const auto g = double(gradient.data<float>()[i]);
          sums[0] += g / count, sums[1] += std::abs(g) / count, sums[2] += g * g / count;
        }
        ASSERT_NEAR(double(mean.data<float>()[i]), sums[0], 4e-7 * sums[1]) << name;
        ASSERT_NEAR(double(absolute.data<float>()[i]), sums[1], 4e-7 * sums[1]) << name;
        ASSERT_NEAR(double(square.data<float>()[i]), sums[2], 1e-6 * sums[2] + 1e-40) << name;
      }
    }
  }
}

// Two halves of the windows give the mean of the whole, up to rounding.
TEST_F(LossGradientsTest, ASplitOfTheWindowsDoesNotMatter) {
  const auto source = test::tiny_model(test::kTinyLlama);
  const CalibrationWindows windows = random_windows(6, 10);
  const Measured all(job_of(source, windows)), first(job_of(source, part(windows, 0, 2)), "a"),
      rest(job_of(source, part(windows, 2, 6)), "b");
  for (const std::string& name : linears(checked(describe_model(*source)))) {
    for (const GradientMoment moment : kMoments) {
      const Tensor whole = all.read(name, moment), a = first.read(name, moment), b = rest.read(name, moment);
      for (int64_t i = 0; i < whole.numel(); ++i) {
        const double joined = (2.0 * double(a.data<float>()[i]) + 4.0 * double(b.data<float>()[i])) / 6.0;
        ASSERT_NEAR(double(whole.data<float>()[i]), joined, 1e-6 * largest(whole)) << name;
      }
    }
  }
}

TEST_F(LossGradientsTest, AreSlopesOfTheLoss) {
  const auto source = test::tiny_model(test::kTinyLlama);
  const CalibrationWindows windows = random_windows(3, 12);
  const BlockJob job = job_of(source, windows);
  const Measured measured(job);
  for (const std::string& name : linears(job.model)) {
    const Tensor gradient = measured.read(name, GradientMoment::mean);
    int64_t steepest = 0;
    for (int64_t i = 0; i < gradient.numel(); ++i)
      if (std::abs(gradient.data<float>()[i]) > std::abs(gradient.data<float>()[steepest])) steepest = i;
    const Tensor& weight = source->dense(name);
    double loss[2];
    const float step = 1.0f / 128.0f;
    for (const int side : {0, 1}) {
      Tensor moved = checked(Tensor::allocate(DType::f32, weight.shape()));
      std::memcpy(moved.mutable_raw(), weight.raw(), weight.size_bytes());
      moved.mutable_data<float>()[steepest] += side == 0 ? -step : step;
      const auto changed = test::tiny_model(test::kTinyLlama);
      changed->add(name, moved);
      loss[side] = Measured(job_of(changed, windows), "moved").values.loss;
    }
    const double slope = (loss[1] - loss[0]) / (2.0 * double(step));
    EXPECT_NEAR(double(gradient.data<float>()[steepest]), slope, 0.02 * std::abs(slope) + 2e-5) << name;
  }
}

TEST_F(LossGradientsTest, ThreadsAndMemoryDoNotMatter) {
  const int threads = thread_count();
  for (const char* config : {test::kTinyLlama, test::kTinyMixtral, test::kTinyGpt2}) {
    BlockJob job = job_of(test::tiny_model(config), random_windows(3, 16));
    set_thread_count(1);
    const std::string one = Measured(job).bytes();
    set_thread_count(2);
    EXPECT_EQ(one, Measured(job).bytes());
    job.memory_limit = 0;  // no ceiling is given, so that only the least is taken: blocks run again
    EXPECT_EQ(one, Measured(job).bytes());
    set_thread_count(threads);
  }
}

TEST_F(LossGradientsTest, AStoppedRunGivesTheSameBytes) {
  BlockJob job = job_of(test::tiny_model(test::kTinyLlama), random_windows(5, 12));
  const Measured whole(job);
  const std::string path = memory_folder() + "/stopped";
  int starts = 0;
  for (JobMode mode = JobMode::fresh;; mode = JobMode::resume) {
    JobFolder folder = checked(JobFolder::open(path, Json::object(), mode));
    // Killed in the middle of the second window after the last commit.
    int64_t windows = 0;
    job.advance = [&](int64_t) -> Status {
      if (++windows == 2) return folder.interrupted_error();
      return {};
    };
    WeightGradients sums(job.model, linears(job.model), kMoments);
    LossGradientOptions options;
    options.commit_seconds = starts % 2 == 0 ? 0.0 : 1e9;
    ++starts;
    ASSERT_LT(starts, 20);
    const auto result = measure_loss_gradients(job, options, sums, folder);
    if (!result) {
      ASSERT_EQ(result.error().exit, Exit::interrupted);
      continue;
    }
    const auto bytes = result->values->bytes();
    EXPECT_EQ(whole.bytes(), std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()));
    EXPECT_EQ(result->loss, whole.values.loss);
    EXPECT_EQ(result->windows, 5);
    // And once more: nothing is run again.
    job.advance = [&](int64_t) -> Status { return folder.interrupted_error(); };
    EXPECT_TRUE(measure_loss_gradients(job, options, sums, folder));
    checked(folder.remove());
    break;
  }
  EXPECT_GT(starts, 2);
}

TEST_F(LossGradientsTest, WhatCannotBeIsRefused) {
  const auto refusal = [](const BlockJob& job) {
    JobFolder folder = checked(JobFolder::open(memory_folder() + "/refused", Json::object(), JobMode::fresh));
    WeightGradients sums(job.model, linears(job.model), kMoments);
    const auto result = measure_loss_gradients(job, {}, sums, folder);
    EXPECT_FALSE(result);
    checked(folder.remove());
    return result ? Error{} : result.error();
  };
  BlockJob job = job_of(test::tiny_model(test::kTinyLlama), random_windows(2, 8));
  job.memory_limit = 1000;
  const Error memory = refusal(job);
  EXPECT_EQ(memory.exit, Exit::resource);
  EXPECT_EQ(memory.rule, "CL05");
  EXPECT_NE(memory.limit.find("B"), std::string::npos);

  const auto source = test::tiny_model(test::kTinyLlama);
  Tensor gain = checked(Tensor::allocate(DType::f32, source->dense("model.norm.weight").shape()));
  for (int64_t i = 0; i < gain.numel(); ++i) gain.mutable_data<float>()[i] = 3e38f;
  source->add("model.norm.weight", gain);
  const Error loss = refusal(job_of(source, random_windows(2, 8)));
  EXPECT_EQ(loss.exit, Exit::numeric);
  EXPECT_EQ(loss.rule, "NU16");
  EXPECT_EQ(loss.where, "window 0");

  const auto codes = test::tiny_model(test::kTinyLlama);
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  codes->add(name, test::int8_of(codes->dense(name)), false);
  EXPECT_EQ(refusal(job_of(codes, random_windows(2, 8))).exit, Exit::unsupported);
}

// What is not asked for is not trained, and the rest keeps its gradients.
TEST_F(LossGradientsTest, PartOfTheMatricesHaveTheSameGradients) {
  const BlockJob job = job_of(test::tiny_model(test::kTinyLlama), random_windows(2, 12));
  const Measured all(job);
  const std::string name = "model.layers.1.mlp.up_proj.weight";
  WeightGradients sums(job.model, {name}, {GradientMoment::mean});
  WeightGradients every(job.model, linears(job.model), {GradientMoment::mean});
  EXPECT_LT(checked(loss_gradient_bytes(job.source, job.model, 12, sums)),
            checked(loss_gradient_bytes(job.source, job.model, 12, every)));
  JobFolder folder = checked(JobFolder::open(memory_folder() + "/part", Json::object(), JobMode::fresh));
  WeightGradients running = sums;
  const LossGradients values = checked(measure_loss_gradients(job, {}, running, folder));
  const Tensor got = checked(sums.read(values, name, GradientMoment::mean));
  const Tensor wanted = all.read(name, GradientMoment::mean);
  EXPECT_EQ(std::memcmp(got.raw(), wanted.raw(), got.size_bytes()), 0);
  checked(folder.remove());
}

}  // namespace
}  // namespace pare
