#include "cli/distill_run.h"

#include <sys/random.h>

#include <utility>

#include "cli/distill_output.h"
#include "cli/distill_ranges.h"
#include "cli/distill_teacher.h"
#include "distill/qat.h"
#include "engine/core/log.h"
#include "engine/core/memory.h"

namespace pare::cli {
namespace {

// Noise that nobody can foretell. Kept in the job's folder alone, so that a resumed run goes on with it.
Result<uint64_t> secret_key() {
  uint64_t key = 0;
  if (::getrandom(&key, sizeof key, 0) == ssize_t(sizeof key)) return key;
  return Error{
      .exit = Exit::io, .path = "/dev/urandom", .what = "no random bytes for the noise of private training"};
}

// One student with its trainer, and the teacher beside it.
struct Session {
  std::unique_ptr<Teacher> teacher;
  std::unique_ptr<TrainingModel> student;
  std::unique_ptr<Trainer> trainer;
  MemoryPlan memory;
};

Status check_fits(const DistillRun& run, uint64_t held) {
  const uint64_t need = held + training_weight_bytes(run.arguments, run.models.student_model) +
                        expected_teacher_bytes(run.arguments, run.models);
  if (need <= run.limit_bytes) return {};
  std::string remedy = run.arguments.lora > 0 ? "" : "train with --lora, ";
  if (expected_teacher_bytes(run.arguments, run.models) > 0)
    remedy += "use --cache-teacher or --teacher-blocks one-by-one, ";
  return too_much_memory(run.device, run.limit_bytes, need, remedy + "or");
}

Result<Session> open_session(const DistillRun& run, const TrainingPosition& position, int64_t steps) {
  Session session;
  PARE_CHECK(check_fits(run, held_bytes(run.device)));
  std::map<std::string, ActivationQuant> grids;
  if (run.arguments.qat_activations == "static") {
    PARE_TRY(grids, static_input_grids(run));
  }
  PARE_TRY(session.student,
           TrainingModel::open(run.models.student, run.device,
                               training_form(run.arguments, run.settings, std::move(grids))));
  PARE_TRY(session.memory, plan_run(run, *session.student, position.micro_batch));
  TrainerOptions options = run.settings.trainer;
  options.micro_batch = session.memory.micro_batch;
  options.keeps_blocks = session.memory.keeps_blocks;
  PARE_TRY(options.schedule, schedule_of(run.arguments, run.settings, steps));
  if (options.privacy) options.privacy->secret_key = position.privacy_key;
  if (run.settings.sparsity) {
    options.update_masks = [schedule = run.settings.sparsity->at_length(steps),
                            &model = run.models.student_model](int64_t step,
                                                               const ParameterList& parameters) {
      return cut_weights(schedule, step, model, parameters);
    };
  }
  PARE_TRY(session.teacher,
           open_teacher(run.arguments, run.models, run.data, run.settings.trainer.loss, run.device));
  const ModelConfig* teacher_config =
      run.models.teacher != nullptr ? &run.models.teacher_model.config : nullptr;
  PARE_TRY(session.trainer, Trainer::make(*session.student, session.teacher.get(), teacher_config,
                                          *run.data.training, options, run.group.exchange()));
  return session;
}

TrainingInput input_of(const DistillRun& run) {
  return {.arguments = run.arguments,
          .settings = run.settings,
          .data = run.data,
          .folder = run.folder,
          .group = run.group};
}

// What decides the rest of the run, committed before its first step.
Status decide(const DistillRun& run, TrainingPosition& position) {
  const bool is_open = position.steps == 0;
  if (is_open && run.settings.trainer.privacy && position.privacy_key == 0) {
    PARE_TRY(position.privacy_key, secret_key());
    // All processes draw the same noise.
    double halves[] = {double(position.privacy_key >> 32), double(position.privacy_key & 0xffffffffu)};
    if (!run.group.is_first()) halves[0] = halves[1] = 0.0;
    PARE_CHECK(run.group.exchange().sum(std::span<double>(halves)));
    position.privacy_key = (uint64_t(halves[0]) << 32) | uint64_t(halves[1]);
  }
  if (!is_open) return {};
  if (run.arguments.steps) {
    position.steps = *run.arguments.steps;
    if (!run.settings.trainer.privacy) return {};
  } else {
    PARE_TRY(Session session, open_session(run, position, /*steps=*/1'000));
    position.micro_batch = session.memory.micro_batch;
    PARE_TRY(position.steps, decide_steps(input_of(run), *session.trainer, position));
    log_info("steps that fit: " + std::to_string(position.steps));
  }
  return run.folder != nullptr ? commit_training(*run.folder, position) : Status();
}

}  // namespace

TrainingForm training_form(const DistillArguments& arguments, const DistillSettings& settings,
                           std::map<std::string, ActivationQuant> grids) {
  TrainingForm form = settings.form;
  if (!settings.scheme) return form;
  QatOptions options{.scheme = *settings.scheme};
  const bool is_static = arguments.qat_activations == "static";
  if (is_static) {
    options.activation = ActivationQuant{.mode = ActivationQuant::Mode::static_tensor, .scale = 1.0f};
  } else if (arguments.qat_activations != "none") {
    options.activation = ActivationQuant{.mode = ActivationQuant::Mode::dynamic_token,
                                         .symmetric = arguments.qat_activations == "dynamic"};
  }
  form.transform = [options, grids = std::move(grids)](const std::string& name, const Tensor& master) {
    QatOptions own = options;
    if (const auto found = grids.find(name); found != grids.end()) own.activation = found->second;
    return make_fake_quantizer(name, master, own);
  };
  return form;
}

Result<TrainingLog> open_log(const DistillRun& run, const MemoryPlan& memory,
                             const TrainingPosition& position) {
  if (run.folder == nullptr) return TrainingLog::silent();
  TrainingStart start;
  start.command = run.arguments.command();
  start.options = canonical_options(run.arguments, run.settings);
  start.options["loss"] = std::string(loss_kind_name(run.settings.trainer.loss.kind));
  start.steps = position.steps;
  start.first_step = position.steps_taken();
  start.generation = run.folder->generation();
  start.student_parameters = multiplying_parameters(run.models.student_model);
  const bool runs_teacher = run.models.teacher != nullptr && run.arguments.cache_teacher.empty();
  if (runs_teacher) start.teacher_parameters = multiplying_parameters(run.models.teacher_model);
  start.recomputes = !memory.keeps_blocks;
  start.ranks = run.group.size();
  start.peak_flops = measured_peak_flops();
  return TrainingLog::open(*run.folder, {.tensorboard = run.arguments.tensorboard}, start);
}

int64_t multiplying_parameters(const ModelDescription& model) {
  int64_t count = 0;
  for (const TensorSpec& spec : model.tensors) {
    const bool is_head =
        spec.role == Role::lm_head || (spec.role == Role::embedding && model.config.tied_head);
    if (spec.is_linear || is_head) count += spec.shape.numel();
  }
  return count;
}

Result<MemoryPlan> plan_run(const DistillRun& run, const TrainingModel& student, int64_t decided) {
  MemoryInput input;
  input.limit_bytes = run.limit_bytes;
  input.student = &student;
  input.teacher_vocabulary =
      run.models.teacher != nullptr ? run.models.teacher_model.config.vocabulary_size : 0;
  input.teacher_bytes = expected_teacher_bytes(run.arguments, run.models);
  input.context = run.data.training->context();
  input.options = run.settings.trainer;
  input.ranks = run.group.size();
  if (decided > 0) input.decided = decided;
  PARE_TRY(MemoryPlan plan, plan_memory(run.arguments, input));
  // Processes see different amounts of free memory, but the sums of all must be cut alike.
  plan.micro_batch = -int64_t(run.group.largest(-double(plan.micro_batch)));
  return plan;
}

Result<DistillResult> train_and_write(const DistillRun& run, TrainingPosition& position, Manifest planned) {
  PARE_CHECK(decide(run, position));
  PARE_TRY(Session session, open_session(run, position, position.steps));
  position.micro_batch = session.memory.micro_batch;
  DistillResult result;
  result.memory = session.memory;
  result.student_parameters = session.student->parameter_count();
  PARE_TRY(TrainingLog log, open_log(run, session.memory, position));
  auto outcome = run_training(input_of(run), *session.trainer, position, log);
  if (!outcome) {
    if (outcome.error().exit != Exit::interrupted)
      PARE_CHECK(log.end({.step = session.trainer->step_number(),
                          .reason = "failed",
                          .detail = format_error(outcome.error())}));
    return outcome.error();
  }
  result.outcome = *std::move(outcome);
  session.trainer.reset();
  session.teacher.reset();
  if (run.folder == nullptr) return result;
  Json& training = planned.options["training"] = Json::object();
  training["steps"] = result.outcome.steps;
  training["kept_step"] = result.outcome.best_step;
  training["micro_batch"] = session.memory.micro_batch;
  training["skipped_bad_steps"] = result.outcome.bad_steps;
  PARE_TRY(result.manifest, write_trained(run.arguments, run.settings, run.models, *session.student,
                                          *run.folder, position, std::move(planned)));
  // Losses of single steps say more of the data than epsilon covers: of private training they go with the
  // job.
  if (!run.settings.trainer.privacy) {
    PARE_CHECK(log.publish(run.arguments.output.path, run.arguments.output.force || run.arguments.resume));
    PARE_TRY(result.curve, log.curve());
  }
  PARE_CHECK(run.folder->published());
  return result;
}

}  // namespace pare::cli
