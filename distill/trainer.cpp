#include "distill/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "distill/trainer_parts.h"
#include "engine/tensor/backend.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

Error bad_loss(int64_t step, const char* what, double got) {
  return Error{.exit = Exit::numeric,
               .rule = "NU11",
               .path = "training",
               .where = fmt::format("step {}", step),
               .what = what,
               .got = fmt::format("{}", got),
               .limit = {}};
}

Error contradiction(const char* where, const char* what, int64_t got, std::string limit) {
  return Error{.exit = Exit::usage,
               .rule = "CL13",
               .path = "training",
               .where = where,
               .what = what,
               .got = fmt::format("{}", got),
               .limit = std::move(limit)};
}

Batch largest_batch(int64_t context, const TrainerOptions& options, int ranks) {
  // Private gradients are made for one sequence at a time.
  const int64_t share = std::max<int64_t>(1, options.batch / ranks);
  return {.sequences = options.privacy ? 1 : std::min(options.micro_batch, share),
          .tokens_per_sequence = context};
}

// Student and teacher (may be null) over a micro-batch.
Status run_models(TrainingModel& student, Teacher* teacher, const TrainingData& data,
                  const TrainingBatch& batch) {
  const Batch shape{.sequences = batch.sequences, .tokens_per_sequence = data.context()};
  PARE_CHECK(student.forward(batch.ids, shape));
  if (teacher == nullptr) return {};
  std::vector<int64_t> windows;
  for (const WindowId& id : batch.windows) windows.push_back(data.index_of(id));
  return teacher->start({.ids = batch.ids, .batch = shape, .windows = windows});
}

}  // namespace

Trainer::Trainer() = default;
Trainer::~Trainer() = default;

uint64_t Trainer::planned_bytes(const TrainingModel& student, int64_t teacher_columns, int64_t context,
                                const TrainerOptions& options, int ranks) {
  const Batch largest = largest_batch(context, options, ranks);
  const HeadParts head = head_of(student);
  const int64_t rows =
      loss_chunk_rows(largest.tokens(), head.head.out() + teacher_columns, options.loss_bytes);
  uint64_t bytes = student.activation_bytes(largest, options.keeps_blocks) +
                   head_loss_bytes(head, rows, largest.tokens()) +
                   Optimizer::planned_bytes(student.parameters(), options.optimizer, ranks) +
                   uint64_t(largest.tokens()) * uint64_t(student.config().hidden_size) * sizeof(float);
  if (options.privacy) bytes += uint64_t(student.parameter_count()) * sizeof(float);
  return bytes;
}

