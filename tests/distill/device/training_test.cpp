// Training in device memory: the whole trainer on a guarded device, whose results are those of the CPU to the
// last bit, and on the GPU's own kernels (emulated where there is none), which come close and repeat
// themselves.
#include <cmath>

#include "distill/qat.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/cuda/cuda_backend.h"
#include "engine/tensor/transfer.h"
#include "tests/distill/trainer_support.h"
#include "tests/support/guarded_backend.h"

namespace pare {
namespace {

using test::checked;
using test::Run;
using test::small_options;
using test::start_run;

const Device kGpu = Device::cuda(0);

enum class Kernels { guarded, cuda };

class DeviceTrainingTest : public testing::TestWithParam<Kernels> {
 protected:
  void SetUp() override {
    install_backend(cpu());
    if (GetParam() == Kernels::guarded) {
      install_backend(test::make_guarded_backend(cpu()));
    } else {
      install_backend(checked(make_cuda_backend(0, {.math = cuda::MathMode::f32})));
    }
  }
  static std::unique_ptr<Backend> cpu() { return make_cpu_backend(cpu::host_isa()); }
  // Of losses on the GPU and on the CPU, as a share.
  static double tolerance() { return GetParam() == Kernels::guarded ? 0.0 : 1e-4; }
  // Emulated kernels take seconds per step.
  static int64_t steps() { return GetParam() == Kernels::guarded ? 5 : 3; }
  static TrainerOptions options(LossKind kind = LossKind::ce_kl) {
    TrainerOptions options = small_options(kind);
    options.batch = 4;
    options.micro_batch = 2;
    return options;
  }
};
INSTANTIATE_TEST_SUITE_P(Devices, DeviceTrainingTest, testing::Values(Kernels::guarded, Kernels::cuda),
                         [](const auto& info) {
                           return info.param == Kernels::guarded ? "guarded" : "cuda";
                         });

std::vector<float> host_values(const Tensor& tensor) {
  return test::values_of(checked(moved(tensor, Device::cpu())));
}

void expect_losses(const std::vector<StepReport>& got, const std::vector<StepReport>& want,
                   double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_NEAR(got[i].loss, want[i].loss, tolerance * want[i].loss) << "step " << i;
    EXPECT_NEAR(got[i].cross_entropy, want[i].cross_entropy, tolerance * want[i].cross_entropy) << i;
    EXPECT_NEAR(got[i].divergence, want[i].divergence, tolerance * (want[i].divergence + 0.1)) << i;
    EXPECT_NEAR(got[i].gradient_norm, want[i].gradient_norm, 10.0 * tolerance * want[i].gradient_norm) << i;
    EXPECT_FALSE(got[i].skipped);
  }
}

// Bit by bit on the guarded device.
void expect_weights(const Run& got, const Run& want, double tolerance) {
  ASSERT_EQ(got.student->parameters().size(), want.student->parameters().size());
  for (size_t i = 0; i < got.student->parameters().size(); ++i) {
    const std::vector<float> a = host_values(got.student->parameters()[i]->value);
    const std::vector<float> b = host_values(want.student->parameters()[i]->value);
    for (size_t k = 0; k < a.size(); ++k)
      ASSERT_NEAR(a[k], b[k], tolerance) << got.student->parameters()[i]->name << " " << k;
  }
}

void expect_same_reports(const std::vector<StepReport>& a, const std::vector<StepReport>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].loss, b[i].loss) << i;
    EXPECT_EQ(a[i].gradient_norm, b[i].gradient_norm) << i;
  }
}

TEST_P(DeviceTrainingTest, DistillationFollowsTheCpuAndRepeatsItself) {
  for (const char* family : {test::kTinyLlama, test::kTinyGpt2}) {
    const auto here = start_run(Device::cpu(), options(), {.student = family, .teacher = family});
    const auto expected = here->take(steps());
    const auto there = start_run(kGpu, options(), {.student = family, .teacher = family});
    const auto reports = there->take(steps());
    expect_losses(reports, expected, tolerance());
    // AdamW divides by the root of what is nearly nothing: a weight may be off by a share of its step.
    expect_weights(*there, *here, tolerance() > 0.0 ? 3e-3 : 0.0);
    const auto again = start_run(kGpu, options(), {.student = family, .teacher = family});
    expect_same_reports(again->take(steps()), reports);
    expect_weights(*again, *there, 0.0);
  }
}

