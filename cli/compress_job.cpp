#include "cli/compress_job.h"

#include <fmt/core.h>

#include "cli/backends.h"
#include "cli/model_argument.h"
#include "cli/training_log.h"
#include "engine/core/file.h"
#include "engine/core/hash.h"
#include "engine/core/progress.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"
#include "engine/core/version.h"
#include "formats/directory_source.h"

namespace pare::cli {
namespace {

// The position of a job: {steps: [{bytes, xxh3_128}] of the models that finished steps have written, output:
// the checksum of OUT, committed just before it appears}.
struct Position {
  std::vector<Json> steps;
  std::string output;
};

Error damaged_position(const JobFolder& folder) {
  return Error{.exit = Exit::malformed,
               .rule = {},
               .path = folder.path(),
               .where = "position",
               .what = "not the position of a compress job; --restart begins anew",
               .got = {},
               .limit = {}};
}

Result<Position> read_position(const JobFolder& folder) {
  Position position;
  if (folder.position().is_null()) return position;
  const Json *steps = folder.position().find("steps"), *output = folder.position().find("output");
  if (steps == nullptr || !steps->is_array() || output == nullptr || !output->is_string())
    return damaged_position(folder);
  for (const Json& step : steps->items()) position.steps.push_back(step);
  position.output = output->as_string();
  return position;
}

Status commit(JobFolder& folder, const Position& position) {
  Json json = Json::object();
  json["steps"] = Json(Json::Array(position.steps.begin(), position.steps.end()));
  json["output"] = position.output;
  return folder.commit(std::move(json), {});
}

std::string step_path(const std::string& parts, size_t index) {
  return fmt::format("{}/{}.pare", parts, index + 1);
}

// Size and checksum of what a step has written.
Result<Json> identity_of(const std::string& path) {
  PARE_TRY(const InputFile file, InputFile::open(path));
  PARE_TRY(Json json, hash_file(file, short_name(path)));
  return json;
}

Status check_whole(const std::string& path, const Json& expected) {
  PARE_TRY(const Json found, identity_of(path));
  if (found == expected) return {};
  return Error{.exit = Exit::malformed,
               .rule = {},
               .path = path,
               .where = {},
               .what = "not what the finished step wrote; --restart begins anew",
               .got = found.dump(),
               .limit = expected.dump(),
               .limit_label = "expected"};
}

// The lines of a command, indented, without the first: it names files of the job's folder.
void print_step_text(const std::string& text) {
  size_t begin = text.find('\n');
  while (begin != std::string::npos && begin + 1 < text.size()) {
    const size_t end = std::min(text.find('\n', begin + 1), text.size());
    std::string_view line = std::string_view(text).substr(begin + 1, end - begin - 1);
    if (line.starts_with("pare: done: ")) line.remove_prefix(std::string_view("pare: done: ").size());
    while (line.starts_with(' ')) line.remove_prefix(1);
    print_line(fmt::format("    {}", line));
    begin = text.find('\n', begin + 1);
  }
}

// What the command printed.
Result<std::string> run_step(CompressJob& job, size_t index, const std::string& input,
                             const std::string& output) {
  std::string text;
  BoundStep& step = job.steps[index];
  CommonOptions common = job.common;
  common.json = false;
  if (index > 0) common.weights.clear();  // of MODEL
  PARE_TRY(const auto source,
           index == 0 ? Result<std::shared_ptr<const WeightSource>>(job.source) : open_source(input, common));
  PARE_TRY(const ModelDescription model, describe_model(*source));
  PARE_CHECK(match_overrides(job.recipe, step, model));
  JobArguments& arguments = step.command->arguments();
  arguments.model = input;
  arguments.output.path = output;
  arguments.output.force = true;  // of the job's own folder
  arguments.no_report = arguments.no_speed = true;
  arguments.dry_run = arguments.restart = arguments.keep_work = false;
  arguments.work_dir.clear();
  // A job folder without a job holds nothing to continue.
  arguments.resume = step.command->has_job() && path_exists(job_path_of(output) + "/job.json");
  if (const Status checked = step.command->check(); !checked)
    return at_setting(job.recipe, step, checked.error());
  if (!job.common.json)
    print_line(fmt::format("  step {} of {}: {}", index + 1, job.steps.size(), step.place.verb));
  auto ended = [&] {
    const PrintCapture capture;
    auto result = step.command->run(common);
    text = capture.text();
    return result;
  }();
  if (ended) return text;
  Error error = at_setting(job.recipe, step, std::move(ended.error()));
  if (error.path != job.recipe.path && error.exit != Exit::interrupted)
    error.where = fmt::format("step {} ({}){}{}", index + 1, step.place.verb, error.where.empty() ? "" : ": ",
                              error.where);
  return error;
}

Result<StepSummary> summarize(const CompressJob& job, size_t index, const std::string& path,
                              const Manifest& manifest) {
  StepSummary summary{.verb = job.steps[index].place.verb, .fallbacks = manifest.fallbacks()};
  PARE_TRY(const auto report, read_run_report(path));
  if (!report) return summary;
  summary.seconds = report->seconds;
  summary.weight_bytes_before = report->weight_bytes_before;
  summary.weight_bytes_after = report->weight_bytes_after;
  summary.training = report->training;
  return summary;
}

// Manifest of the output: the recipe, and what each step said.
Manifest joint_manifest(Manifest manifest, const std::vector<Manifest>& manifests) {
  for (size_t i = 0; i < manifests.size(); ++i) {
    Manifest step = manifests[i];
    if (!step.arithmetic.empty()) manifest.arithmetic = step.arithmetic;
    step.history.clear();                                 // the steps before it stand here themselves
    if (i + 1 == manifests.size()) step.tensors.clear();  // this manifest lists them
    manifest.history.push_back(step.to_json());
  }
  manifest.tensors = manifests.back().tensors;
  return manifest;
}

bool is_of_job(const CompressJob& job, const Manifest& planned, const Manifest& found) {
  return found.command == planned.command && found.recipe == job.resolved &&
         found.options == planned.options && found.inputs == planned.inputs && found.seed == planned.seed;
}

Json job_identity(const CompressJob& job, const Manifest& planned, const Json& calibration) {
  Json json = Json::object();
  json["program"] = Json::object();
  json["program"]["version"] = std::string(kVersion);
  json["program"]["build"] = std::string(kBuildId);
  json["command"] = planned.command;
  json["recipe"] = job.resolved;
  json["inputs"] = planned.inputs;
  if (const Json* teacher = planned.options.find("teacher")) json["teacher"] = *teacher;
  json["seed"] = Json(planned.seed);
  json["calibration"] = Json::object();
  json["calibration"]["hash"] = xxh3_128(calibration.dump_sorted()).hex();
  json["arithmetic"] = arithmetic_profile();
  return json;
}

// The last model of the job as OUT: the same tensors in the form that OUT's name asks for.
Result<Manifest> write_out(const CompressJob& job, JobFolder& folder, Position& position,
                           const std::string& path, Manifest manifest) {
  PARE_TRY(const auto last, open_source(path, {}));
  PARE_TRY(const ModelDescription model, describe_model(*last));
  PARE_TRY(const auto sink, open_output_model(*last, job.arguments.output, job.output_bytes));
  Manifest stored;
  sink->before_publish([&](const Manifest& whole) {
    stored = whole;
    position.output = manifest_hash(whole);
    return commit(folder, position);
  });
  Progress progress("write", int64_t(model.tensors.size()), "tensors");
  for (const TensorSpec& spec : model.tensors) {
    PARE_TRY(const WeightData data, last->load(spec.name));
    PARE_CHECK(sink->put(spec.name, data));
    last->release(spec.name);
    progress.advance();
    if (interrupted()) return folder.interrupted_error();
  }
  PARE_CHECK(last->check_unchanged());
  PARE_CHECK(sink->finish(manifest));
  return stored;
}

}  // namespace

Result<std::vector<StepSummary>> run_steps(CompressJob& job, JobFolder& folder, const Json& calibration,
                                           FinishedJob& done) {
  PARE_TRY(Manifest planned, start_manifest(*job.source, "compress", job.options, job.common.seed));
  planned.recipe = job.resolved;
  PARE_CHECK(folder.start(job_identity(job, planned, calibration)));
  PARE_TRY(Position position, read_position(folder));
  if (position.steps.size() > job.steps.size()) return damaged_position(folder);
  PARE_TRY(std::optional<Manifest> found,
           finished_output(job.arguments, job.common, folder, position.output,
                           [&](const Manifest& manifest) { return is_of_job(job, planned, manifest); }));
  std::vector<StepSummary> summaries;
  if (found) {
    PARE_CHECK(folder.published());
    done.manifest = *std::move(found);
    return summaries;
  }
  PARE_TRY(const std::string parts, folder.parts_folder());
  std::vector<Manifest> manifests;
  for (size_t i = 0; i < job.steps.size(); ++i) {
    const std::string output = step_path(parts, i);
    if (i < position.steps.size()) {
      PARE_CHECK(check_whole(output, position.steps[i]));
    } else {
      if (interrupted()) return folder.interrupted_error();
      PARE_TRY(const std::string text,
               run_step(job, i, i == 0 ? job.arguments.model : step_path(parts, i - 1), output));
      if (!job.common.json) print_step_text(text);
      PARE_TRY(Json written, identity_of(output));
      position.steps.push_back(std::move(written));
      PARE_CHECK(commit(folder, position));
    }
    PARE_TRY(const auto source, open_source(output, {}));
    if (source->manifest() == nullptr) return damaged_position(folder);
    manifests.push_back(*source->manifest());
    PARE_TRY(StepSummary summary, summarize(job, i, output, manifests.back()));
    summaries.push_back(std::move(summary));
  }
  Manifest manifest = joint_manifest(planned, manifests);
  PARE_TRY(done.manifest,
           write_out(job, folder, position, step_path(parts, job.steps.size() - 1), std::move(manifest)));
  for (size_t i = job.steps.size(); i-- > 0;) {
    const std::string log = training_log_path(step_path(parts, i));
    if (!path_exists(log)) continue;
    PARE_CHECK(publish_training_log(log, job.arguments.output.path, job.arguments.output.force));
    break;
  }
  PARE_CHECK(folder.published());
  return summaries;
}

}  // namespace pare::cli
