#include "distill/private_gradients.h"

#include <cmath>

#include "tests/distill/trainer_support.h"

namespace pare {
namespace {

using test::checked;

TEST(SampleWindowsTest, EveryWindowWithTheSameProbability) {
  std::vector<int> seen(50, 0);
  size_t total = 0;
  for (int64_t step = 0; step < 2000; ++step) {
    const auto chosen = sample_windows(7, step, 50, 0.2);
    total += chosen.size();
    for (size_t i = 0; i < chosen.size(); ++i) {
      ++seen[size_t(chosen[i])];
      if (i > 0) {
        EXPECT_LT(chosen[i - 1], chosen[i]);
      }
    }
  }
  // Five standard deviations of binomial counts.
  EXPECT_NEAR(double(total), 20000.0, 5.0 * std::sqrt(100000 * 0.2 * 0.8));
  for (const int count : seen) EXPECT_NEAR(count, 400.0, 5.0 * std::sqrt(2000 * 0.2 * 0.8));
  EXPECT_EQ(sample_windows(7, 3, 50, 1.0).size(), 50u);
  EXPECT_TRUE(sample_windows(7, 3, 50, 0.0).empty());
  EXPECT_EQ(sample_windows(7, 3, 50, 0.2), sample_windows(7, 3, 50, 0.2));
  EXPECT_NE(sample_windows(7, 3, 50, 0.2), sample_windows(8, 3, 50, 0.2));
}

TEST(PrivateSumTest, NoiseHasItsDeviationAndFollowsTheKey) {
  const auto w =
      test::parameter("w", Parameter::Kind::matrix, test::floats({1, 2}, {0.0f, 0.0f}, Device::cpu()));
  const auto big =
      test::parameter("big", Parameter::Kind::matrix, checked(Tensor::allocate(DType::f32, {200, 100})));
  PrivateSum sum = checked(PrivateSum::make({w, big}));
  w->gradient.mutable_data<float>()[0] = 3.0f;
  sum.add(0.5);
  sum.add(0.5);
  sum.finish(9, 4, 0.0, 0.25);
  EXPECT_EQ(w->gradient.data<float>()[0], 0.75f);
  sum.finish(9, 4, 2.0, 1.0);
  const std::vector<float> noise = test::values_of(big->gradient);
  double mean = 0.0, squares = 0.0;
  for (const float value : noise) {
    mean += double(value) / 20000.0;
    squares += double(value) * double(value) / 20000.0;
  }
  EXPECT_NEAR(mean, 0.0, 5.0 * 2.0 / std::sqrt(20000.0));
  EXPECT_NEAR(squares, 4.0, 5.0 * 4.0 * std::sqrt(2.0 / 20000.0));
  sum.finish(9, 5, 2.0, 1.0);
  EXPECT_NE(test::values_of(big->gradient), noise);
  sum.finish(9, 4, 2.0, 1.0);
  EXPECT_EQ(test::values_of(big->gradient), noise);
  sum.finish(10, 4, 2.0, 1.0);
  EXPECT_NE(test::values_of(big->gradient), noise);
}

class PrivateTrainingTest : public test::TrainingTest {};
PARE_TRAINING_SUITE(PrivateTrainingTest);

// All windows in every step, nothing clipped, hardly any noise, equal numbers of targets: plain training.
TEST_P(PrivateTrainingTest, WithoutNoiseAndClippingItIsPlainTraining) {
  const auto run_with = [&](bool is_private) {
    TrainerOptions options = test::small_options();
    options.batch = 30;
    options.micro_batch = 10;
    options.optimizer.kind = OptimizerKind::sgd;
    options.schedule.peak = 0.1;
    if (is_private) options.privacy = PrivateTraining{.clip = 1e5, .noise = 1e-14, .secret_key = 3};
    auto run = std::make_unique<test::Run>();
    run->data = test::small_data(12, /*masks=*/false);
    run->student = checked(TrainingModel::open(test::tiny_model(test::kTinyLlama), device_, {}));
    run->teacher =
        live_teacher(checked(Model::open(test::other_model(test::kTinyLlama, 0.2f), device_)), false);
    run->trainer =
        checked(Trainer::make(*run->student, run->teacher.get(), nullptr, run->data, options, *run->alone));
    run->take(3);
    return run;
  };
  EXPECT_LT(weight_difference(*run_with(true), *run_with(false)), 1e-5);
}

TEST_P(PrivateTrainingTest, OneSequenceCannotMoveTheSumBeyondItsClip) {
  TrainerOptions options = test::small_options();
  options.batch = 6;
  options.optimizer.clip_norm = 0.0;
  options.privacy = PrivateTraining{.clip = 1e-3, .noise = 1e-12, .secret_key = 3};
  const auto run = test::start_run(device_, options);
  int64_t most = 0;
  for (int step = 0; step < 5; ++step) {
    const StepReport report = checked(run->trainer->step());
    const int64_t sequences = report.input_tokens / 12;
    most = std::max(most, sequences);
    EXPECT_LE(report.gradient_norm, 1.001e-3 * double(sequences) / 6.0);
    EXPECT_EQ(int64_t(sample_windows(3, step, 30, 0.2).size()), sequences);
  }
  EXPECT_GT(most, 0);
}

TEST_P(PrivateTrainingTest, ResumesAndSharesItsWork) {
  TrainerOptions options = test::small_options();
  options.batch = 6;
  options.privacy = PrivateTraining{.clip = 0.5, .noise = 0.1, .secret_key = 3};
  const auto straight = test::start_run(device_, options);
  straight->take(2);
  TrainerState state;
  checked(straight->trainer->save(state));
  for (NamedTensor& entry : state.tensors) entry.tensor = checked(converted(entry.tensor, DType::f32));
  straight->take(2);
  const auto resumed = test::start_run(device_, options);
  checked(resumed->trainer->restore(state));
  resumed->take(2);
  test::expect_same_weights(*straight, *resumed);
  std::vector<std::unique_ptr<test::Run>> runs(2);
  test::ThreadGroup(2).run([&](GradientExchange& exchange) {
    auto& run = runs[size_t(exchange.rank())];
    run = test::start_run(device_, options, {.exchange = &exchange});
    run->take(4);
  });
  test::expect_same_weights(*runs[0], *runs[1]);
  EXPECT_LT(weight_difference(*runs[0], *straight), 2e-4);
}

}  // namespace
}  // namespace pare
