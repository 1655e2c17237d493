#include "calibrate/loss_gradients.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "engine/core/assert.h"
#include "engine/core/memory.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"
#include "engine/models/block.h"
#include "engine/models/training_model.h"
#include "engine/tensor/training_ops.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

constexpr const char* kKind = "loss gradients";
constexpr int64_t kLogitBytes = int64_t{64} << 20;  // of a chunk

// By shapes alone, so that results do not depend on memory.
int64_t chunk_rows(int64_t context, int64_t columns) {
  return std::min(context, std::max<int64_t>(32, kLogitBytes / (columns * int64_t(sizeof(float)))));
}

size_t head_bytes(int64_t rows, int64_t hidden, const Weight& head) {
  return 2 * Workspace::bytes_for(DType::f32, {rows, hidden}) +
         Workspace::bytes_for(DType::f32, {rows, head.out()}) +
         std::max({head.workspace_bytes(rows), head.backward_workspace_bytes(rows),
                   Norm::backward_workspace_bytes(rows)});
}

Error too_large(Device device, uint64_t limit, uint64_t need) {
  const bool on_host = device.is_host();
  return Error{.exit = Exit::resource,
               .rule = "CL05",
               .path = on_host ? "memory" : "memory of " + device.name(),
               .where = "gradients of the loss",
               .what = fmt::format("not enough for this job; lower --context, or raise {}",
                                   on_host ? "--max-memory" : "--max-vram"),
               .got = format_bytes(limit),
               .limit = format_bytes(need),
               .limit_label = "need"};
}

// One window after the other through a model in training.
class Runner {
 public:
  static Result<Runner> open(const BlockJob& job, const GradientSums& sums) {
    Runner runner;
    TrainingForm form;
    const ModelDescription& model = job.model;
    form.trains = [&model, &sums](const std::string& name) {
      const TensorSpec* spec = model.find(name);
      return spec != nullptr && sums.wants(*spec);
    };
    const bool on_host = job.device.is_host();
    const uint64_t limit = on_host ? job.memory_limit : job.device_limit;
    const uint64_t before = on_host ? resident_bytes() : 0;
    PARE_TRY(runner.model_, TrainingModel::open(job.source, job.device, form));
    TrainingModel& training = *runner.model_;
    runner.context_ = job.windows.context;
    runner.rows_ = chunk_rows(runner.context_, training.head().out());
    const int64_t hidden = training.config().hidden_size;
    training.set_head_bytes(head_bytes(runner.rows_, hidden, training.head()));
    const Batch batch{.sequences = 1, .tokens_per_sequence = runner.context_};
    // Gradients and sums may not have been touched yet, so that resident bytes would not show them.
    const uint64_t held = before + training.weight_bytes() + (on_host ? sums.size_bytes() : 0);
    const uint64_t least = held + training.activation_bytes(batch, false);
    if (limit > 0 && least > limit) return too_large(job.device, limit, least);
    const bool keeps = held + training.activation_bytes(batch, true) <= limit;
    PARE_CHECK(training.reserve(batch, keeps));
    PARE_TRY(runner.targets_, Tensor::allocate(DType::i32, {runner.context_}, job.device));
    PARE_TRY(runner.dhidden_, Tensor::allocate(DType::f32, {runner.context_, hidden}, job.device));
    PARE_TRY(runner.cross_entropy_, Tensor::allocate(DType::f64, {runner.rows_}, job.device));
    PARE_TRY(runner.divergence_, Tensor::allocate(DType::f64, {runner.rows_}, job.device));
    if (!on_host) PARE_CHECK(runner.make_host_copies());
    return runner;
  }

  // The loss of the window; its gradients are those of the parameters afterwards.
  Result<double> run(std::span<const int32_t> ids) {
    std::vector<int32_t> targets(ids.begin() + 1, ids.end());
    targets.push_back(-1);
    PARE_CHECK(copy_into(Tensor::wrap(targets.data(), DType::i32, {context_}), targets_));
    const Tensor tokens = Tensor::wrap(const_cast<int32_t*>(ids.data()), DType::i32, {context_});
    model_->clear_gradients();
    PARE_CHECK(model_->forward(tokens, {.sequences = 1, .tokens_per_sequence = context_}));
    PARE_TRY(const double loss, head_and_loss());
    if (!std::isfinite(loss)) return loss;
    PARE_CHECK(model_->backward(dhidden_));
    model_->finish_gradients();
    for (size_t i = 0; i < on_host_.size(); ++i)
      PARE_CHECK(copy_into(model_->parameters()[i]->gradient, on_host_[i]->gradient));
    return loss;
  }

  // Where the host sees them.
  const ParameterList& parameters() const { return on_host_.empty() ? model_->parameters() : on_host_; }

 private:
  Status make_host_copies() {
    for (const auto& parameter : model_->parameters()) {
      PARE_TRY(Tensor value, moved(parameter->value, Device::cpu()));
      PARE_TRY(auto copy, Parameter::make(parameter->name, parameter->kind, std::move(value)));
      on_host_.push_back(std::move(copy));
    }
    return {};
  }