TEST_P(DeviceTrainingTest, EveryDivergence) {
  for (const LossKind kind :
       {LossKind::ce, LossKind::kl, LossKind::reverse_kl, LossKind::jsd, LossKind::tvd}) {
    const auto here = start_run(Device::cpu(), options(kind));
    const auto there = start_run(kGpu, options(kind));
    expect_losses(there->take(1), here->take(1), tolerance());
  }
}

TEST_P(DeviceTrainingTest, RunningBlocksAgainGivesTheSameBytes) {
  TrainerOptions kept = options(), again = options();
  again.keeps_blocks = false;
  const auto a = start_run(kGpu, kept), b = start_run(kGpu, again, {.one_block_at_a_time = true});
  expect_same_reports(a->take(2), b->take(2));
  expect_weights(*a, *b, 0.0);
}

TEST_P(DeviceTrainingTest, WorkingCopiesInBf16) {
  TrainingForm form;
  form.compute = DType::bf16;
  const auto here = start_run(Device::cpu(), options(), {.form = form});
  const auto there = start_run(kGpu, options(), {.form = form});
  expect_losses(there->take(2), here->take(2), 10.0 * tolerance());
}

TEST_P(DeviceTrainingTest, SavedAndRestoredGivesTheBytesOfOneRun) {
  const auto whole = start_run(kGpu, options());
  const auto expected = whole->take(steps());
  TrainerState state;
  std::vector<StepReport> reports;
  {
    const auto first = start_run(kGpu, options());
    reports = first->take(1);
    checked(first->trainer->save(state));
    for (const NamedTensor& entry : state.tensors) EXPECT_TRUE(entry.tensor.device().is_host());
  }
  const auto second = start_run(kGpu, options());
  checked(second->trainer->restore(state));
  for (const StepReport& report : second->take(steps() - 1)) reports.push_back(report);
  expect_same_reports(reports, expected);
  expect_weights(*second, *whole, 0.0);
}

TEST_P(DeviceTrainingTest, ZerosStayAndMasksMayGrow) {
  auto source = test::tiny_model(test::kTinyLlama);
  const std::string name = "model.layers.1.self_attn.o_proj.weight";
  Tensor weight = checked(converted(source->dense(name), DType::f32));
  for (int64_t i = 0; i < weight.numel(); i += 3) weight.mutable_data<float>()[i] = 0.0f;
  source->add(name, weight);
  TrainingForm form;
  form.keep_zeros = true;
  for (const OptimizerKind kind : {OptimizerKind::adamw, OptimizerKind::sgd}) {
    TrainerOptions wanted = options(LossKind::ce);
    wanted.optimizer.kind = kind;
    // From the second step on one weight more is gone.
    wanted.update_masks = [&](int64_t step, const ParameterList& parameters) -> Result<bool> {
      if (step != 1) return false;
      for (const auto& parameter : parameters) {
        if (parameter->name != name) continue;
        PARE_TRY(Mask mask, Mask::all_kept(parameter->value.size(0), parameter->value.size(1)));
        for (int64_t i = 0; i < weight.numel(); ++i)
          if (i % 3 == 0 || i == 1) mask.set(i / weight.size(1), i % weight.size(1), false);
        parameter->mask = std::make_shared<const Mask>(std::move(mask));
      }
      return true;
    };
    std::vector<std::vector<float>> values;
    for (const Device device : {Device::cpu(), kGpu}) {
      const auto student = checked(TrainingModel::open(source, device, form));
      TrainingData data = test::small_data();
      const auto alone = single_process();
      const auto trainer = checked(Trainer::make(*student, nullptr, nullptr, data, wanted, *alone));
      for (int step = 0; step < 2; ++step) checked(trainer->step());
      const TensorSpec* spec = student->description().find(name);
      values.push_back(test::values_of(checked(checked(student->stored(*spec)).to_dense_tensor())));
    }
    for (size_t i = 0; i < values[0].size(); ++i) {
      ASSERT_EQ(values[1][i] == 0.0f, i % 3 == 0 || i == 1) << i;
      ASSERT_NEAR(values[1][i], values[0][i], tolerance() > 0.0 ? 3e-3 : 0.0) << i;
    }
  }
}

