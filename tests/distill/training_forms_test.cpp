// The trainer over the forms in which a model may be trained: half precision, zeros that stay, adapters,
// steps of grids.
#include <cmath>

#include "distill/qat.h"
#include "tests/distill/trainer_support.h"

namespace pare {
namespace {

using test::checked;
using test::small_options;
using test::start_run;

class TrainingFormsTest : public test::TrainingTest {};
PARE_TRAINING_SUITE(TrainingFormsTest);

// docs/methods.md, training: 200 steps in bf16 and in f16 stay within 1 % of those in f32.
TEST_P(TrainingFormsTest, HalfPrecisionFollowsF32) {
  const int64_t steps = device_ == Device::reference() ? 5 : 200;  // the reference is slow
  TrainerOptions options = small_options();
  options.schedule.steps = steps;
  options.schedule.peak = 1e-3;
  const auto plain = start_run(device_, options);
  const auto expected = plain->take(steps);
  for (const DType dtype : {DType::bf16, DType::f16}) {
    options.scales_loss = dtype == DType::f16;
    TrainingForm form;
    form.compute = dtype;
    const auto run = start_run(device_, options, {.form = form});
    const auto reports = run->take(steps);
    bool differs = false;
    for (size_t i = 0; i < reports.size(); ++i) {
      ASSERT_NEAR(reports[i].loss, expected[i].loss, 0.01 * expected[i].loss)
          << dtype_name(dtype) << " step " << i;
      differs = differs || reports[i].loss != expected[i].loss;
      EXPECT_FALSE(reports[i].skipped);
    }
    EXPECT_TRUE(differs) << dtype_name(dtype);
    EXPECT_EQ(reports.back().loss_scale, dtype == DType::f16 ? 65536.0 : 1.0);
  }
}

TEST_P(TrainingFormsTest, ZerosStayZerosThroughDecayAndMomentum) {
  auto source = test::tiny_model(test::kTinyLlama);
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  Tensor weight = checked(converted(source->dense(name), DType::f32));
  for (int64_t i = 0; i < weight.numel(); i += 3) weight.mutable_data<float>()[i] = 0.0f;
  source->add(name, weight);
  for (const OptimizerKind kind : {OptimizerKind::adamw, OptimizerKind::sgd}) {
    TrainingForm form;
    form.keep_zeros = true;
    TrainerOptions options = small_options(LossKind::ce);
    options.optimizer.kind = kind;
    const auto student = checked(TrainingModel::open(source, device_, form));
    TrainingData data = test::small_data();
    const auto alone = single_process();
    const auto trainer = checked(Trainer::make(*student, nullptr, nullptr, data, options, *alone));
    for (int step = 0; step < 4; ++step) checked(trainer->step());
    const TensorSpec* spec = student->description().find(name);
    const std::vector<float> values =
        test::values_of(checked(checked(student->stored(*spec)).to_dense_tensor()));
    int64_t changed = 0;
    for (int64_t i = 0; i < weight.numel(); ++i) {
      EXPECT_EQ(values[size_t(i)] == 0.0f, i % 3 == 0) << i;
      changed += int64_t(values[size_t(i)] != weight.data<float>()[i]);
    }
    EXPECT_GT(changed, weight.numel() / 2);
    TrainerState state;
    checked(trainer->save(state));
    for (const NamedTensor& entry : state.tensors) {
      if (!entry.name.ends_with(":" + name)) continue;
      for (int64_t i = 0; i < weight.numel(); i += 3)
        ASSERT_EQ(entry.tensor.data<float>()[i], 0.0f) << entry.name << " " << i;
    }
  }
}

TEST_P(TrainingFormsTest, AdaptersLearnWhileTheMatricesStay) {
  TrainingForm form;
  form.lora_rank = 4;
  form.train_embeddings = form.train_norms = false;
  form.seed = 5;
  TrainerOptions options = small_options();
  options.batch = 30;
  options.schedule.peak = 1e-2;
  const auto run = start_run(device_, options, {.form = form});
  const auto reports = run->take(8);
  EXPECT_LT(reports.back().loss, 0.97 * reports.front().loss);
  for (const auto& parameter : run->student->parameters())
    EXPECT_EQ(parameter->kind, Parameter::Kind::adapter) << parameter->name;
  // A resumed run of adapters alone.
  TrainerState state;
  checked(run->trainer->save(state));
  for (NamedTensor& entry : state.tensors) entry.tensor = checked(converted(entry.tensor, DType::f32));
  run->take(2);
  const auto resumed = start_run(device_, options, {.form = form});
  checked(resumed->trainer->restore(state));
  resumed->take(2);
  test::expect_same_weights(*run, *resumed);
}

// Matrices and steps of their grids are trained together, and what is stored is what multiplied.
TEST_P(TrainingFormsTest, GridsLearnTheirSteps) {
  TrainingForm form;
  const QuantScheme scheme = checked(QuantScheme::parse("int3-g8-sym"));
  form.transform = [&](const std::string& name, const Tensor& master) {
    return make_fake_quantizer(name, master, {.scheme = scheme});
  };
  TrainerOptions options = small_options();
  options.batch = 30;
  options.schedule.peak = 2e-3;
  const auto run = start_run(device_, options, {.form = form});
  const Parameter& steps = run->named("model.layers.0.mlp.up_proj.weight:scales");
  EXPECT_EQ(steps.kind, Parameter::Kind::step);
  const std::vector<float> before = test::values_of(steps.value);
  const auto reports = run->take(5);
  EXPECT_LT(reports.back().loss, 0.99 * reports.front().loss);
  EXPECT_NE(test::values_of(steps.value), before);
  const TensorSpec* spec = run->student->description().find("model.layers.0.mlp.up_proj.weight");
  const WeightData stored = checked(run->student->stored(*spec));
  ASSERT_TRUE(stored.is_quantized());
  EXPECT_EQ(stored.quantized()->scheme, scheme);
  TrainerState state;
  checked(run->trainer->save(state));
  for (NamedTensor& entry : state.tensors) entry.tensor = checked(converted(entry.tensor, DType::f32));
  run->take(2);
  const auto resumed = start_run(device_, options, {.form = form});
  checked(resumed->trainer->restore(state));
  resumed->take(2);
  test::expect_same_weights(*run, *resumed);
}

}  // namespace
}  // namespace pare
