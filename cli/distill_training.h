// cli/distill_training.h: the steps of a training run as a job: decisions, commits, validations, early stop,
// and going on from a commit.
//
// The position of the job: {steps, micro_batch, seconds_per_step, validations: [[step, cross entropy]], best:
// {step, state} or null, ended: "" or why, key (of private training), state: null or the trainer's
// (trainer_state.h), output: the checksum of OUT, committed just before it appears}. What time or memory
// decide (the number of steps of a run by time, a micro-batch that memory has made smaller) is decided once,
// committed before the first step that depends on it, and read back by a run that goes on; so that run gives
// the same bytes.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "cli/distill_data.h"
#include "cli/distill_memory.h"
#include "cli/distill_settings.h"
#include "cli/process_group.h"
#include "cli/training_log.h"
#include "distill/trainer.h"
#include "engine/core/job_folder.h"

namespace pare::cli {

struct ValidationPoint {
  int64_t step = 0;
  double cross_entropy = 0.0;  // nats per token
};

// What the job has committed.
struct TrainingPosition {
  int64_t steps = 0;              // of the whole run; 0: not decided
  int64_t micro_batch = 0;        // 0: not decided
  double seconds_per_step = 0.0;  // measured for a run by time
  uint64_t privacy_key = 0;
  std::vector<ValidationPoint> validations;
  std::optional<int64_t> best_step;
  Json best;          // state of the best validation, where there is patience
  std::string ended;  // "": goes on; "done", "early stop"
  Json state;         // null before the first commit of one
  std::string output;

  Json to_json() const;
  std::vector<Hash128> objects() const;
  int64_t steps_taken() const;  // of the state; 0 without one
};
// Exit 3 for a position of another kind of job; `path` names the folder.
Result<TrainingPosition> read_training_position(const Json& json, const std::string& path);

struct TrainingOutcome {
  int64_t steps = 0;      // taken in all
  int64_t best_step = 0;  // whose weights are kept
  int64_t bad_steps = 0;
  int64_t resumed_at = 0;  // 0: from the beginning
  std::vector<ValidationPoint> validations;
  std::string ended;
  int64_t tokens = 0;  // per step, through the student
};

struct TrainingInput {
  const DistillArguments& arguments;
  const DistillSettings& settings;
  DistillData& data;
  JobFolder* folder;  // of rank 0; null on others
  ProcessGroup& group;
};

// Commits the position.
Status commit_training(JobFolder& folder, const TrainingPosition& position);

// Steps from the position to the end. `trainer` was made with the schedule of position.steps, and is restored
// here when the position has a state; at the end it holds the weights to keep. Exit 75 after a commit, 7
// (NU11).
Result<TrainingOutcome> run_training(const TrainingInput& input, Trainer& trainer, TrainingPosition& position,
                                     TrainingLog& log);

// How many steps a run by time has: some are taken on weights that are thrown away afterwards, and a
// validation is timed where there is data. At most a twentieth of the time goes into it, but at least two
// steps. Also sets position.seconds_per_step. Exit 75, 7.
Result<int64_t> decide_steps(const TrainingInput& input, Trainer& trainer, TrainingPosition& position);

// Steps between validations of a run of this length; 0: none.
int64_t validation_interval(const DistillArguments& arguments, const DistillData& data, int64_t steps);

}  // namespace pare::cli