TEST_P(DeviceTrainingTest, StepsOfGridsAreLearned) {
  for (const char* scheme : {"int4-g8", "int4-g8-asym-sf32", "int8-tensor-sf32"}) {
    const QuantScheme parsed = checked(QuantScheme::parse(scheme));
    TrainingForm form;
    form.transform = [&](const std::string& name, const Tensor& master) {
      return make_fake_quantizer(name, master, {.scheme = parsed});
    };
    const auto here = start_run(Device::cpu(), options(LossKind::kl), {.form = form});
    const auto there = start_run(kGpu, options(LossKind::kl), {.form = form});
    expect_losses(there->take(2), here->take(2), tolerance() > 0.0 ? 1e-2 : 1e-6);  // a code may turn over
    const TensorSpec* spec = there->student->description().find("model.layers.0.mlp.up_proj.weight");
    const WeightData stored = checked(there->student->stored(*spec));
    ASSERT_TRUE(stored.is_quantized());
    const std::vector<float> codes = test::values_of(checked(stored.to_dense_tensor()));
    const std::vector<float> same =
        test::values_of(checked(checked(here->student->stored(*spec)).to_dense_tensor()));
    double worst = 0.0;
    for (size_t i = 0; i < codes.size(); ++i)
      worst = std::max(worst, std::fabs(double(codes[i]) - double(same[i])));
    EXPECT_LT(worst, GetParam() == Kernels::guarded ? 1e-6 : 0.1) << scheme;
  }
}

// Inputs rounded as integer products will round them; static steps are parameters like those of weights.
TEST_P(DeviceTrainingTest, InputsAreRounded) {
  using Mode = ActivationQuant::Mode;
  for (const ActivationQuant& activation :
       {ActivationQuant{}, ActivationQuant{.symmetric = false},
        ActivationQuant{.mode = Mode::static_tensor, .symmetric = true, .scale = 0.02f}}) {
    SCOPED_TRACE(activation.text());
    TrainingForm form;
    form.transform = [&](const std::string& name, const Tensor& master) {
      return make_fake_quantizer(
          name, master, {.scheme = checked(QuantScheme::parse("int8-ch-sf32")), .activation = activation});
    };
    const auto here = start_run(Device::cpu(), options(LossKind::kl), {.form = form});
    const auto there = start_run(kGpu, options(LossKind::kl), {.form = form});
    const auto again = start_run(kGpu, options(LossKind::kl), {.form = form});
    const auto reports = there->take(2);
    expect_losses(reports, here->take(2), tolerance() > 0.0 ? 1e-2 : 1e-6);  // a code may turn over
    expect_same_reports(again->take(2), reports);
    expect_weights(*again, *there, 0.0);
    const TensorSpec* spec = there->student->description().find("model.layers.0.mlp.up_proj.weight");
    const auto stored = checked(there->student->stored(*spec)).quantized();
    const auto same = checked(here->student->stored(*spec)).quantized();
    ASSERT_TRUE(stored->activation.has_value() && same->activation.has_value());
    EXPECT_EQ(stored->activation->mode, activation.mode);
    EXPECT_NEAR(stored->activation->scale, same->activation->scale, 0.02 * same->activation->scale);
    if (activation.mode == Mode::static_tensor) {
      EXPECT_NE(stored->activation->scale, activation.scale);  // it was learned
      const Parameter& step = there->named("model.layers.0.mlp.up_proj.weight:input_scale");
      EXPECT_EQ(step.value.device(), kGpu);
    }
  }
}

TEST_P(DeviceTrainingTest, AdaptersAndNormsAlone) {
  TrainingForm form;
  form.lora_rank = 3;
  form.train_embeddings = false;
  const auto here = start_run(Device::cpu(), options(), {.student = test::kTinyGpt2, .form = form});
  const auto there = start_run(kGpu, options(), {.student = test::kTinyGpt2, .form = form});
  expect_losses(there->take(2), here->take(2), tolerance());
}

TEST_P(DeviceTrainingTest, ValidationChangesNothing) {
  const auto here = start_run(Device::cpu(), options()), there = start_run(kGpu, options());
  const auto a = checked(here->trainer->validate(here->data, 0, 5, true));
  const auto b = checked(there->trainer->validate(there->data, 0, 5, true));
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_NEAR(a.loss, b.loss, tolerance() * a.loss);
  expect_losses(there->take(1), here->take(1), tolerance());
}

// Hidden states through a projection (the teacher is wider) and without one, by both distances, with
// relations of the last block; the weight of their sum follows the loss of the logits.
constexpr const char* kWideTeacher = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40, "hidden_size": 32,
  "intermediate_size": 40, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
  "max_position_embeddings": 64, "tie_word_embeddings": false})";

