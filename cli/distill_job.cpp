#include "cli/distill_job.h"

#include <chrono>
#include <utility>

#include "cli/backends.h"
#include "cli/distill_output.h"
#include "cli/distill_run.h"
#include "cli/distill_summary.h"
#include "cli/job_finish.h"
#include "cli/model_argument.h"
#include "cli/shared_text.h"
#include "distill/step_init.h"
#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/memory.h"
#include "engine/core/signals.h"
#include "engine/core/version.h"

namespace pare::cli {
namespace {

using Clock = std::chrono::steady_clock;

// Names before contents: output and report may be written, all files can be opened.
Status check_names(const DistillArguments& arguments) {
  PARE_CHECK(check_output(arguments.output.path, {.force = output_of(arguments).force}));
  PARE_CHECK(check_report_target(arguments));
  PARE_CHECK(check_training_log_target(arguments.output.path, output_of(arguments).force));
  std::vector<std::string> files;
  for (const std::string& text : arguments.files) {
    PARE_TRY(const WeightedFile file, parse_weighted_file(text));
    files.push_back(file.path);
  }
  for (const std::string& path : {arguments.validate, arguments.report_data, arguments.student_config})
    if (!path.empty() && path != "-") files.push_back(path);
  for (const std::string& path : files) {
    PARE_TRY(const InputFile readable, InputFile::open(path));
    static_cast<void>(readable);
  }
  return {};
}

// What a commit takes: masters and moments, of which two generations, the one being written and, with
// patience, the best one are there.
uint64_t job_bytes(const DistillArguments& arguments, const ModelDescription& model) {
  const uint64_t moments = arguments.optimizer == "adamw" ? 8 : arguments.momentum > 0.0 ? 4 : 0;
  uint64_t weights = 0;
  for (const TensorSpec& spec : model.tensors) {
    if (arguments.lora == 0) {
      weights += uint64_t(spec.shape.numel());
    } else if (spec.is_linear) {
      weights += uint64_t(arguments.lora * (spec.in() + spec.out()));
    }
  }
  return (arguments.patience > 0 ? 4 : 3) * weights * (4 + moments);
}

// CL01, CL02, CL04: the output and, beside it or elsewhere, the folder of the job.
Status check_space(const DistillArguments& arguments, const DistillModels& models, uint64_t output_bytes) {
  const uint64_t folder = arguments.resume ? 0 : job_bytes(arguments, models.student_model);
  const bool is_beside = arguments.work_dir.empty();
  PARE_CHECK(
      check_output_model(*models.student, output_of(arguments), output_bytes + (is_beside ? folder : 0)));
  if (models.teacher != nullptr)
    PARE_CHECK(check_output(arguments.output.path, {.force = output_of(arguments).force,
                                                    .inputs = models.teacher->file_identities()}));
  if (is_beside || folder == 0) return {};
  // A name in the same place that is free, for the folder itself may be there.
  const bool exists = path_exists(arguments.work_dir);
  return check_output(exists ? arguments.work_dir + "/space" : arguments.work_dir,
                      {.expected_bytes = folder});
}

// Everything that decides the bytes of the output (docs/jobs.md); what the user chose comes first.
Json identity_of(const Manifest& manifest, const Json& options, const DistillModels& models,
                 const DistillData& data, int ranks) {
  Json json = Json::object();
  json["program"] = Json::object();
  json["program"]["version"] = std::string(kVersion);
  json["program"]["build"] = std::string(kBuildId);
  json["command"] = manifest.command;
  json["options"] = options;
  json["inputs"] = manifest.inputs;
  if (models.teacher != nullptr) json["teacher"] = models.teacher_inputs;
  json["seed"] = Json(manifest.seed);
  Json& seen = json["calibration"] = Json::object();
  seen["context"] = data.training->context();
  seen["hash"] = xxh3_128(data.description.dump_sorted()).hex();
  json["processes"] = ranks;
  json["arithmetic"] = manifest.arithmetic;
  return json;
}

// As pare inspect --recipe prints it: the teacher and the data are inputs, not settings.
Result<Manifest> planned_manifest(const DistillArguments& arguments, const DistillSettings& settings,
                                  const DistillModels& models, const DistillData& data, uint64_t seed) {
  PARE_TRY(Manifest manifest, start_manifest(*models.student, arguments.command(),
                                             canonical_options(arguments, settings), seed));
  manifest.arithmetic = arithmetic_profile();
  if (models.teacher != nullptr) manifest.options["teacher"] = models.teacher_inputs;
  manifest.options["data"] = data.description;
  return manifest;
}

class DistillJob {
 public:
  DistillJob(const DistillArguments& arguments, const CommonOptions& common, Clock::time_point start)
      : arguments_(arguments), common_(common), start_(start) {}

