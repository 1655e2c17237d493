// cli/training_log.h: what a training run tells people and tools while it runs: a line on the terminal, JSON
// lines in the job folder, TensorBoard events. Only the first rank has sinks; on others every call does
// nothing.
//
//   PARE_TRY(TrainingLog log, TrainingLog::open(folder, options, start));     // after JobFolder::start()
//   while (...) {
//     PARE_TRY(const StepReport report, trainer->step());
//     PARE_CHECK(log.step(report));
//     now and then: PARE_CHECK(log.validation({...}));
//     now and then: PARE_CHECK(log.checkpoint(trainer->step_number(), folder.generation() + 1));
//                   PARE_CHECK(folder.commit(...));
//   }
//   PARE_CHECK(log.end({...}));
//   after the output is published: PARE_CHECK(log.publish(output, force)); run_report.training = log.curve();
//
// The checkpoint is logged before the commit that it announces. So a resumed run knows the place in
// train.jsonl that belongs to the generation it continues from: it drops the lines behind, and the log has
// each step once. Times are in logs only, never in what is identified or hashed. A log that cannot be written
// ends the run with exit 5: the job is as good as its last commit, and --resume continues it.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "distill/trainer.h"
#include "engine/core/job_folder.h"
#include "engine/core/json.h"
#include "engine/core/result.h"
#include "evaluate/training_curve.h"

namespace pare::cli {

struct TrainingStart {
  std::string command;            // "distill", "finetune"
  Json options = Json::object();  // as in the identity of the job; no paths
  int64_t steps = 0;              // planned; 0: not known, as with --minutes
  double minutes = 0.0;           // limit of the whole run; 0: none
  int64_t first_step = 0;         // the next step's number; > 0: resumed
  int64_t generation = 0;         // of the commit that is continued; 0: none
  int64_t student_parameters =
      0;  // that multiply: without an embedding that is only looked up, without norms
  int64_t teacher_parameters = 0;  // likewise; 0: no teacher runs (a cache, or cross entropy alone)
  bool recomputes = false;         // activations are computed again in the backward pass
  int ranks = 1;
  double peak_flops = 0.0;  // of one rank: measured_peak_flops(); 0: not measured, and no share is shown
};

struct TrainingValidation {
  int64_t step = 0;              // steps taken before it
  double cross_entropy = 0.0;    // nats per token
  std::optional<double> loss{};  // that is trained with
  int64_t tokens = 0;
  std::vector<std::pair<std::string, double>> metrics{};  // others: {"kl_divergence", 0.1}
};

struct TrainingEnd {
  int64_t step = 0;    // steps taken in all
  std::string reason;  // "done", "interrupted", "time", "early stop", "failed"
  std::string detail;  // of failed: the error line
};

// Speed and place of a run after a step, measured by TrainingLog over the steps of this process.
struct TrainingRate {
  double seconds = 0.0;               // since open()
  double step_seconds = 0.0;          // of this step, without validation
  double tokens_per_second = 0.0;     // input tokens of all ranks, over the last steps
  double peak_share = 0.0;            // of peak_flops of all ranks; 0: not known
  std::optional<double> remaining{};  // seconds; by steps or by the limit of time, whichever ends first
};

// One way to tell. Exit 5.
class TrainingSink {
 public:
  virtual ~TrainingSink() = default;
  virtual Status start(const TrainingStart& start) = 0;
  virtual Status step(const StepReport& report, const TrainingRate& rate) = 0;
  virtual Status validation(const TrainingValidation& validation) = 0;
  virtual Status checkpoint(int64_t step, int64_t generation) = 0;
  virtual Status end(const TrainingEnd& end, const TrainingRate& rate) = 0;
};

struct TrainingLogOptions {
  std::string tensorboard;  // folder for event files, made if it is missing; empty: none
};

class TrainingLog {
 public:
  // folder: of the job, already started; its train.jsonl is cut to the generation that is continued. Exit 5.
  static Result<TrainingLog> open(const JobFolder& folder, const TrainingLogOptions& options,
                                  const TrainingStart& start);
  // Says nothing: of ranks other than the first.
  static TrainingLog silent();
  // Says it to these alone; for tests.
  static Result<TrainingLog> of(std::vector<std::unique_ptr<TrainingSink>> sinks, const TrainingStart& start);
  TrainingLog(TrainingLog&&) noexcept;
  TrainingLog& operator=(TrainingLog&&) noexcept;
  ~TrainingLog();

  Status step(const StepReport& report);
  Status validation(const TrainingValidation& validation);
  Status checkpoint(int64_t step, int64_t generation);
  Status end(const TrainingEnd& end);

  // Writes `<output>.log.jsonl`, the lines of the whole run; replaces an older log, anything else only with
  // `force`. The folder must still be there. Exit 2, 5.
  Status publish(const std::string& output, bool force) const;
  // Of the whole run, resumes included, for the report. Nothing on other ranks. Exit 3, 5.
  Result<std::optional<TrainingCurve>> curve() const;

 private:
  TrainingLog();
  struct State;
  std::unique_ptr<State> state_;
};

// "out.pare" -> "out.pare.log.jsonl"; slashes at the end of a folder's name are dropped.
std::string training_log_path(const std::string& output);

// Copies a log to `<output>.log.jsonl`; replaces as publish() does. Exit 2, 5.
Status publish_training_log(const std::string& path, const std::string& output, bool force);

// Before the work: may publish() write its file? Exit 2 (CL02), 5.
Status check_training_log_target(const std::string& output, bool force);

// Floating-point operations for one input token: 6 per parameter of the student, 8 where activations are
// computed twice, and 2 per parameter of a teacher that runs. Products of attention scores are left out.
double flops_per_token(const TrainingStart& start);

// Multiply-adds of f32 that the threads of this process do in a second (two operations each), on registers
// alone: what no training step can exceed. Takes about 50 ms.
double measured_peak_flops();

}  // namespace pare::cli
