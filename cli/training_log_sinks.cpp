#include "cli/training_log_sinks.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "engine/core/log.h"
#include "engine/core/progress.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

// --- for people ----------------------------------------------------------------------------------------

class ProgressSink final : public TrainingSink {
 public:
  Status start(const TrainingStart& start) override {
    start_ = start;
    return {};
  }

  Status step(const StepReport& report, const TrainingRate& rate) override {
    if (line_.is_visible()) {
      line_.show([&] { return progress_text(start_, report, rate, validation_); });
      return {};
    }
    // Twenty lines of a run, and one every half minute of a long one.
    const bool is_due = rate.seconds - last_message_ >= 30.0 ||
                        report.step - last_step_ >= std::max<int64_t>(1, start_.steps / 20);
    if (!is_due || log_level() < LogLevel::info) return {};
    last_message_ = rate.seconds;
    last_step_ = report.step;
    log_info(progress_text(start_, report, rate, validation_));
    return {};
  }

  Status validation(const TrainingValidation& validation) override {
    validation_ = validation;
    log_info(fmt::format("{}  step {}  held-out cross entropy {:.4f}, perplexity {:.4f}", start_.command,
                         validation.step, validation.cross_entropy, std::exp(validation.cross_entropy)));
    return {};
  }

  Status checkpoint(int64_t step, int64_t generation) override {
    log_debug(fmt::format("{}  step {}  checkpoint {}", start_.command, step, generation));
    return {};
  }

  Status end(const TrainingEnd& end, const TrainingRate& rate) override {
    line_.finish();
    log_info(fmt::format("{}  ended after step {} and {}: {}", start_.command, end.step,
                         format_duration(rate.seconds), end.reason));
    return {};
  }

 private:
  TrainingStart start_;
  std::optional<TrainingValidation> validation_;
  StatusLine line_;
  double last_message_ = -1e9;
  int64_t last_step_ = 0;
};

// --- for tools -----------------------------------------------------------------------------------------

class JsonLinesSink final : public TrainingSink {
 public:
  explicit JsonLinesSink(AppendFile file) : file_(std::move(file)) {}

  Status start(const TrainingStart& start) override {
    Json line = event("start");
    line["time"] = format_utc(int64_t(wall_time()));
    line["command"] = start.command;
    line["first_step"] = Json(start.first_step);
    line["generation"] = Json(start.generation);
    if (start.steps > 0) line["steps"] = Json(start.steps);
    if (start.minutes > 0.0) line["minutes"] = start.minutes;
    line["ranks"] = start.ranks;
    line["student_parameters"] = Json(start.student_parameters);
    line["teacher_parameters"] = Json(start.teacher_parameters);
    line["flops_per_token"] = flops_per_token(start);
    if (start.peak_flops > 0.0) line["peak_flops"] = start.peak_flops * start.ranks;
    line["options"] = start.options;
    return write(line);
  }

  Status step(const StepReport& report, const TrainingRate& rate) override {
    Json line = event("step");
    line["step"] = Json(report.step);
    line["loss"] = report.loss;
    line["cross_entropy"] = report.cross_entropy;
    line["divergence"] = report.divergence;
    line["intermediate"] = report.intermediate;
    line["lr"] = report.lr;
    line["gradient_norm"] = report.gradient_norm;
    line["loss_scale"] = report.loss_scale;
    line["tokens"] = Json(report.tokens);
    line["input_tokens"] = Json(report.input_tokens);
    line["skipped"] = report.skipped;
    line["seconds"] = rate.step_seconds;
    line["tokens_per_second"] = rate.tokens_per_second;
    if (rate.peak_share > 0.0) line["peak_share"] = rate.peak_share;
    return write(line);
  }

  Status validation(const TrainingValidation& validation) override {
    Json line = event("validation");
    line["step"] = Json(validation.step);
    line["cross_entropy"] = validation.cross_entropy;
    line["perplexity"] = std::exp(validation.cross_entropy);
    if (validation.loss) line["loss"] = *validation.loss;
    line["tokens"] = Json(validation.tokens);
    Json metrics = Json::object();
    for (const auto& [name, value] : validation.metrics) metrics[name] = value;
    if (!validation.metrics.empty()) line["metrics"] = std::move(metrics);
    return write(line);
  }

  Status checkpoint(int64_t step, int64_t generation) override {
    Json line = event("checkpoint");
    line["step"] = Json(step);
    line["generation"] = Json(generation);
    line["time"] = format_utc(int64_t(wall_time()));
    return write(line);
  }

