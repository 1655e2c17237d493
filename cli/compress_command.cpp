#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "cli/backends.h"
#include "cli/calibration_data.h"
#include "cli/commands.h"
#include "cli/compress_job.h"
#include "cli/model_argument.h"
#include "cli/training_log.h"
#include "engine/core/memory.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"
#include "evaluate/damage_json.h"

namespace pare::cli {
namespace {

struct CompressArguments : JobArguments {
  std::string recipe;
  std::string teacher;  // of steps that imitate; empty: MODEL
};

Error recipe_contradiction(const Recipe& recipe, const CompressArguments& arguments) {
  return Error{
      .exit = Exit::usage,
      .rule = "CL13",
      .path = "--data",
      .where = fmt::format("{}: {}:{}: data", recipe.path, recipe.data_place.line, recipe.data_place.column),
      .what = "the recipe names its data; leave out one of the two",
      .got = quote(arguments.data),
      .limit = quote(recipe.data_name),
      .limit_label = "recipe"};
}

// Names the data of all steps. Exit 2 when both the recipe and the command line do.
Result<std::string> data_of(const Recipe& recipe, const CompressArguments& arguments) {
  if (!arguments.data.empty() && !recipe.data.empty()) return recipe_contradiction(recipe, arguments);
  return arguments.data.empty() ? recipe.data : arguments.data;
}

Result<std::vector<BoundStep>> bind_steps(const Recipe& recipe, const std::string& data) {
  std::vector<BoundStep> steps;
  for (const RecipeStep& step : recipe.steps) {
    auto command = make_step_command(step.verb);
    if (command == nullptr) {
      return recipe_error(Exit::unsupported, "CL00", recipe.path, step.line, step.column, "steps",
                          "this step is not in this version", quote(step.verb));
    }
    PARE_TRY(BoundStep bound, bind_step(recipe, step, std::move(command), data));
    steps.push_back(std::move(bound));
  }
  return steps;
}

// What a step leaves open that depends on the model: the length of windows.
void fill_context(std::vector<BoundStep>& steps, const ModelConfig& config) {
  for (BoundStep& step : steps) {
    JobArguments& arguments = step.command->arguments();
    if (!step.uses_data) continue;
    if (arguments.context == 0) arguments.context = default_context(config);
    step.resolved["options"]["context"] = std::to_string(arguments.context);
  }
}

// Of the report: as the step with the most windows calibrates, so that none is compared on what it has seen.
JobArguments report_arguments(const CompressArguments& arguments, const std::vector<BoundStep>& steps,
                              const std::string& data) {
  JobArguments result = arguments;
  result.data = data;
  const JobArguments* most = nullptr;
  for (const BoundStep& step : steps) {
    const JobArguments& of_step = step.command->arguments();
    if (step.uses_data && (most == nullptr || of_step.samples > most->samples)) most = &of_step;
  }
  if (most == nullptr) return result;
  result.samples = most->samples;
  result.context = most->context;
  result.bos = most->bos;
  result.chat_template = most->chat_template;
  result.parse_special = most->parse_special;
  return result;
}

// MODEL is the teacher, unless another is named. Exit 2 where nobody would listen to it.
Status name_teacher(const CompressArguments& arguments, const CommonOptions& common,
                    std::vector<BoundStep>& steps) {
  bool is_wanted = false;
  for (BoundStep& step : steps) {
    if (step.place.verb == "distill" || step.place.verb == "finetune")
      PARE_CHECK(check_training_log_target(arguments.output.path, output_of(arguments).force));
    is_wanted = is_wanted || step.command->has_teacher();
    step.command->use_teacher(arguments.teacher.empty() ? arguments.model : arguments.teacher);
  }
  if (!arguments.teacher.empty() && !is_wanted)
    return contradiction("--teacher", "no step of the recipe has a teacher", arguments.teacher);
  // The step would look for that file in the folders of student and teacher alike.
  if (is_wanted && !common.weights.empty())
    return contradiction("--weights", "cannot be given for a recipe that distils", common.weights);
  return {};
}

// Text that a step has learned says nothing of the result: the report is on what such a step left out.
Status keep_report_clean(const JobArguments& report, std::vector<BoundStep>& steps,
                         const WeightSource& source, const ModelConfig& config, uint64_t seed,
                         FinishedJob& done) {
  for (BoundStep& step : steps) {
    PARE_TRY(std::optional<ReportWindows> own, step.command->report_windows(report, source, config, seed));
    if (!own) continue;
    done.report_windows = std::move(own->windows);
    done.report_source = std::move(own->source);
    return {};
  }
  return {};
}

Result<std::vector<StepPlan>> plan_steps(const Recipe& recipe, std::vector<BoundStep>& steps,
                                         std::shared_ptr<const WeightSource> source) {
  std::vector<StepPlan> plans;
  for (BoundStep& step : steps) {
    PARE_TRY(const ModelDescription model, describe_model(*source));
    PARE_CHECK(match_overrides(recipe, step, model));
    auto plan = step.command->plan(source);
    if (!plan) {
      Error error = at_setting(recipe, step, std::move(plan.error()));
      if (error.path != recipe.path)
        error.where = fmt::format("step {} ({}){}{}", plans.size() + 1, step.place.verb,
                                  error.where.empty() ? "" : ": ", error.where);
      return error;
    }
    source = plan->result;
    plans.push_back(*std::move(plan));
  }
  return plans;
}

Status check_data_hash(const Recipe& recipe, const std::string& data, const Json& description) {
  const Json* hash = description.find("text_hash");
  if (recipe.data_hash.empty() || hash == nullptr || !hash->is_string()) return {};
  if (hash->as_string() == recipe.data_hash) return {};
  return recipe_error(Exit::malformed, "RC15", recipe.path, recipe.data_hash_place.line,
                      recipe.data_hash_place.column, "data-hash",
                      fmt::format("{} is other data than the recipe was made with", quote(short_name(data))),
                      hash->as_string(), recipe.data_hash);
}

double ratio_of(uint64_t before, uint64_t after) {
  return double(before) / double(std::max<uint64_t>(1, after));
}

void print_sizes(uint64_t before, uint64_t after) {
  print_line(fmt::format("  weights {} -> {} ({:.2f}x smaller)", format_bytes(before), format_bytes(after),
                         ratio_of(before, after)));
}

Json plan_json(const CompressArguments& arguments, const std::vector<BoundStep>& steps,
               const std::vector<StepPlan>& plans) {
  Json json = Json::object();
  json["schema_version"] = 1;
  json["command"] = "compress";
  json["dry_run"] = arguments.dry_run;
  json["model"] = arguments.model;
  json["output"] = arguments.output.path;
  json["weight_bytes_before"] = Json(plans.front().weight_bytes_before);
  json["weight_bytes_after"] = Json(plans.back().weight_bytes_after);
  Json list = Json::array();
  uint64_t peak = 0;
  for (size_t i = 0; i < plans.size(); ++i) {
    Json step = steps[i].resolved;
    step["plan"] = plans[i].what;
    step["weight_bytes_before"] = Json(plans[i].weight_bytes_before);
    step["weight_bytes_after"] = Json(plans[i].weight_bytes_after);
    step["peak_memory_estimate_bytes"] = Json(plans[i].peak_memory_bytes);
    peak = std::max(peak, plans[i].peak_memory_bytes);
    list.push_back(std::move(step));
  }
  json["peak_memory_estimate_bytes"] = Json(peak);
  json["steps"] = std::move(list);
  return json;
}

void print_plan(const CompressArguments& arguments, const std::vector<BoundStep>& steps,
                const std::vector<StepPlan>& plans) {
  print_line(arguments.model + " -> " + arguments.output.path);
  uint64_t peak = 0, work = 0;
  for (size_t i = 0; i < plans.size(); ++i) {
    const StepPlan& plan = plans[i];
    print_line(fmt::format("  step {} of {}: {}", i + 1, plans.size(), steps[i].place.verb));
    print_line("    " + plan.what);
    print_line(fmt::format("    weights {} -> {}, peak memory at least {}",
                           format_bytes(plan.weight_bytes_before), format_bytes(plan.weight_bytes_after),
                           format_bytes(plan.peak_memory_bytes)));
    peak = std::max(peak, plan.peak_memory_bytes);
    work += plan.weight_bytes_after;
  }
  print_sizes(plans.front().weight_bytes_before, plans.back().weight_bytes_after);
  print_line(
      fmt::format("  peak memory at least {} beyond the program itself, job folder about {}; nothing was "
                  "written (--dry-run)",
                  format_bytes(peak), format_bytes(work)));
}

Json outcome_json(const CompressArguments& arguments, const FinishedJob& done,
                  const std::vector<StepSummary>& summaries) {
  Json json = Json::object();
  json["schema_version"] = 1;
  json["command"] = "compress";
  json["dry_run"] = false;
  json["model"] = arguments.model;
  json["output"] = arguments.output.path;
  json["weight_bytes_before"] = Json(done.weight_bytes_before);
  json["weight_bytes_after"] = Json(done.weight_bytes_after);
  json["output_bytes"] = Json(done.output_bytes);
  json["seconds"] = done.seconds;
  add_peak_memory(json);
  int64_t fallbacks = 0;
  Json list = Json::array();
  for (const StepSummary& summary : summaries) {
    Json step = Json::object();
    step["step"] = summary.verb;
    step["seconds"] = summary.seconds;
    step["weight_bytes_before"] = Json(summary.weight_bytes_before);
    step["weight_bytes_after"] = Json(summary.weight_bytes_after);
    step["fallbacks"] = Json(summary.fallbacks);
    fallbacks += summary.fallbacks;
    list.push_back(std::move(step));
  }
  json["fallbacks"] = Json(fallbacks);
  json["steps"] = std::move(list);
  json["recipe"] = done.manifest.recipe;
  if (done.speed) json["speed"] = to_json(*done.speed);
  if (!done.speed_note.empty()) json["speed_note"] = done.speed_note;
  json["manifest"] = done.manifest.to_json();
  if (done.damage) json["damage"] = to_json(*done.damage);
  return json;
}

void print_outcome(const FinishedJob& done, const std::vector<StepSummary>& summaries) {
  print_sizes(done.weight_bytes_before, done.weight_bytes_after);
  if (done.damage) print_damage(*done.damage);
  if (done.speed) print_line("  " + speed_line(*done.speed));
  if (!done.speed_note.empty()) print_line("  speed not measured: " + done.speed_note);
  print_line(fmt::format("  file {} in {}, peak memory {}", format_bytes(done.output_bytes),
                         format_duration(done.seconds), peak_memory_text()));
  int64_t fallbacks = 0;
  std::string names;
  for (const StepSummary& summary : summaries) {
    fallbacks += summary.fallbacks;
    names +=
        fmt::format("{}{} {}", names.empty() ? "" : ", ", summary.verb, format_duration(summary.seconds));
  }
  if (summaries.empty()) fallbacks = done.manifest.fallbacks();
  print_line(fmt::format("pare: done: {} steps{}{}, {} fallback", done.manifest.recipe.size(),
                         names.empty() ? "" : ": ", names, fallbacks));
}

Status finish(const CompressArguments& arguments, const JobArguments& report, const CommonOptions& common,
              const std::vector<StepPlan>& plans, const std::vector<StepSummary>& summaries,
              FinishedJob& done, JobFolder& folder) {
  done.weight_bytes_before = plans.front().weight_bytes_before;
  PARE_TRY(const auto output, open_source(arguments.output.path, {}));
  done.weight_bytes_after = stored_bytes(*output);
  // What comes now can be had again from the output: a stop signal need not wait.
  const auto advance = [&]() -> Status {
    if (interrupted()) return folder.interrupted_error();
    return {};
  };
  done.wants_speed = true;
  done.complete = [&](RunReport& run) {
    Json list = Json::array();
    for (const StepSummary& summary : summaries) {
      Json step = Json::object();
      step["step"] = summary.verb;
      step["seconds"] = summary.seconds;
      step["weights"] =
          format_bytes(summary.weight_bytes_before) + " -> " + format_bytes(summary.weight_bytes_after);
      run.extra[fmt::format("step {}", list.size() + 1)] = step;
      list.push_back(std::move(step));
      if (summary.training) run.training = summary.training;
    }
  };
  PARE_CHECK(report_job(report, common, done, advance));
  done.complete = [](RunReport&) {};
  if (!arguments.keep_work) PARE_CHECK(folder.remove());
  if (common.json) {
    print_json(outcome_json(arguments, done, summaries));
  } else {
    print_outcome(done, summaries);
  }
  if (done.damage) PARE_CHECK(check_gates(done.gates, *done.damage, arguments.output.path));
  return {};
}

Result<Exit> run_compress(const CompressArguments& arguments, CommonOptions common) {
  const auto start = std::chrono::steady_clock::now();
  PARE_CHECK(start_engine(common));
  PARE_CHECK(check_job_arguments(arguments));
  if (arguments.data == "-")
    return contradiction("--data", "every step reads the data again; give a file", "-");
  PARE_TRY(const Recipe recipe, read_recipe(arguments.recipe, common.follow_symlinks));
  common.seed = recipe.seed;
  PARE_TRY(const std::string data, data_of(recipe, arguments));
  PARE_TRY(std::vector<BoundStep> steps, bind_steps(recipe, data));
  PARE_CHECK(name_teacher(arguments, common, steps));
  JobArguments gated = arguments;
  gated.data = data;
  PARE_TRY(std::vector<Gate> gates, report_gates(gated));
  PARE_TRY(const auto source, open_job_input(arguments, common));
  PARE_TRY(const ModelDescription model, describe_model(*source));
  fill_context(steps, model.config);
  PARE_TRY(const std::vector<StepPlan> plans, plan_steps(recipe, steps, source));
  const uint64_t output_bytes = plans.back().weight_bytes_after;
  // What the steps write lies beside the output until the end, unless it was sent elsewhere.
  uint64_t bytes_beside = output_bytes;
  if (arguments.work_dir.empty() && !arguments.resume)
    for (const StepPlan& plan : plans) bytes_beside += plan.weight_bytes_after;
  PARE_CHECK(check_output_model(*source, output_of(arguments), bytes_beside));
  for (const StepPlan& plan : plans)
    PARE_CHECK(check_memory(common, resident_bytes() + plan.peak_memory_bytes,
                            "lower context in the recipe, or raise --max-memory"));

  PARE_TRY(const Device device, chosen_device(common));
  static_cast<void>(device);  // each step asks for it
  const JobArguments report = report_arguments(arguments, steps, data);
  PARE_TRY(Calibration calibration, load_calibration(report, *source, model.config, common.seed));
  PARE_CHECK(check_data_hash(recipe, data, calibration.description));
  if (arguments.dry_run) {
    if (common.json) {
      print_json(plan_json(arguments, steps, plans));
    } else {
      print_plan(arguments, steps, plans);
    }
    return Exit::ok;
  }

  CompressJob job{.arguments = arguments,
                  .common = common,
                  .recipe = recipe,
                  .source = source,
                  .steps = std::move(steps),
                  .output_bytes = output_bytes};
  bool uses_data = false;
  for (const BoundStep& step : job.steps) {
    job.resolved.push_back(step.resolved);
    uses_data = uses_data || step.uses_data;
  }
  if (const Json* hash = calibration.description.find("text_hash"); uses_data && hash != nullptr)
    job.options["data_hash"] = *hash;
  if (!arguments.teacher.empty()) {
    PARE_TRY(const auto teacher, open_source(arguments.teacher, common));
    PARE_TRY(job.options["teacher"], teacher->hash_inputs());
  }
  FinishedJob done;
  done.command = "compress";
  done.source = source;
  done.report_windows = calibration.report;
  PARE_CHECK(keep_report_clean(report, job.steps, *source, model.config, common.seed, done));
  done.gates = std::move(gates);
  done.start = start;
  const Json seen = uses_data ? calibration.description : Json();
  calibration = Calibration();  // the windows are not needed any more

  const JobSignalScope signals;
  const std::string job_path =
      arguments.work_dir.empty() ? job_path_of(arguments.output.path) : arguments.work_dir;
  const JobMode mode = arguments.resume    ? JobMode::resume
                       : arguments.restart ? JobMode::restart
                                           : JobMode::fresh;
  PARE_TRY(JobFolder folder, JobFolder::open(job_path, mode));
  // With the lock held: no other job can finish this output after this look.
  if (!arguments.resume) PARE_CHECK(check_output_model(*source, arguments.output, output_bytes));
  const auto run = [&]() -> Status {
    if (!common.json) print_line(arguments.model + " -> " + arguments.output.path);
    PARE_TRY(const std::vector<StepSummary> summaries, run_steps(job, folder, seen, done));
    return finish(arguments, report, common, plans, summaries, done, folder);
  };
  Status ended = run();
  if (ended) return Exit::ok;
  Error error = ended.error();
  if (error.exit == Exit::interrupted) {
    error.path = job_path;
    error.where.clear();
    error.what = "interrupted; to continue: " + resume_command(common);
  }
  return error;
}

}  // namespace

void add_compress(CLI::App& app, Commands& commands) {
  auto arguments = std::make_shared<CompressArguments>();
  CLI::App* verb = app.add_subcommand("compress", "several steps from one recipe, with one report");
  add_model_options(*verb, *arguments);
  verb->add_option("--recipe", arguments->recipe,
                   "YAML or JSON with the steps; docs/recipes.md has every key")
      ->required()
      ->type_name("FILE");
  verb->add_option("--data", arguments->data, "calibration data, where the recipe does not name it")
      ->type_name("FILE")
      ->group("Calibration");
  verb->add_option("--teacher", arguments->teacher, "whom steps that distil imitate (default: MODEL)")
      ->type_name("MODEL")
      ->group("Distillation");
  add_report_options(*verb, *arguments);
  add_job_options(*verb, *arguments);
  add_common(verb, commands, true);
  verb->footer(
      "Example of a recipe:\n"
      "  schema: 1\n"
      "  data: text.txt          # beside the recipe\n"
      "  samples: 64\n"
      "  context: 512\n"
      "  steps:\n"
      "    - prune: {method: wanda, sparsity: 0.5}\n"
      "    - quantize: {method: gptq, scheme: int4-g64}\n"
      "`pare inspect OUT --recipe` prints the recipe of a result, to be repeated.");
  commands.on(verb, [arguments, &commands] { return run_compress(*arguments, commands.common()); });
}

}  // namespace pare::cli
