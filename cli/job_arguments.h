// cli/job_arguments.h: the options that every command has which makes a smaller model as a job: what it
// reads, what it calibrates on, how it is resumed, and the report at the end.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/output_model.h"

namespace pare::cli {

struct JobArguments {
  std::string model;
  OutputOptions output;
  bool dry_run = false;
  // Calibration.
  std::string data, statistics;
  int64_t samples = 128, context = 0;
  std::string bos = "auto", chat_template = "default";
  bool parse_special = false;
  // The report.
  std::string report_data;
  int64_t report_tokens = 4096;
  bool no_report = false, report = false;  // report: a line per matrix
  std::vector<std::string> fail_if;
  bool no_speed = false;  // of commands that measure it
  // The job.
  std::string work_dir;
  bool resume = false, restart = false, keep_work = false;
};

void add_model_options(CLI::App& verb, JobArguments& arguments);  // MODEL, -o, --dry-run, --force
void add_data_options(CLI::App& verb, JobArguments& arguments);
void add_report_options(CLI::App& verb, JobArguments& arguments);
void add_job_options(CLI::App& verb, JobArguments& arguments);

// Options that contradict each other: exit 2 (CL13).
Status check_job_arguments(const JobArguments& arguments);
// Without data there is one pass and no job: exit 2 for options of one.
Status check_no_job(const JobArguments& arguments);
Error contradiction(const std::string& option, const std::string& what, const std::string& got);

}  // namespace pare::cli
