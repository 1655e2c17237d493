#include "cli/job_arguments.h"

#include <CLI/CLI.hpp>

namespace pare::cli {

Error contradiction(const std::string& option, const std::string& what, const std::string& got) {
  return Error{.exit = Exit::usage,
               .rule = "CL13",
               .path = option,
               .where = {},
               .what = what,
               .got = got,
               .limit = {}};
}

// Without data there is one pass and no job.
Status check_no_job(const JobArguments& arguments) {
  const char* option = arguments.resume              ? "--resume"
                       : arguments.restart           ? "--restart"
                       : arguments.keep_work         ? "--keep-work"
                       : !arguments.work_dir.empty() ? "--work-dir"
                                                     : nullptr;
  if (option == nullptr) return {};
  return contradiction(option, "no job is kept without calibration data", "no --data and no --statistics");
}

Status check_job_arguments(const JobArguments& arguments) {
  if (arguments.resume && arguments.restart)
    return contradiction("--resume", "cannot be given together with --restart", "both");
  if (!arguments.data.empty() && !arguments.statistics.empty())
    return contradiction("--data", "cannot be given together with --statistics", "both");
  if (arguments.no_report && !arguments.report_data.empty())
    return contradiction("--report-data", "cannot be given together with --no-report", arguments.report_data);
  return {};
}

void add_model_options(CLI::App& verb, JobArguments& arguments) {
  verb.add_option("MODEL", arguments.model, "what to compress")->required();
  verb.add_option("-o,--output", arguments.output.path,
                  "where to write: NAME.pare, or a directory of safetensors")
      ->required()
      ->type_name("OUT");
  verb.add_flag("--dry-run", arguments.dry_run, "say what would be written and what it would take, and stop");
  verb.add_flag("--force", arguments.output.force, "replace an existing output");
}

void add_data_options(CLI::App& verb, JobArguments& arguments) {
  verb.add_option("--data", arguments.data,
                  "calibration data: text, JSONL with `text` or `messages`, or token ids in safetensors")
      ->type_name("FILE")
      ->group("Calibration");
  verb.add_option(
          "--statistics", arguments.statistics,
          "statistics of `pare calibrate` instead of data: faster, but blocks do not see the errors of "
          "earlier ones")
      ->type_name("FILE")
      ->group("Calibration");
  verb.add_option("--samples", arguments.samples, "windows drawn from the data")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->capture_default_str()
      ->type_name("N")
      ->group("Calibration");
  verb.add_option("--context", arguments.context,
                  "tokens per window (default: 2048, or the model's context if shorter)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->type_name("N")
      ->group("Calibration");
  verb.add_option("--bos", arguments.bos,
                  "BOS at the start of each window: auto (as the tokenizer does), always, never")
      ->check(CLI::IsMember({"auto", "always", "never"}))
      ->capture_default_str()
      ->type_name("POLICY")
      ->group("Calibration");
  verb.add_option("--chat-template", arguments.chat_template, "named template for `messages`")
      ->capture_default_str()
      ->type_name("NAME")
      ->group("Calibration");
  verb.add_flag("--parse-special", arguments.parse_special, "let messages hold the text of special tokens")
      ->group("Calibration");
}

void add_report_options(CLI::App& verb, JobArguments& arguments) {
  verb.add_option("--report-data", arguments.report_data,
                  "text for the damage report (default: more windows of the calibration data)")
      ->type_name("FILE")
      ->group("Report");
  verb.add_option("--report-tokens", arguments.report_tokens, "tokens of the damage report")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->capture_default_str()
      ->type_name("N")
      ->group("Report");
  verb.add_flag("--report", arguments.report,
                "print a line per matrix: its format, bits and error (`pare report OUT` makes a page of all)")
      ->group("Report");
  verb.add_flag("--no-report", arguments.no_report, "do not measure the damage at the end")->group("Report");
  verb.add_flag("--no-speed", arguments.no_speed, "do not measure the speed of both models at the end")
      ->group("Report");
  verb.add_option("--fail-if", arguments.fail_if,
                  "exit 9 when this holds of the report: kl>0.05, top1<0.95, ratio>1.02, delta>0.5")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false)
      ->type_name("EXPR")
      ->group("Report");
}

void add_job_options(CLI::App& verb, JobArguments& arguments) {
  verb.add_option("--work-dir", arguments.work_dir, "folder of the job's state (default: OUT.pare-job)")
      ->type_name("DIR")
      ->group("Job");
  verb.add_flag("--resume", arguments.resume, "continue an interrupted job")->group("Job");
  verb.add_flag("--restart", arguments.restart, "discard an interrupted job and begin anew")->group("Job");
  verb.add_flag("--keep-work", arguments.keep_work, "keep the job's folder at the end")->group("Job");
}

}  // namespace pare::cli