Result<std::unique_ptr<Trainer>> Trainer::make(TrainingModel& student, Teacher* teacher,
                                               const ModelConfig* teacher_config, TrainingData& data,
                                               const TrainerOptions& options, GradientExchange& exchange) {
  PARE_CHECK(options.validate());
  PARE_CHECK(check_training_device(student.device(), options, exchange.size()));
  if (options.batch % exchange.size() != 0)
    return contradiction("batch", "not a multiple of the processes", options.batch,
                         fmt::format("{}", exchange.size()));
  PARE_ASSERT(teacher != nullptr || !options.loss.needs_teacher(), "[trainer] {} without a teacher",
              loss_kind_name(options.loss.kind));
  if (options.privacy && data.samples_per_pass() != data.windows())
    return contradiction("privacy", "streams with weights of their own are not sampled evenly",
                         data.samples_per_pass(), fmt::format("{}", data.windows()));
  std::unique_ptr<Trainer> trainer(new Trainer);
  trainer->state_ = std::make_unique<State>(student, data, options, exchange);
  State& state = *trainer->state_;
  ParameterList parameters = student.parameters();
  TeacherNeeds needs;
  if (options.intermediate.enabled()) {
    PARE_ASSERT(teacher != nullptr && teacher_config != nullptr,
                "[trainer] intermediate losses without a teacher");
    PARE_TRY(state.intermediate,
             IntermediateLoss::make(options.intermediate, student, *teacher_config, options.seed));
    needs = state.intermediate->needs();
    for (const auto& projection : state.intermediate->parameters()) parameters.push_back(projection);
  }
  // A teacher that nothing asks is not run.
  state.teacher = options.loss.needs_teacher() || state.intermediate ? teacher : nullptr;
  if (state.teacher != nullptr) PARE_CHECK(state.teacher->check(options.loss, needs));
  PARE_TRY(state.optimizer, Optimizer::make(std::move(parameters), options.optimizer, exchange));
  if (options.privacy) {
    PARE_TRY(state.private_sum, PrivateSum::make(student.parameters()));
  }

  const Batch largest = largest_batch(data.context(), options, exchange.size());
  const HeadParts head = head_of(student);
  const int64_t columns = head.head.out() + (state.teacher != nullptr ? state.teacher->logit_columns() : 0);
  state.micro_sequences = largest.sequences;
  state.chunk_rows = loss_chunk_rows(largest.tokens(), columns, options.loss_bytes);
  student.set_head_bytes(head_loss_bytes(head, state.chunk_rows, largest.tokens()));
  PARE_CHECK(student.reserve(largest, options.keeps_blocks));
  if (state.teacher != nullptr) PARE_CHECK(state.teacher->reserve(largest, state.chunk_rows, needs));
  if (state.intermediate) PARE_CHECK(state.intermediate->reserve(largest));
  PARE_TRY(state.dhidden,
           Tensor::allocate(DType::f32, {largest.tokens(), student.config().hidden_size}, student.device()));
  return trainer;
}

Result<LossSums> Trainer::State::add_gradients(const TrainingBatch& batch, double gradient_scale) {
  PARE_CHECK(run_models(student, teacher, data, batch));
  Tensor gradient = dhidden.rows(0, batch.tokens);
  PARE_TRY(const LossSums sums,
           run_head_loss(head_of(student),
                         {.config = options.loss,
                          .teacher = teacher,
                          .chunk_rows = chunk_rows,
                          .gradient_scale = float(gradient_scale)},
                         student.output(), batch.targets, gradient, student.workspace()));
  if (!std::isfinite(sums.total(options.loss))) return sums;  // the step will be refused
  BackwardHooks hooks;
  if (intermediate) {
    const Batch shape{.sequences = batch.sequences, .tokens_per_sequence = data.context()};
    PARE_TRY(hooks, intermediate->hooks(student, *teacher, shape, batch.targets, gradient_scale));
  }
  PARE_CHECK(student.backward(gradient, hooks));
  return sums;
}

// The first step's data once more, without gradients.
Status Trainer::State::measure_intermediate() {
  const std::vector<SampleRange> ranges = own_ranges(batches * options.batch);
  Tensor none;
  for (const SampleRange& range : ranges) {
    PARE_TRY(const TrainingBatch batch, data.batch(range.first, range.count));
    PARE_CHECK(run_models(student, teacher, data, batch));
    PARE_TRY(const LossSums sums,
             run_head_loss(head_of(student),
                           {.config = options.loss, .teacher = teacher, .chunk_rows = chunk_rows},
                           student.output(), batch.targets, none, student.workspace()));
    const Batch shape{.sequences = batch.sequences, .tokens_per_sequence = data.context()};
    PARE_CHECK(intermediate->measure(student, *teacher, shape, batch.targets, sums.total(options.loss)));
  }
  return intermediate->finish_measuring(exchange);
}

// This rank's share of the step that begins at sample `first`, cut into micro-batches.
std::vector<SampleRange> Trainer::State::own_ranges(int64_t first) const {
  const int64_t share = options.batch / exchange.size();
  const int64_t begin = first + share * exchange.rank();
  std::vector<SampleRange> ranges;
  for (int64_t at = 0; at < share; at += micro_sequences)
    ranges.push_back({.first = begin + at, .count = std::min(micro_sequences, share - at)});
  return ranges;
}

