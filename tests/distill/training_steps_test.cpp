// Ten steps of training on the fixtures against PyTorch (make_training_steps.py).
#include "tests/distill/training_steps_expected.h"

#include <cmath>

#include "tests/distill/trainer_support.h"
#include "tests/support/shared_data.h"

namespace pare {
namespace {

using test::checked;

class TrainingStepsTest : public test::TrainingTest {};
PARE_TRAINING_SUITE(TrainingStepsTest);

// The rows of the fixture's ids as streams of one window each; the last position of a window has no target.
TrainingData fixture_data(const Tensor& ids) {
  std::vector<TrainingStream> streams;
  for (int64_t row = 0; row < ids.size(0); ++row) {
    auto stream = std::make_shared<TokenStream>();
    stream->ids = test::ids_of(ids.rows(row, row + 1));
    stream->token_hash = token_hash(stream->ids);
    streams.push_back({.tokens = std::move(stream), .name = "fixture"});
  }
  return checked(TrainingData::create(std::move(streams), {.context = ids.size(1), .shuffle = false}));
}

Tensor stored_weight(const TrainingModel& model, const std::string& name) {
  const TensorSpec* spec = model.description().find(name);
  PARE_ASSERT(spec != nullptr, "no {}", name);
  return checked(checked(model.stored(*spec)).to_dense_tensor());
}

TEST_P(TrainingStepsTest, LossAndWeightsEqualPyTorch) {
  PARE_SHARED_OR_SKIP(fixtures, "fixtures");
  for (const test::ExpectedSteps& expected : test::expected_steps()) {
    SCOPED_TRACE(expected.fixture);
    const std::string folder = fixtures + "/" + expected.fixture;
    const Tensor ids = test::read_tensors(folder + "/expected.safetensors").at("input_ids");
    auto student = checked(TrainingModel::open(test::MemorySource::read(folder), device_, {}));
    TrainingData data = fixture_data(ids);
    const TrainerOptions options{
        .loss = LossConfig::defaults(LossKind::ce, true),
        .optimizer = {.beta1 = 0.9, .beta2 = 0.95, .decay = 0.1, .decays_embeddings = true, .clip_norm = 1.0},
        .schedule = {.shape = LearningRateShape::constant, .peak = 1e-3, .steps = 10},
        .batch = 2,
        .micro_batch = 1};
    const auto alone = single_process();
    const auto trainer = checked(Trainer::make(*student, nullptr, nullptr, data, options, *alone));
    for (size_t step = 0; step < expected.losses.size(); ++step) {
      const StepReport report = checked(trainer->step());
      EXPECT_EQ(report.tokens, 46);
      EXPECT_NEAR(report.loss, expected.losses[step], 1e-4 * expected.losses[step]) << "step " << step;
      EXPECT_NEAR(report.gradient_norm, expected.norms[step], 2e-3 * expected.norms[step]) << "step " << step;
    }
    double sum = 0.0;
    for (const TensorSpec& spec : student->description().tensors)
      for (const float value : test::values_of(stored_weight(*student, spec.name)))
        sum += std::fabs(double(value));
    EXPECT_NEAR(sum, expected.sum_of_absolutes, 1e-5 * expected.sum_of_absolutes);
    for (const test::ExpectedWeight& weight : expected.weights) {
      const std::vector<float> values = test::values_of(stored_weight(*student, weight.name));
      double largest = 0.0;
      for (const float value : values) largest = std::max(largest, std::fabs(double(value)));
      EXPECT_NEAR(values[size_t(weight.index)], weight.value, 1e-4 * largest)
          << weight.name << " " << weight.index;
    }
  }
}

}  // namespace
}  // namespace pare