  Result<double> head_and_loss() {
    const ModelConfig& config = model_->config();
    const Norm& norm = model_->final_norm();
    const Weight& head = model_->head();
    const Tensor& hidden = model_->output();
    const auto scored = double(context_ - 1);
    double sum = 0.0;
    for (int64_t begin = 0; begin < context_; begin += rows_) {
      const int64_t end = std::min(context_, begin + rows_);
      const Workspace::Scope scope(model_->workspace());
      Tensor normed = model_->workspace().take(DType::f32, {end - begin, config.hidden_size});
      Tensor dnormed = model_->workspace().take(DType::f32, {end - begin, config.hidden_size});
      Tensor logits = model_->workspace().take(DType::f32, {end - begin, head.out()});
      Tensor cross_entropy = cross_entropy_.rows(0, end - begin),
             divergence = divergence_.rows(0, end - begin);
      norm.forward(hidden.rows(begin, end), normed);
      head.multiply(normed, /*accumulate=*/false, logits, model_->workspace());
      ops::loss_rows(logits, Tensor(), Tensor(), Tensor(), targets_.rows(begin, end),
                     {.real_columns = config.vocabulary_size,
                      .softcap = float(config.logit_softcap),
                      .gradient_scale = float(1.0 / scored)},
                     cross_entropy, divergence);
      PARE_TRY(const Tensor losses, moved(cross_entropy, Device::cpu()));
      for (int64_t i = 0; i < end - begin; ++i) sum += losses.data<double>()[i];
      head.backward(normed, logits, /*accumulate=*/false, &dnormed, model_->workspace());
      Tensor dhidden = dhidden_.rows(begin, end);
      norm.backward(hidden.rows(begin, end), dnormed, /*accumulate=*/false, dhidden, model_->workspace());
    }
    return sum / scored;
  }

  std::unique_ptr<TrainingModel> model_;
  int64_t context_ = 0, rows_ = 0;
  Tensor targets_, dhidden_, cross_entropy_, divergence_;
  ParameterList on_host_;  // of a model on a GPU: values, and the gradients of the last window
};

// How far a job has come: {kind, windows, loss: sum of L_n, finished}.
struct Progress {
  int64_t windows = 0;
  double loss = 0.0;
  bool is_finished = false;
  std::optional<Hash128> object;
};

Error damaged(const JobFolder& folder) {
  return Error{.exit = Exit::malformed,
               .rule = {},
               .path = folder.path(),
               .where = "position.measured",
               .what = "not the gradients of this job; --restart begins anew",
               .got = {},
               .limit = {}};
}

Result<Progress> read_progress(const JobFolder& folder) {
  PARE_TRY(const JobMeasurement measured, job_measurement(folder));
  Progress progress;
  if (measured.note.is_null()) return progress;
  const Json* kind = measured.note.find("kind");
  const Json* windows = measured.note.find("windows");
  const Json* loss = measured.note.find("loss");
  const Json* finished = measured.note.find("finished");
  if (kind == nullptr || !kind->is_string() || kind->as_string() != kKind || windows == nullptr ||
      windows->kind() != Json::Kind::integer || windows->as_int() < 0 || loss == nullptr ||
      !loss->is_number() || finished == nullptr || !finished->is_bool() || measured.objects.size() != 1)
    return damaged(folder);
  progress.windows = windows->as_int();
  progress.loss = loss->as_double();
  progress.is_finished = finished->as_bool();
  progress.object = measured.objects.front();
  return progress;
}

Status save(GradientSums& sums, const Progress& progress, JobFolder& folder) {
  std::vector<std::span<const std::byte>> parts;
  for (const std::span<std::byte> part : sums.state()) parts.push_back(part);
  PARE_TRY(const Hash128 object, folder.put(parts));
  Json note = Json::object();
  note["kind"] = kKind;
  note["windows"] = Json(progress.windows);
  note["loss"] = progress.loss;
  note["finished"] = progress.is_finished;
  return commit_measurement(folder, {.note = std::move(note), .objects = {object}});
}

Status restore(GradientSums& sums, const Progress& progress, const JobFolder& folder) {
  PARE_TRY(const auto file, folder.get(*progress.object));
  size_t offset = 0;
  for (const std::span<std::byte> part : sums.state()) {
    if (file->bytes().size() - offset < part.size()) return damaged(folder);
    std::memcpy(part.data(), file->bytes().data() + offset, part.size());
    offset += part.size();
  }
  if (offset != file->bytes().size()) return damaged(folder);
  file->drop(0, file->bytes().size());
  return {};
}

Result<LossGradients> finished_values(const Progress& progress, uint64_t bytes, const JobFolder& folder) {
  LossGradients result{.windows = progress.windows,
                       .loss = progress.loss / double(std::max<int64_t>(1, progress.windows)),
                       .values = {}};
  PARE_TRY(result.values, folder.get(*progress.object));
  if (result.values->bytes().size() != bytes) return damaged(folder);
  return result;
}

Error not_finite(const BlockJob& job, int64_t window) {
  return Error{.exit = Exit::numeric,
               .rule = "NU16",
               .path = job.source->path(),
               .where = fmt::format("window {}", window),
               .what = "the loss is not finite",
               .got = {},
               .limit = {}};
}

