#include "cli/training_log.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <limits>
#include <utility>

#include "cli/training_log_file.h"
#include "cli/training_log_sinks.h"
#include "engine/backends/cpu/multiply_add_peak.h"
#include "engine/core/file.h"
#include "engine/core/parallel.h"

namespace pare::cli {
namespace {

using Clock = std::chrono::steady_clock;

// Speeds are those of the last steps, so that they follow a machine that slows down.
constexpr size_t kRatedSteps = 20;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

}  // namespace

struct TrainingLog::State {
  Status tell(const std::function<Status(TrainingSink&)>& what) {
    for (const auto& sink : sinks) PARE_CHECK(what(*sink));
    return {};
  }
  TrainingRate rate_after(const StepReport& report);

  std::vector<std::unique_ptr<TrainingSink>> sinks;
  TrainingStart start;
  std::string path;  // of train.jsonl; empty: no such log
  Clock::time_point began = Clock::now();
  Clock::time_point mark = began;                 // end of the last step or validation
  std::deque<std::pair<double, int64_t>> last{};  // (seconds, input tokens) of the last steps
  TrainingRate rate{};
};

TrainingRate TrainingLog::State::rate_after(const StepReport& report) {
  const Clock::time_point now = Clock::now();
  rate.seconds = seconds_between(began, now);
  rate.step_seconds = seconds_between(std::exchange(mark, now), now);
  last.emplace_back(rate.step_seconds, report.input_tokens);
  if (last.size() > kRatedSteps) last.pop_front();
  double seconds = 0.0, tokens = 0.0;
  for (const auto& [of_step, count] : last) {
    seconds += of_step;
    tokens += double(count);
  }
  rate.tokens_per_second = seconds > 0.0 ? tokens / seconds : 0.0;
  if (start.peak_flops > 0.0)
    rate.peak_share = flops_per_token(start) * rate.tokens_per_second / (start.peak_flops * start.ranks);
  rate.remaining.reset();
  if (start.steps > 0)
    rate.remaining =
        double(std::max<int64_t>(0, start.steps - report.step - 1)) * seconds / double(last.size());
  if (start.minutes > 0.0) {
    const double until_limit = std::max(0.0, 60.0 * start.minutes - rate.seconds);
    rate.remaining = std::min(until_limit, rate.remaining.value_or(until_limit));
  }
  return rate;
}

TrainingLog::TrainingLog() : state_(std::make_unique<State>()) {}
TrainingLog::TrainingLog(TrainingLog&&) noexcept = default;
TrainingLog& TrainingLog::operator=(TrainingLog&&) noexcept = default;
TrainingLog::~TrainingLog() = default;

TrainingLog TrainingLog::silent() {
  return TrainingLog();
}

Result<TrainingLog> TrainingLog::of(std::vector<std::unique_ptr<TrainingSink>> sinks,
                                    const TrainingStart& start) {
  TrainingLog log;
  log.state_->sinks = std::move(sinks);
  log.state_->start = start;
  PARE_CHECK(log.state_->tell([&](TrainingSink& sink) { return sink.start(start); }));
  return log;
}

Result<TrainingLog> TrainingLog::open(const JobFolder& folder, const TrainingLogOptions& options,
                                      const TrainingStart& start) {
  const std::string path = folder.training_log_path();
  PARE_TRY(const uint64_t kept, log_bytes_until(path, start.generation));
  PARE_TRY(AppendFile file, AppendFile::open(path));
  PARE_CHECK(file.truncate(kept));
  std::vector<std::unique_ptr<TrainingSink>> sinks;
  sinks.push_back(json_lines_sink(std::move(file)));
  if (!options.tensorboard.empty()) {
    PARE_TRY(EventFile events, EventFile::create(options.tensorboard, wall_time()));
    sinks.push_back(tensorboard_sink(std::move(events)));
  }
  sinks.push_back(progress_sink());
  PARE_TRY(TrainingLog log, of(std::move(sinks), start));
  log.state_->path = path;
  return log;
}

Status TrainingLog::step(const StepReport& report) {
  if (state_->sinks.empty()) return {};
  const TrainingRate rate = state_->rate_after(report);
  return state_->tell([&](TrainingSink& sink) { return sink.step(report, rate); });
}

Status TrainingLog::validation(const TrainingValidation& validation) {
  state_->mark = Clock::now();  // its time is none of the next step
  return state_->tell([&](TrainingSink& sink) { return sink.validation(validation); });
}

Status TrainingLog::checkpoint(int64_t step, int64_t generation) {
  state_->mark = Clock::now();
  return state_->tell([&](TrainingSink& sink) { return sink.checkpoint(step, generation); });
}

Status TrainingLog::end(const TrainingEnd& end) {
  state_->rate.seconds = seconds_between(state_->began, Clock::now());
  return state_->tell([&](TrainingSink& sink) { return sink.end(end, state_->rate); });
}

Status TrainingLog::publish(const std::string& output, bool force) const {
  return state_->path.empty() ? Status() : publish_training_log(state_->path, output, force);
}

Status publish_training_log(const std::string& path, const std::string& output, bool force) {
  PARE_TRY(const InputFile file, InputFile::open(path));
  const std::string target = training_log_path(output);
  PARE_TRY(FileWriter writer, FileWriter::create(target, {.force = force || is_training_log(target)}));
  std::vector<std::byte> chunk(size_t(1) << 20);
  for (uint64_t at = 0; at < file.size();) {
    const size_t count = size_t(std::min<uint64_t>(chunk.size(), file.size() - at));
    PARE_CHECK(file.read_at(at, std::span(chunk).first(count)));
    PARE_CHECK(writer.write(std::span<const std::byte>(chunk).first(count)));
    at += count;
  }
  return writer.publish();
}

Result<std::optional<TrainingCurve>> TrainingLog::curve() const {
  if (state_->path.empty()) return std::optional<TrainingCurve>();
  PARE_TRY(TrainingCurve curve, read_training_curve(state_->path));
  return std::optional<TrainingCurve>(std::move(curve));
}

std::string training_log_path(const std::string& output) {
  std::string path = output;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path + ".log.jsonl";
}

Status check_training_log_target(const std::string& output, bool force) {
  const std::string path = training_log_path(output);
  return check_output(path, {.force = force || is_training_log(path)});
}

double flops_per_token(const TrainingStart& start) {
  return (start.recomputes ? 8.0 : 6.0) * double(start.student_parameters) +
         2.0 * double(start.teacher_parameters);
}

double measured_peak_flops() {
  constexpr int64_t kSteps = 100'000;
  constexpr double kSeconds = 0.05;
  const Clock::time_point began = Clock::now();
  double best = std::numeric_limits<double>::infinity();  // seconds: others only make it slower
  do {
    const Clock::time_point before = Clock::now();
    parallel_for(thread_count(), [](int64_t) { cpu::run_multiply_adds(kSteps); });
    best = std::min(best, seconds_between(before, Clock::now()));
  } while (seconds_between(began, Clock::now()) < kSeconds);
  return cpu::multiply_add_operations(kSteps) * thread_count() / best;
}

}  // namespace pare::cli