void Trainer::State::start_reading() {
  const int64_t share = options.batch / exchange.size();
  if (reader || share % micro_sequences != 0) return;
  const BatchPlan plan{.sequences = micro_sequences,
                       .accumulation = share / micro_sequences,
                       .rank = exchange.rank(),
                       .ranks = exchange.size()};
  // The data outlives the trainer. How many steps there will be is not known: some may be left out.
  const std::shared_ptr<const TrainingData> borrowed(std::shared_ptr<const TrainingData>(), &data);
  constexpr int64_t kEnd = int64_t(1) << 40;
  reader.emplace(borrowed, plan, batches, kEnd);
}

Result<StepSums> Trainer::State::plain_gradients() {
  const int64_t first = batches * options.batch;
  StepSums sums{.tokens = data.counted_targets(first, options.batch),
                .input_tokens = options.batch * data.context()};
  const double gradient_scale = scale.scale / double(std::max<int64_t>(1, sums.tokens));
  student.clear_gradients();
  if (intermediate) {
    for (const auto& projection : intermediate->parameters()) clear(projection->gradient);
  }
  start_reading();
  for (const SampleRange& range : own_ranges(first)) {
    PARE_TRY(const TrainingBatch batch, reader ? reader->next() : data.batch(range.first, range.count));
    PARE_TRY(const LossSums loss, add_gradients(batch, gradient_scale));
    sums.loss.add(loss);
  }
  student.finish_gradients();
  if (exchange.size() > 1) {
    for (const auto& parameter : optimizer->parameters())
      PARE_CHECK(exchange.sum(floats_of(parameter->gradient)));
  }
  return sums;
}

Result<StepSums> Trainer::State::private_gradients() {
  const PrivateTraining& privacy = *options.privacy;
  const int64_t windows = data.windows();
  const std::vector<int64_t> chosen = sample_windows(privacy.secret_key, batches, windows,
                                                     std::min(1.0, double(options.batch) / double(windows)));
  const auto count = int64_t(chosen.size());
  const int64_t begin = count * exchange.rank() / exchange.size(),
                end = count * (exchange.rank() + 1) / exchange.size();
  StepSums sums{.input_tokens = count * data.context()};
  for (const int64_t sample : chosen) sums.tokens += data.counted_targets(sample, 1);
  private_sum->clear();
  for (int64_t i = begin; i < end; ++i) {
    PARE_TRY(const TrainingBatch batch, data.batch(chosen[size_t(i)], 1));
    student.clear_gradients();
    PARE_TRY(const LossSums loss,
             add_gradients(batch, 1.0 / double(std::max<int64_t>(1, batch.counted_targets))));
    student.finish_gradients();
    sums.loss.add(loss);
    PARE_TRY(const double norm, optimizer->gradient_norm(1.0));
    private_sum->add(clip_factor(norm, privacy.clip));
  }
  if (exchange.size() > 1) {
    for (const Tensor& sum : private_sum->sums()) PARE_CHECK(exchange.sum(floats_of(sum)));
  }
  private_sum->finish(privacy.secret_key, batches, privacy.noise * privacy.clip, 1.0 / double(options.batch));
  return sums;
}

// Whether a step with such a loss or gradient may be left out; else the error that ends the run.
Status Trainer::State::leave_out(const char* what, double got) {
  if (bad_steps >= options.skip_bad_steps) return bad_loss(optimizer->steps(), what, got);
  ++bad_steps;
  return {};
}