  Status end(const TrainingEnd& end, const TrainingRate& rate) override {
    Json line = event("end");
    line["step"] = Json(end.step);
    line["reason"] = end.reason;
    if (!end.detail.empty()) line["detail"] = end.detail;
    line["seconds"] = rate.seconds;
    line["time"] = format_utc(int64_t(wall_time()));
    return write(line);
  }

 private:
  static Json event(const char* name) {
    Json line = Json::object();
    line["event"] = name;
    return line;
  }
  Status write(const Json& line) { return file_.append(line.dump() + "\n"); }
  AppendFile file_;
};

class TensorBoardSink final : public TrainingSink {
 public:
  explicit TensorBoardSink(EventFile file) : file_(std::move(file)) {}

  Status start(const TrainingStart& start) override {
    // Steps that were taken, but not committed, come again: from 0 where nothing was.
    PARE_CHECK(file_.session_start(wall_time(), start.first_step));
    // Indented text is shown as it stands.
    std::string text;
    for (const auto& [name, value] : start.options.members())
      text += fmt::format("    {}: {}\n", name, value.is_string() ? value.as_string() : value.dump());
    return file_.text(wall_time(), start.first_step, "options", text);
  }

  Status step(const StepReport& report, const TrainingRate& rate) override {
    std::vector<Scalar> scalars = {{"loss", report.loss}, {"cross_entropy", report.cross_entropy}};
    if (report.divergence != 0.0) scalars.emplace_back("divergence", report.divergence);
    if (report.intermediate != 0.0) scalars.emplace_back("intermediate", report.intermediate);
    scalars.emplace_back("lr", report.lr);
    scalars.emplace_back("gradient_norm", report.gradient_norm);
    if (report.loss_scale != 1.0) scalars.emplace_back("loss_scale", report.loss_scale);
    scalars.emplace_back("tokens_per_second", rate.tokens_per_second);
    if (rate.peak_share > 0.0) scalars.emplace_back("peak_share", rate.peak_share);
    return file_.scalars(wall_time(), report.step, scalars);
  }

  Status validation(const TrainingValidation& validation) override {
    std::vector<Scalar> scalars = {{"validation/cross_entropy", validation.cross_entropy},
                                   {"validation/perplexity", std::exp(validation.cross_entropy)}};
    if (validation.loss) scalars.emplace_back("validation/loss", *validation.loss);
    for (const auto& [name, value] : validation.metrics) scalars.emplace_back("validation/" + name, value);
    return file_.scalars(wall_time(), validation.step, scalars);
  }

  Status checkpoint(int64_t, int64_t) override { return {}; }
  Status end(const TrainingEnd&, const TrainingRate&) override { return {}; }

 private:
  EventFile file_;
};

}  // namespace

std::unique_ptr<TrainingSink> progress_sink() {
  return std::make_unique<ProgressSink>();
}
std::unique_ptr<TrainingSink> json_lines_sink(AppendFile file) {
  return std::make_unique<JsonLinesSink>(std::move(file));
}
std::unique_ptr<TrainingSink> tensorboard_sink(EventFile file) {
  return std::make_unique<TensorBoardSink>(std::move(file));
}

std::string progress_text(const TrainingStart& start, const StepReport& report, const TrainingRate& rate,
                          const std::optional<TrainingValidation>& validation) {
  const int64_t done = report.step + 1;
  std::string text = start.command;
  if (start.steps > 0) {
    text +=
        fmt::format("  {}% {}/{} steps", std::min<int64_t>(100, done * 100 / start.steps), done, start.steps);
  } else {
    text += fmt::format("  step {}", done);
  }
  text += fmt::format("  loss {:.4f}", report.loss);
  if (report.divergence != 0.0)
    text += fmt::format("  CE {:.4f}  divergence {:.4f}", report.cross_entropy, report.divergence);
  if (validation) text += fmt::format("  held out {:.4f}", validation->cross_entropy);
  text += fmt::format("  lr {:.3g}  {:.0f} tokens/s", report.lr, rate.tokens_per_second);
  if (rate.peak_share > 0.0) text += fmt::format("  {:.0f}% of peak", 100.0 * rate.peak_share);
  if (report.skipped) text += "  skipped";
  if (rate.remaining && *rate.remaining > 0.0)
    text += fmt::format("  {} left", format_duration(*rate.remaining));
  return text;
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace pare::cli
