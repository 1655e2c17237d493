// bench/train.cpp: one step of training (forward, cross entropy, backward, clipping, AdamW) in float32
// through Trainer, beside PyTorch's on the same tokens.
#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "bench/cases.h"
#include "bench/model_case.h"
#include "bench/torch_peer.h"
#include "distill/trainer.h"
#include "distill/training_data.h"

namespace pare::bench {
namespace {

constexpr double kLossBound = 1e-4;  // of the mean loss of the first step, against PyTorch
constexpr double kRate = 1e-5;
constexpr int64_t kLongSteps = 1 << 20;

struct Shape {
  int64_t batch, context;
  bool keeps_blocks;
};

struct Training {
  std::unique_ptr<GradientExchange> group = single_process();
  std::unique_ptr<TrainingModel> student;
  std::unique_ptr<TrainingData> data;
  std::unique_ptr<Trainer> trainer;
  std::unique_ptr<TorchPeer> torch;
  std::vector<int32_t> ids;
  int64_t batch = 0, context = 0;
  size_t peer_turn = 0;
  std::optional<double> verified;

  // The ids of a step, with the target of the last.
  std::span<const int32_t> step_ids(size_t number) const {
    const size_t step = size_t(batch * context), steps = (ids.size() - 1) / step;
    return std::span(ids).subspan(number % steps * step, step + 1);
  }
  double run() { return require(trainer->step()).loss; }
  // The first step of both, before anything was timed: afterwards they have taken different numbers of steps.
  double error() {
    if (verified) return *verified;
    const double loss = run();
    verified = std::isfinite(loss) ? 0.0 : 2.0;
    if (torch != nullptr)
      verified = std::fabs(loss - torch->evaluate(step_ids(peer_turn++), context, 1).loss) / kLossBound;
    return *verified;
  }
};

Case train_case(const ModelInputs& inputs, Shape shape) {
  auto t = std::make_shared<Training>();
  const auto source = open_source(inputs.model);
  t->student = require(TrainingModel::open(source, Device::cpu(), {}));
  t->batch = shape.batch;
  t->context = std::min(shape.context, t->student->config().max_positions);
  t->ids = token_ids(*source, inputs.text);
  const int64_t step = t->batch * t->context;
  if (int64_t(t->ids.size()) <= step)
    give_up({.exit = Exit::malformed,
             .path = inputs.text,
             .what = "too short",
             .got = fmt::format("{} tokens", t->ids.size()),
             .limit = fmt::format("{}", step + 1),
             .limit_label = "at least"});
  // Whole steps, and one token more: the target of the last.
  t->ids.resize(size_t((int64_t(t->ids.size()) - 1) / step * step + 1));
  auto stream = std::make_shared<TokenStream>();
  stream->ids = t->ids;
  stream->token_hash = token_hash(stream->ids);
  t->data = std::make_unique<TrainingData>(require(TrainingData::create(
      {{.tokens = stream, .name = inputs.text}}, {.context = t->context, .shuffle = false}, DataPart::all)));
  TrainerOptions options;
  options.loss = LossConfig::defaults(LossKind::ce, false);
  options.schedule.shape = LearningRateShape::constant;
  options.schedule.peak = kRate;
  options.schedule.steps = kLongSteps;
  options.batch = options.micro_batch = t->batch;
  options.keeps_blocks = shape.keeps_blocks;
  t->trainer = require(Trainer::make(*t->student, nullptr, nullptr, *t->data, options, *t->group));
  if (!inputs.python.empty() && !inputs.train_peer_script.empty())
    t->torch = TorchPeer::start(inputs.python, inputs.train_peer_script, inputs.model);

  const auto model = load_model(source, Device::cpu());
  const Batch batch{.sequences = t->batch, .tokens_per_sequence = t->context};
  Case c{.kernel = fmt::format("Trainer f32, blocks {}", shape.keeps_blocks ? "kept" : "run again"),
         .bytes = 28.0 * double(t->student->parameter_count())};  // AdamW alone: reads 16, writes 12
  // Forward, and twice as much backward. What recomputation adds is not work of the step.
  c.operations = 3.0 * operations(*model, batch);
  c.tokens = double(step);
  c.limit = Probe::cpu_fma_f32;
  c.params["model"] = base_name(inputs.model);
  c.params["context"] = t->context;
  c.params["batch"] = t->batch;
  c.verify = [t] { return t->error(); };
  c.run = [t] { (void)t->run(); };
  if (t->torch != nullptr) {
    c.peer.name = t->torch->name();
    c.peer.version = t->torch->version();
    c.peer.timed = [t](int threads) {
      const TorchPeer::Answer answer = t->torch->evaluate(t->step_ids(t->peer_turn++), t->context, threads);
      return threads == 1 ? answer.processor_seconds : answer.seconds;
    };
  }
  return c;
}

}  // namespace

std::vector<NamedCase> train_cases(const ModelInputs& inputs) {
  std::vector<NamedCase> cases;
  const auto add = [&](const char* name, Shape shape, bool headline) {
    cases.push_back({fmt::format("train/step/{}/{}", base_name(inputs.model), name),
                     [inputs, shape] { return train_case(inputs, shape); }, headline});
  };
  add("b8xt256", {8, 256, true}, false);
  add("b1xt512", {1, 512, true}, true);
  add("b1xt512/recompute", {1, 512, false}, false);
  return cases;
}

}  // namespace pare::bench
