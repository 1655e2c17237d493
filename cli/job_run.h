// cli/job_run.h: the course of every command that compresses a model as a job: folder and identity, blocks,
// output, damage report. The commands differ in what a JobCommand says.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "calibrate/block_job.h"
#include "cli/job_calibration.h"
#include "cli/job_finish.h"

namespace pare::cli {

class JobCommand {
 public:
  virtual ~JobCommand() = default;
  virtual std::string name() const = 0;  // "quantize"
  virtual Json options() const = 0;      // that decide the bytes of the output, defaults filled in; no paths
  virtual BlockJob& job() = 0;           // with source and model set
  virtual uint64_t expected_bytes() const = 0;                    // of the weights in the output
  virtual uint64_t peak_memory_bytes(int64_t context) const = 0;  // beyond what is resident already
  virtual void print_plan(int64_t context) const = 0;             // --dry-run
  // Before the first block: choices that the job commits (block_job.h), or reads back when resumed.
  virtual Status decide(JobFolder& folder) {
    static_cast<void>(folder);
    return {};
  }
  virtual Result<BlockJobResult> run(JobFolder& folder) = 0;
  // The output from what the job has stored; its manifest as stored.
  virtual Result<Manifest> write(JobFolder& folder, Manifest manifest) = 0;
  // Bytes before and after, and what else the report needs; the manifest is there.
  virtual void describe(FinishedJob& done) = 0;
  virtual void print(const FinishedJob& done) const = 0;

  std::chrono::steady_clock::time_point started() const { return start_; }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// Exit 9 when a gate holds; 75 with the command that continues.
Result<Exit> run_job(const JobArguments& arguments, const CommonOptions& common, JobCommand& command,
                     Calibration calibration, std::vector<Gate> gates);

// For JobCommand::write: the output's checksum is committed before it appears.
Result<Manifest> write_output(const std::function<Status(WeightSink& sink, Manifest& manifest)>& fill,
                              WeightSink& sink, JobFolder& folder, Manifest manifest);

}  // namespace pare::cli