Result<StepReport> Trainer::step() {
  State& state = *state_;
  if (state.options.update_masks) {
    PARE_TRY(const bool changed,
             state.options.update_masks(state.optimizer->steps(), state.student.parameters()));
    if (changed) {
      PARE_CHECK(state.optimizer->apply_masks());
      PARE_CHECK(state.student.refresh());
    }
  }
  if (state.intermediate && !state.intermediate->is_measured()) PARE_CHECK(state.measure_intermediate());

  StepReport report{.step = state.optimizer->steps(),
                    .lr = state.options.schedule.at(state.optimizer->steps()),
                    .loss_scale = state.scale.scale};
  PARE_TRY(StepSums sums, state.options.privacy ? state.private_gradients() : state.plain_gradients());
  double values[] = {sums.loss.cross_entropy, sums.loss.divergence};
  PARE_CHECK(state.exchange.sum(std::span<double>(values)));
  sums.loss.cross_entropy = values[0];
  sums.loss.divergence = values[1];
  ++state.batches;

  const double tokens = double(std::max<int64_t>(1, sums.tokens));
  const double logit_loss = sums.loss.total(state.options.loss);
  report.tokens = sums.tokens;
  report.input_tokens = sums.input_tokens;
  report.cross_entropy = sums.loss.cross_entropy / tokens;
  report.divergence = sums.loss.divergence / tokens;
  if (state.intermediate) {
    PARE_TRY(report.intermediate, state.intermediate->finish_step(state.exchange, logit_loss, sums.tokens));
  }
  report.loss = logit_loss / tokens + report.intermediate;
  if (!std::isfinite(report.loss)) {
    PARE_CHECK(state.leave_out("the loss is not a number", report.loss));
    report.skipped = true;
    return report;
  }
  PARE_TRY(report.gradient_norm, state.optimizer->gradient_norm(1.0 / state.scale.scale));
  if (!std::isfinite(report.gradient_norm)) {
    PARE_CHECK(backend_for(state.student.device()).finish());  // a GPU that broke off is another error
    if (state.scale.is_dynamic) {
      PARE_CHECK(state.scale.overflowed(report.step));
    } else {
      PARE_CHECK(state.leave_out("a gradient is not a number", report.gradient_norm));
    }
    report.skipped = true;
    return report;
  }
  const double clip = clip_factor(report.gradient_norm, state.options.optimizer.clip_norm);
  PARE_CHECK(state.optimizer->step(report.lr, clip / state.scale.scale));
  PARE_CHECK(state.student.refresh());
  state.scale.succeeded();
  return report;
}

int64_t Trainer::step_number() const {
  return state_->optimizer->steps();
}
int64_t Trainer::batches_drawn() const {
  return state_->batches;
}
int64_t Trainer::bad_steps() const {
  return state_->bad_steps;
}
const Optimizer& Trainer::optimizer() const {
  return *state_->optimizer;
}

Result<Trainer::Validation> Trainer::validate(const TrainingData& data, int64_t begin, int64_t end,
                                              bool asks_teacher) {
  State& state = *state_;
  PARE_ASSERT(data.context() <= state.data.context(), "[trainer] windows of {} and {}", data.context(),
              state.data.context());
  Teacher* teacher = asks_teacher && state.options.loss.needs_teacher() ? state.teacher : nullptr;
  const LossConfig config =
      teacher != nullptr ? state.options.loss : LossConfig::defaults(LossKind::ce, true);
  LossSums sums;
  Tensor none;
  for (int64_t first = begin; first < end; first += state.micro_sequences) {
    PARE_TRY(const TrainingBatch batch, data.batch(first, std::min(state.micro_sequences, end - first)));
    PARE_CHECK(run_models(state.student, teacher, data, batch));
    PARE_TRY(const LossSums part,
             run_head_loss(head_of(state.student),
                           {.config = config, .teacher = teacher, .chunk_rows = state.chunk_rows},
                           state.student.output(), batch.targets, none, state.student.workspace()));
    sums.add(part);
  }
  const double tokens = double(std::max<int64_t>(1, sums.tokens));
  return Validation{.loss = sums.total(config) / tokens,
                    .cross_entropy = sums.cross_entropy / tokens,
                    .divergence = sums.divergence / tokens,
                    .tokens = sums.tokens};
}

}  // namespace pare