  Result<Exit> run() {
    PARE_CHECK(check_distill_arguments(arguments_));
    PARE_TRY(gates_, report_gates(arguments_));
    PARE_TRY(group_, ProcessGroup::join());
    PARE_CHECK(check_names(arguments_));
    PARE_TRY(models_, open_distill_models(arguments_, common_));
    PARE_TRY(settings_, distill_settings(arguments_, models_.origin, common_.seed));
    PARE_TRY(device_, chosen_device(common_));
    PARE_TRY(limit_, process_limit(common_, device_));
    PARE_CHECK(
        check_distill_device(settings_, models_.student_model.config, device_, group_->exchange().size()));
    if (settings_.scheme) PARE_CHECK(check_learnable(*settings_.scheme, "--qat"));
    PARE_TRY(data_,
             load_distill_data(arguments_, *models_.student, models_.student_model.config, common_.seed));
    PARE_CHECK(check_space(arguments_, models_, expected_output_bytes(arguments_, settings_, models_)));
    auto ended = arguments_.dry_run ? plan() : train();
    // An error that only this process has ends the others too; see process_group.h.
    if (ended || ended.error().exit == Exit::interrupted) group_->finish();
    return ended;
  }

 private:
  DistillRun run_of(JobFolder* folder) {
    return {.arguments = arguments_,
            .common = common_,
            .settings = settings_,
            .models = models_,
            .data = data_,
            .device = device_,
            .group = *group_,
            .folder = folder,
            .limit_bytes = limit_};
  }
  DistillSummary summary() const {
    DistillSummary summary{.arguments = arguments_, .settings = settings_, .models = models_, .data = data_};
    summary.steps = arguments_.steps.value_or(0);
    summary.output_bytes = expected_output_bytes(arguments_, settings_, models_);
    summary.job_bytes = job_bytes(arguments_, models_.student_model);
    return summary;
  }

  Result<Exit> plan() {
    DistillSummary planned = summary();
    if (!arguments_.cache_teacher.empty()) {
      planned.cache.emplace();
      PARE_TRY(planned.cache->header,
               teacher_cache_header(arguments_, models_, data_, settings_.trainer.loss));
    }
    const uint64_t weights = held_bytes(device_) + training_weight_bytes(arguments_, models_.student_model);
    if (weights > limit_) return too_much_memory(device_, limit_, weights, "train with --lora, or");
    PARE_TRY(const auto student,
             TrainingModel::open(models_.student, device_, training_form(arguments_, settings_)));
    PARE_TRY(planned.memory, plan_run(run_of(nullptr), *student, 0));
    planned.student_parameters = student->parameter_count();
    if (!group_->is_first()) return Exit::ok;
    if (common_.json) {
      print_json(distill_json(planned, nullptr));
    } else {
      print_distill_plan(planned);
    }
    return Exit::ok;
  }

