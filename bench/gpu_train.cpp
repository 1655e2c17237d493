// bench/gpu_train.cpp: steps of training and of distillation on a GPU, and the fused head and KL, as a share
// of the bf16 products of cuBLAS.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>

#include "bench/cases.h"
#include "bench/gpu_models.h"
#include "bench/gpu_support.h"
#include "distill/trainer.h"
#include "distill/training_data.h"
#include "engine/backends/cuda/cuda_backend.h"
#include "engine/core/random.h"

namespace pare::bench {
namespace {

constexpr double kLossBound = 1e-2;  // of the loss of the first step, against float32 on the CPU
constexpr double kNormBound = 5e-2;  // the same of the norm of its gradients
constexpr int64_t kLongSteps = 1 << 20;

struct StepShape {
  std::string student, teacher;  // made models; teacher empty: cross entropy
  int64_t context, batch;
};

// A student, its teacher and data on one device.
class Stepper {
 public:
  Stepper(const StepShape& shape, int64_t batch, Device device) {
    const auto source = require(made_model(shape.student, "bf16"));
    TrainingForm form;
    if (!device.is_host()) form.compute = DType::bf16;  // the masters stay float
    student = require(TrainingModel::open(source, device, form));
    auto stream = std::make_shared<TokenStream>();
    const Random random(3, RandomPurpose::test_data);
    const auto vocabulary = uint64_t(student->config().vocabulary_size);
    for (int64_t i = 0; i < 4 * shape.batch * shape.context + 1; ++i)
      stream->ids.push_back(int32_t(random.below(vocabulary, uint64_t(i))));
    stream->token_hash = token_hash(stream->ids);
    data = std::make_unique<TrainingData>(
        require(TrainingData::create({{.tokens = stream, .name = "random"}},
                                     {.context = shape.context, .shuffle = false}, DataPart::all)));
    options.loss = LossConfig::defaults(shape.teacher.empty() ? LossKind::ce : LossKind::kl, true);
    options.schedule.shape = LearningRateShape::constant;
    options.schedule.peak = 1e-5;
    options.schedule.steps = kLongSteps;
    options.batch = options.micro_batch = batch;
    const ModelConfig* teacher_config = nullptr;
    if (!shape.teacher.empty()) {
      auto model = require(Model::open(require(made_model(shape.teacher, "bf16")), device));
      teacher_operations = operations(*model, {.sequences = batch, .tokens_per_sequence = shape.context});
      teacher_columns = model->config().vocabulary_size;
      teacher = live_teacher(std::move(model), /*one_block_at_a_time=*/false);
    }
    trainer = require(Trainer::make(*student, teacher.get(), teacher_config, *data, options, *group));
  }

  std::unique_ptr<GradientExchange> group = single_process();
  std::unique_ptr<TrainingModel> student;
  std::unique_ptr<Teacher> teacher;
  std::unique_ptr<TrainingData> data;
  TrainerOptions options;
  std::unique_ptr<Trainer> trainer;
  double teacher_operations = 0.0;
  int64_t teacher_columns = 0;
};

// The first step of one sequence on the GPU and on the CPU.
double step_error(const StepShape& shape) {
  const auto first = [&](Device device) {
    Stepper stepper(shape, 1, device);
    return require(stepper.trainer->step());
  };
  const StepReport ours = first(gpu_device()), exact = first(Device::cpu());
  if (!std::isfinite(ours.loss) || !std::isfinite(ours.gradient_norm)) return 2.0;
  return std::max(std::fabs(ours.loss - exact.loss) / (kLossBound * std::fabs(exact.loss)),
                  std::fabs(ours.gradient_norm - exact.gradient_norm) / (kNormBound * exact.gradient_norm));
}

Case step_case(const StepShape& shape) {
  (void)gpu();
  const double error = step_error(shape);
  const uint64_t before = cuda::memory_use(gpu()).held_bytes;
  auto s = std::make_shared<Stepper>(shape, shape.batch, gpu_device());
  (void)require(s->trainer->step());  // what grows has grown
  const auto model = require(Model::open(require(made_model(shape.student, "bf16")), Device::cpu()));
  const Batch batch{.sequences = shape.batch, .tokens_per_sequence = shape.context};
  const int64_t tokens = batch.tokens(), columns = model->config().vocabulary_size;
  Case c{.kernel = "Trainer, products in bf16"};
  c.bytes = 28.0 * double(s->student->parameter_count());  // AdamW alone: reads 16, writes 12
  c.operations = 3.0 * operations(*model, batch) + s->teacher_operations;
  c.tokens = double(tokens);
  c.params["context"] = shape.context;
  c.params["batch"] = shape.batch;
  c.params["parameters"] = s->student->parameter_count();
  c.params["held_bytes"] = cuda::memory_use(gpu()).held_bytes - before;
  c.params["logit_bytes"] = loss_chunk_rows(tokens, columns + s->teacher_columns, s->options.loss_bytes) *
                            (columns + s->teacher_columns) * 4;
  c.params["whole_logit_bytes"] = tokens * columns * (s->teacher ? 12 : 8);
  c.own_limit = gpu_limit(cuda::GpuProbe::gemm_bf16);
  c.verify = [error] { return error; };
  c.run = [s] {
    (void)require(s->trainer->step());
    require(gpu().finish());
  };
  return c;
}

}  // namespace

std::vector<NamedCase> gpu_train_cases() {
  std::vector<NamedCase> cases;
  const auto add = [&](const StepShape& shape, bool headline) {
    const std::string what = shape.teacher.empty()
                                 ? fmt::format("train/{}", shape.student)
                                 : fmt::format("distill/{}-{}", shape.teacher, shape.student);
    cases.push_back({fmt::format("{}/t{}/b{}", what, shape.context, shape.batch),
                     [shape] { return step_case(shape); }, headline});
  };
  for (const int64_t batch : {1, 8, 32}) add({"124M", "", 1024, batch}, batch <= 8);
  add({"124M", "355M", 1024, 8}, true);
  add({"355M", "", 1024, 8}, false);
  add({"1B", "", 1024, 4}, false);
  if (is_tiny()) {
    add({"tiny", "", 32, 2}, false);
    add({"tiny", "tinyteacher", 32, 2}, false);
  }
  return cases;
}

}  // namespace pare::bench