uint64_t state_bytes(GradientSums& sums) {
  uint64_t bytes = 0;
  for (const std::span<std::byte> part : sums.state()) bytes += part.size();
  return bytes;
}

// The windows that are left. The model in training is gone when this returns.
Status run_windows(const BlockJob& job, const LossGradientOptions& options, GradientSums& sums,
                   Progress& progress, JobFolder& folder) {
  using Clock = std::chrono::steady_clock;
  PARE_TRY(Runner runner, Runner::open(job, sums));
  Clock::time_point saved = Clock::now();
  while (progress.windows < job.windows.samples) {
    const int64_t window = progress.windows;
    PARE_TRY(const double loss, runner.run({job.windows.ids.data() + window * job.windows.context,
                                            size_t(job.windows.context)}));
    if (!std::isfinite(loss)) return not_finite(job, window);
    sums.add(runner.parameters());
    progress.loss += loss;
    ++progress.windows;
    sample_private_bytes();
    options.window_done(progress.windows);
    const bool is_last = progress.windows == job.windows.samples, stops = interrupted();
    const bool is_due = std::chrono::duration<double>(Clock::now() - saved).count() >= options.commit_seconds;
    if (!is_last && (stops || is_due)) {
      PARE_CHECK(save(sums, progress, folder));
      saved = Clock::now();
      if (stops) return folder.interrupted_error();
    }
    if (!is_last) PARE_CHECK(job.advance(job.windows.context));
  }
  return {};
}

}  // namespace

Result<uint64_t> loss_gradient_bytes(const std::shared_ptr<const WeightSource>& source,
                                     const ModelDescription& model, int64_t context,
                                     const GradientSums& sums) {
  const ModelConfig& config = model.config;
  uint64_t bytes = sums.size_bytes();
  const Weight* head = nullptr;
  Weight planned;
  for (const TensorSpec& spec : model.tensors) {
    const StoredTensor* stored = source->find(spec.name);
    if (stored == nullptr) continue;
    const auto values = uint64_t(spec.shape.numel());
    if (sums.wants(spec)) {
      bytes += 2 * values * sizeof(float);
    } else {
      bytes += spec.shape.rank() == 1 ? values * sizeof(float) : std::max(stored->bytes, values * 2);
    }
    if (spec.role == (config.tied_head ? Role::embedding : Role::lm_head)) {
      planned = Weight::planned(*stored, spec.out(), spec.in(), Device::cpu());
      head = &planned;
    }
  }
  PARE_ASSERT(head != nullptr, "[gradients] {} has no head", source->path());
  const int64_t rows = chunk_rows(context, head->out());
  const Batch batch{.sequences = 1, .tokens_per_sequence = context};
  size_t activations = 0, scratch = 0;
  for (int i = 0; i < int(config.block_count()); ++i) {
    const auto block = Block::plan(*source, model, i, Device::cpu());
    activations = std::max(activations, block->activation_bytes(batch));
    scratch = std::max(scratch, block->training_workspace_bytes(batch));
  }
  const size_t stream = Workspace::bytes_for(DType::f32, {context, config.hidden_size});
  bytes += activations + (size_t(config.block_count()) + 3) * stream;
  return bytes + std::max(head_bytes(rows, config.hidden_size, *head), scratch + stream);
}

Result<LossGradients> measure_loss_gradients(const BlockJob& job, const LossGradientOptions& options,
                                             GradientSums& sums, JobFolder& folder) {
  PARE_ASSERT(job.windows.samples > 0 && job.windows.context > 1, "[gradients] {} windows of {} tokens",
              job.windows.samples, job.windows.context);
  PARE_TRY(Progress progress, read_progress(folder));
  if (progress.windows > job.windows.samples) return damaged(folder);
  if (progress.is_finished) return finished_values(progress, sums.size_bytes(), folder);
  PARE_TRY(const uint64_t need, loss_gradient_bytes(job.source, job.model, job.windows.context, sums));
  if (job.memory_limit > 0 && resident_bytes() + need > job.memory_limit)
    return too_large(Device::cpu(), job.memory_limit, resident_bytes() + need);
  PARE_CHECK(sums.start());
  PARE_ASSERT(state_bytes(sums) == sums.size_bytes(), "[gradients] sums of {} bytes say {}",
              state_bytes(sums), sums.size_bytes());
  if (progress.object) PARE_CHECK(restore(sums, progress, folder));
  PARE_CHECK(run_windows(job, options, sums, progress, folder));
  PARE_CHECK(sums.finish(progress.windows));
  progress.is_finished = true;
  PARE_CHECK(save(sums, progress, folder));
  if (interrupted()) return folder.interrupted_error();
  return measured_gradients(folder, sums.size_bytes());
}

Result<LossGradients> measured_gradients(const JobFolder& folder, uint64_t bytes) {
  PARE_TRY(const Progress progress, read_progress(folder));
  if (!progress.is_finished) return damaged(folder);
  return finished_values(progress, bytes, folder);
}

}  // namespace pare