  Result<Exit> train() {
    const std::string path =
        arguments_.work_dir.empty() ? job_path_of(arguments_.output.path) : arguments_.work_dir;
    const JobMode mode = arguments_.resume    ? JobMode::resume
                         : arguments_.restart ? JobMode::restart
                                              : JobMode::fresh;
    const JobSignalScope signals;
    std::optional<JobFolder> folder;
    if (group_->is_first()) {
      PARE_TRY(JobFolder opened, JobFolder::open(path, mode));
      folder.emplace(std::move(opened));
      // With the lock held: no other job can finish this output after this look.
      if (!arguments_.resume)
        PARE_CHECK(check_output_model(*models_.student, arguments_.output, summary().output_bytes));
    }
    auto ended = train_in_folder(folder ? &*folder : nullptr);
    if (!ended && ended.error().exit == Exit::interrupted) {
      ended.error().path = path;
      ended.error().where.clear();
      ended.error().what = "interrupted; to continue: " + resume_command(common_);
    }
    return ended;
  }

  Result<Exit> train_in_folder(JobFolder* folder) {
    Manifest planned;
    if (folder != nullptr) {
      PARE_TRY(planned, planned_manifest(arguments_, settings_, models_, data_, common_.seed));
      PARE_CHECK(folder->start(
          identity_of(planned, canonical_options(arguments_, settings_), models_, data_, group_->size())));
    }
    PARE_TRY(TrainingPosition position, shared_position(folder));
    FinishedJob done;
    PARE_TRY(const bool is_there, find_output(folder, position, done));
    DistillSummary finished = summary();
    if (!is_there) {
      auto trained = train_from(folder, std::move(planned), position, finished, done);
      if (!trained) {
        // Failed before anything was worth keeping: nothing to continue, and nothing in the way of the next
        // try.
        const bool is_empty = folder != nullptr && folder->generation() == 0 && !arguments_.resume;
        if (is_empty && trained.error().exit != Exit::interrupted) PARE_CHECK(folder->remove());
        return trained.error();
      }
    } else {
      const int64_t taken = position.steps_taken();
      finished.outcome = TrainingOutcome{.steps = taken,
                                         .best_step = position.best_step.value_or(taken),
                                         .validations = position.validations,
                                         .ended = position.ended};
    }
    if (folder == nullptr) return Exit::ok;
    return report(*folder, finished, done);
  }

  // What rank 0 has committed, on every rank.
  Result<TrainingPosition> shared_position(JobFolder* folder) {
    std::string text = folder != nullptr ? folder->position().dump() : std::string();
    PARE_CHECK(share_text(group_->exchange(), text));
    PARE_TRY(const Json json,
             parse_json(text, "position", {.max_bytes = text.size() + 1, .want_object = false}));
    return read_training_position(json, folder != nullptr ? folder->path() : std::string("mpirun"));
  }

  // Whether this job wrote its output already and died before it could say so.
  Result<bool> find_output(JobFolder* folder, const TrainingPosition& position, FinishedJob& done) {
    bool is_there = false;
    if (folder != nullptr) {
      PARE_TRY(const auto found,
               finished_output(arguments_, common_, *folder, position.output, [&](const Manifest& manifest) {
                 return manifest.command == arguments_.command() && manifest.seed == common_.seed;
               }));
      if (found) {
        // It may have died before its log was beside the output.
        if (path_exists(folder->training_log_path())) {
          PARE_TRY(const TrainingLog log, open_log(run_of(folder), {}, position));
          PARE_CHECK(log.publish(arguments_.output.path, /*force=*/true));
          PARE_TRY(curve_, log.curve());
        }
        PARE_CHECK(folder->published());
        done.manifest = *found;
        is_there = true;
      }
    }
    return group_->any(is_there);
  }

  Status train_from(JobFolder* folder, Manifest planned, TrainingPosition& position, DistillSummary& finished,
                    FinishedJob& done) {
    if (!arguments_.cache_teacher.empty()) {
      PARE_TRY(finished.cache, ensure_teacher_cache(arguments_, models_, data_, settings_.trainer.loss,
                                                    device_, limit_, *group_));
      if (folder != nullptr) {
        planned.options["teacher_cache"] = finished.cache->header.to_json();
      }
    }
    PARE_TRY(DistillResult result, train_and_write(run_of(folder), position, std::move(planned)));
    finished.outcome = std::move(result.outcome);
    finished.memory = result.memory;
    finished.student_parameters = result.student_parameters;
    done.manifest = std::move(result.manifest);
    curve_ = std::move(result.curve);
    return {};
  }