struct States {
  const char* student;
  const char* teacher;
  IntermediateConfig losses;
};
std::vector<States> all_states() {
  return {
      {test::kTinyLlama, kWideTeacher, {.hidden = HiddenLossKind::mse, .attention = true}},
      {test::kTinyLlama, kWideTeacher, {.hidden = HiddenLossKind::cosine, .weight = 0.5}},
      {test::kTinyLlama, test::kTinyLlama, {.hidden = HiddenLossKind::cosine, .attention = true}},
      {test::kTinyGpt2, test::kTinyGpt2, {.hidden = HiddenLossKind::mse, .attention = true, .weight = 0.3}}};
}

TEST_P(DeviceTrainingTest, StatesInsideFollowTheCpuAndRepeatThemselves) {
  for (const States& states : all_states()) {
    TrainerOptions wanted = options();
    wanted.intermediate = states.losses;
    const auto start = [&](Device device) {
      return start_run(device, wanted, {.student = states.student, .teacher = states.teacher});
    };
    const auto here = start(Device::cpu()), there = start(kGpu), again = start(kGpu);
    const auto expected = here->take(steps()), reports = there->take(steps());
    expect_losses(reports, expected, tolerance());
    for (size_t i = 0; i < reports.size(); ++i) {
      EXPECT_GT(expected[i].intermediate, 0.0);
      EXPECT_NEAR(reports[i].intermediate, expected[i].intermediate, tolerance() * expected[i].intermediate);
    }
    expect_weights(*there, *here, tolerance() > 0.0 ? 3e-3 : 0.0);
    expect_same_reports(again->take(steps()), reports);
    expect_weights(*again, *there, 0.0);
  }
}

// Projections, their moments, variances and the weight of the sum go through the state of a job.
TEST_P(DeviceTrainingTest, StatesInsideSavedAndRestored) {
  TrainerOptions wanted = options();
  wanted.intermediate = {.hidden = HiddenLossKind::mse, .attention = true};
  const auto start = [&] { return start_run(kGpu, wanted, {.teacher = kWideTeacher}); };
  const auto whole = start();
  const auto expected = whole->take(steps());
  TrainerState state;
  std::vector<StepReport> reports;
  {
    const auto first = start();
    reports = first->take(1);
    checked(first->trainer->save(state));
  }
  const auto second = start();
  checked(second->trainer->restore(state));
  for (const StepReport& report : second->take(steps() - 1)) reports.push_back(report);
  expect_same_reports(reports, expected);
  for (size_t i = 0; i < reports.size(); ++i) EXPECT_EQ(reports[i].intermediate, expected[i].intermediate);
  expect_weights(*second, *whole, 0.0);
  const ParameterList& a = second->trainer->optimizer().parameters();
  const ParameterList& b = whole->trainer->optimizer().parameters();
  int projections = 0;
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    if (!a[i]->name.starts_with("projection:")) continue;
    ++projections;
    EXPECT_EQ(a[i]->value.device(), kGpu);
    EXPECT_EQ(host_values(a[i]->value), host_values(b[i]->value));
  }
  EXPECT_EQ(projections, 3);
}

// What is not done in device memory says so before anything is there.
TEST_P(DeviceTrainingTest, WhatHostsAloneDoIsRefused) {
  const auto exit_of = [](const TrainerOptions& options) {
    const Status status = check_training_device(kGpu, options, 1);
    return status ? Exit::ok : status.error().exit;
  };
  TrainerOptions hidden = options(), noisy = options(LossKind::ce);
  hidden.intermediate.hidden = HiddenLossKind::mse;
  noisy.privacy = PrivateTraining{};
  hidden.intermediate.attention = true;
  EXPECT_EQ(exit_of(hidden), Exit::ok);
  EXPECT_EQ(exit_of(noisy), Exit::unsupported);
  EXPECT_EQ(exit_of(options()), Exit::ok);
  EXPECT_FALSE(check_training_device(kGpu, options(), 2).has_value());
  EXPECT_TRUE(check_training_device(Device::cpu(), noisy, 2).has_value());
  const auto mixture = TrainingModel::open(test::tiny_model(test::kTinyMixtral), kGpu, {});
  ASSERT_FALSE(mixture.has_value());
  EXPECT_EQ(mixture.error().exit, Exit::unsupported);
}

}  // namespace
}  // namespace pare
