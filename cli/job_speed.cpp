#include "cli/job_speed.h"

#include "cli/model_argument.h"
#include "engine/core/text.h"

namespace pare::cli {

Result<JobSpeed> measure_job_speed(const CommonOptions& common,
                                   const std::shared_ptr<const WeightSource>& original,
                                   const std::string& output, const std::function<Status()>& advance) {
  CommonOptions plain = common;
  plain.weights.clear();  // of MODEL
  PARE_TRY(const auto compressed, open_source(output, plain));
  SpeedOptions options;
  options.advance = advance;
  PARE_TRY(options.device, chosen_device(common));
  PARE_TRY(options.memory_limit, memory_limit(common));
  const auto compared = compare_speed(original, compressed, options);
  JobSpeed speed;
  if (compared) {
    speed.speed = *compared;
    return speed;
  }
  const Error& error = compared.error();
  if (error.rule == "CL05") {
    speed.reason = "needs " + error.limit + " for both models, --max-memory allows " + error.got;
    return speed;
  }
  if (error.exit == Exit::unsupported && error.where == "context") {
    speed.reason = "the context of " + error.got + " tokens is too short";
    return speed;
  }
  return error;
}

void print_job_speed(const JobSpeed& speed) {
  if (speed.speed) {
    print_line("  speed: " + speed_line(*speed.speed));
  } else if (!speed.reason.empty()) {
    print_line("  speed not measured: " + speed.reason);
  }
}

}  // namespace pare::cli