  Result<Exit> report(JobFolder& folder, DistillSummary& finished, FinishedJob& done) {
    finished.steps = finished.outcome->steps;
    if (settings_.trainer.privacy) {
      PrivacyPlan plan{
          .sampling_rate = std::min(1.0, double(arguments_.batch) / double(data_.training->windows())),
          .noise_multiplier = settings_.trainer.privacy->noise,
          .delta = arguments_.dp_delta.value_or(1.0 / double(data_.training->windows()))};
      PARE_CHECK(plan.validate());
      finished.privacy = privacy_spent(plan, finished.outcome->steps);
      finished.privacy_delta = plan.delta;
    }
    PARE_TRY(const auto output, open_source(arguments_.output.path, {}));
    done.command = arguments_.command();
    done.source = models_.teacher != nullptr ? models_.teacher : models_.student;
    if (models_.teacher != nullptr && !models_.is_own_teacher()) done.before = models_.student;
    done.weight_bytes_before = stored_bytes(*models_.student);
    done.weight_bytes_after = stored_bytes(*output);
    done.report_windows = data_.report;
    done.report_source = data_.report_source;
    done.gates = gates_;
    done.start = start_;
    // A student as large as its teacher is as fast.
    done.wants_speed = models_.teacher != nullptr && multiplying_parameters(models_.teacher_model) !=
                                                         multiplying_parameters(models_.student_model);
    if (models_.teacher != nullptr &&
        models_.teacher_model.config.vocabulary_size != models_.student_model.config.vocabulary_size) {
      // Distributions over two vocabularies do not compare: the student with itself.
      done.source = models_.student;
      done.before.reset();
    }
    done.complete = [&](RunReport& run) {
      run.training = curve_;
      if (done.damage_before) {
        run.extra["perplexity before"] = done.damage_before->compressed.value;
        run.extra["KL to the teacher before"] = done.damage_before->damage.kl.value;
        run.extra["log-perplexity above the teacher before"] = done.damage_before->damage.log_ratio;
      }
      if (finished.privacy) {
        run.extra["privacy epsilon"] = finished.privacy->epsilon;
        run.extra["privacy delta"] = finished.privacy_delta;
      }
    };
    // What comes now can be had again from the output: a stop signal need not wait.
    PARE_CHECK(report_job(arguments_, common_, done, [&]() -> Status {
      if (interrupted()) return folder.interrupted_error();
      return {};
    }));
    if (!arguments_.keep_work) PARE_CHECK(folder.remove());
    if (common_.json) {
      print_json(distill_json(finished, &done));
    } else {
      print_distill_outcome(finished, done);
    }
    if (done.damage) PARE_CHECK(check_gates(done.gates, *done.damage, arguments_.output.path));
    return Exit::ok;
  }

  const DistillArguments& arguments_;
  const CommonOptions& common_;
  Clock::time_point start_;
  Device device_ = Device::cpu();
  std::vector<Gate> gates_;
  std::unique_ptr<ProcessGroup> group_;
  uint64_t limit_ = 0;
  DistillModels models_;
  DistillSettings settings_;
  DistillData data_;
  std::optional<TrainingCurve> curve_;
};

}  // namespace

Result<Exit> run_distill(const DistillArguments& arguments, const CommonOptions& common) {
  const Clock::time_point start = Clock::now();
  PARE_CHECK(start_engine(common));
  DistillArguments named = arguments;
  PARE_TRY(named.compute, compute_type(named, common));
  if (!named.files.empty()) named.data = named.files.front();  // there is something to report on
  return DistillJob(named, common, start).run();
}

}  // namespace pare::cli
