// The log of a training run: every step once, whatever was killed and resumed; what each way of telling says.
#include "cli/training_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <sstream>

#include "cli/training_log_sinks.h"
#include "tests/engine/core/scratch.h"

namespace pare::cli {
namespace {

using test::slurp;
using test::spill;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

template <typename T>
T checked(Result<T> result) {
  if (!result) ADD_FAILURE() << format_error(result.error());
  return *std::move(result);
}
void checked(const Status& status) {
  if (!status) ADD_FAILURE() << format_error(status.error());
}

TrainingStart start_of(int64_t steps, int64_t first_step = 0, int64_t generation = 0) {
  TrainingStart start;
  start.command = "distill";
  start.options["loss"] = "kl";
  start.options["lr"] = 0.001;
  start.steps = steps;
  start.first_step = first_step;
  start.generation = generation;
  start.student_parameters = 1000;
  start.teacher_parameters = 500;
  start.peak_flops = 1e9;
  return start;
}

StepReport report_of(int64_t step) {
  StepReport report;
  report.step = step;
  report.loss = 4.0 / double(step + 1);
  report.cross_entropy = 5.0 - 0.125 * double(step);
  report.divergence = report.loss / 2.0;
  report.lr = 0.001;
  report.gradient_norm = 1.5;
  report.tokens = 96;
  report.input_tokens = 100;
  return report;
}

// Lines of a JSON-lines file, parsed.
std::vector<Json> lines_of(const std::string& path) {
  std::vector<Json> lines;
  std::istringstream in(slurp(path));
  for (std::string line; std::getline(in, line);)
    lines.push_back(checked(parse_json(line, path, {.max_bytes = 1 << 20})));
  return lines;
}

// "start step0 step1 checkpoint1 ..."
std::vector<std::string> story_of(const std::vector<Json>& lines) {
  std::vector<std::string> story;
  for (const Json& line : lines) {
    const std::string event = line.find("event")->as_string();
    const Json* number = line.find(event == "checkpoint" ? "generation" : "step");
    story.push_back(event == "start" ? event : event + std::to_string(number->as_int()));
  }
  return story;
}

class TrainingLogTest : public testing::Test {
 protected:
  JobFolder folder(JobMode mode) {
    Json identity = Json::object();
    identity["command"] = "distill";
    return checked(JobFolder::open(path_, identity, mode));
  }
  // Steps [begin, end), each committed where `commits` says so, as a command does it.
  static void run(JobFolder& folder, TrainingLog& log, int64_t begin, int64_t end, int64_t commit_every) {
    for (int64_t step = begin; step < end; ++step) {
      checked(log.step(report_of(step)));
      if ((step + 1) % commit_every != 0) continue;
      checked(log.checkpoint(step + 1, folder.generation() + 1));
      Json position = Json::object();
      position["step"] = Json(step + 1);
      checked(folder.commit(std::move(position), {}));
    }
  }
  std::string parent_ = test::temporary_folder();
  std::string output_ = parent_ + "/out.pare";
  std::string path_ = job_path_of(output_);
};

TEST_F(TrainingLogTest, EachStepOnceAfterAKill) {
  {
    JobFolder job = folder(JobMode::fresh);
    TrainingLog log = checked(TrainingLog::open(job, {}, start_of(10)));
    run(job, log, 0, 5, 2);  // killed after step 4; the last commit is that after step 3
    EXPECT_THAT(
        story_of(lines_of(job.training_log_path())),
        ElementsAre("start", "step0", "step1", "checkpoint1", "step2", "step3", "checkpoint2", "step4"));
    // The kill came in the middle of a line.
    spill(job.training_log_path(), slurp(job.training_log_path()) + R"({"event":"step","st)");
  }
  JobFolder job = folder(JobMode::resume);
  EXPECT_EQ(job.position().find("step")->as_int(), 4);
  TrainingLog log = checked(TrainingLog::open(job, {}, start_of(10, 4, job.generation())));
  run(job, log, 4, 8, 4);
  checked(log.end({.step = 8, .reason = "done", .detail = {}}));
  EXPECT_THAT(story_of(lines_of(job.training_log_path())),
              ElementsAre("start", "step0", "step1", "checkpoint1", "step2", "step3", "checkpoint2", "start",
                          "step4", "step5", "step6", "step7", "checkpoint3", "end8"));
}

// The line of a checkpoint is written before its commit.
TEST_F(TrainingLogTest, ACheckpointThatWasNotCommittedIsForgotten) {
  {
    JobFolder job = folder(JobMode::fresh);
    TrainingLog log = checked(TrainingLog::open(job, {}, start_of(10)));
    run(job, log, 0, 4, 2);
    checked(log.step(report_of(4)));
    checked(log.checkpoint(5, job.generation() + 1));
  }
  JobFolder job = folder(JobMode::resume);
  TrainingLog log = checked(TrainingLog::open(job, {}, start_of(10, 4, job.generation())));
  run(job, log, 4, 6, 2);
  EXPECT_THAT(story_of(lines_of(job.training_log_path())),
              ElementsAre("start", "step0", "step1", "checkpoint1", "step2", "step3", "checkpoint2", "start",
                          "step4", "step5", "checkpoint3"));
}

TEST_F(TrainingLogTest, WithoutACommitItBeginsAnew) {
  {
    JobFolder job = folder(JobMode::fresh);
    TrainingLog log = checked(TrainingLog::open(job, {}, start_of(10)));
    run(job, log, 0, 3, 100);
  }
  JobFolder job = folder(JobMode::resume);
  TrainingLog log = checked(TrainingLog::open(job, {}, start_of(10, 0, job.generation())));
  run(job, log, 0, 1, 100);
  EXPECT_THAT(story_of(lines_of(job.training_log_path())), ElementsAre("start", "step0"));
}

TEST_F(TrainingLogTest, LinesSayWhatHappened) {
  JobFolder job = folder(JobMode::fresh);
  TrainingLog log = checked(TrainingLog::open(job, {}, start_of(2)));
  checked(log.validation(
      {.step = 0, .cross_entropy = 3.5, .loss = 0.75, .tokens = 64, .metrics = {{"kl", 0.5}}}));
  StepReport skipped = report_of(0);
  skipped.skipped = true;
  skipped.loss = std::numeric_limits<double>::infinity();
  checked(log.step(skipped));
  checked(log.step(report_of(0)));
  const std::vector<Json> lines = lines_of(job.training_log_path());
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0].find("command")->as_string(), "distill");
  EXPECT_EQ(lines[0].find("flops_per_token")->as_double(), 6.0 * 1000 + 2.0 * 500);
  EXPECT_EQ(lines[0].find("options")->find("loss")->as_string(), "kl");
  EXPECT_EQ(lines[1].find("cross_entropy")->as_double(), 3.5);
  EXPECT_NEAR(lines[1].find("perplexity")->as_double(), std::exp(3.5), 1e-12);
  EXPECT_EQ(lines[1].find("loss")->as_double(), 0.75);
  EXPECT_EQ(lines[1].find("metrics")->find("kl")->as_double(), 0.5);
  EXPECT_TRUE(lines[2].find("skipped")->as_bool());
  EXPECT_TRUE(lines[2].find("loss")->is_null()) << "JSON has no infinity";
  EXPECT_FALSE(lines[3].find("skipped")->as_bool());
  EXPECT_EQ(lines[3].find("gradient_norm")->as_double(), 1.5);
  EXPECT_EQ(lines[3].find("input_tokens")->as_int(), 100);
}

TEST_F(TrainingLogTest, CurveOfTheWholeRun) {
  {
    JobFolder job = folder(JobMode::fresh);
    TrainingLog log = checked(TrainingLog::open(job, {}, start_of(6)));
    checked(log.validation({.step = 0, .cross_entropy = 5.0}));
    run(job, log, 0, 3, 2);
  }
  JobFolder job = folder(JobMode::resume);
  TrainingLog log = checked(TrainingLog::open(job, {}, start_of(6, 2, job.generation())));
  run(job, log, 2, 6, 2);
  checked(log.validation({.step = 6, .cross_entropy = 4.0}));
  const TrainingCurve curve = *checked(log.curve());
  EXPECT_EQ(curve.command, "distill");
  EXPECT_EQ(curve.loss_name, "kl");
  EXPECT_EQ(curve.steps, 6);
  EXPECT_EQ(curve.input_tokens, 600);
  ASSERT_EQ(curve.loss.size(), 6u);
  for (int64_t step = 0; step < 6; ++step) {
    EXPECT_EQ(curve.loss[size_t(step)], (TrainingPoint{step, report_of(step).loss}));
    EXPECT_EQ(curve.cross_entropy[size_t(step)], (TrainingPoint{step, report_of(step).cross_entropy}));
  }
  EXPECT_NEAR(*curve.perplexity_before(), std::exp(5.0), 1e-9);
  EXPECT_NEAR(*curve.perplexity_after(), std::exp(4.0), 1e-9);
  EXPECT_TRUE(curve.validation_loss.empty());
  EXPECT_GT(curve.seconds, 0.0);
}

TEST_F(TrainingLogTest, PublishedBesideTheOutput) {
  EXPECT_EQ(training_log_path("a/out/"), "a/out.log.jsonl");
  JobFolder job = folder(JobMode::fresh);
  TrainingLog log = checked(TrainingLog::open(job, {}, start_of(2)));
  run(job, log, 0, 2, 2);
  checked(log.publish(output_, false));
  EXPECT_EQ(slurp(output_ + ".log.jsonl"), slurp(job.training_log_path()));
  // A log of before may be replaced, anything else not.
  checked(check_training_log_target(output_, false));
  checked(log.publish(output_, false));
  spill(output_ + ".log.jsonl", "my notes");
  EXPECT_EQ(check_training_log_target(output_, false).error().exit, Exit::usage);
  EXPECT_EQ(log.publish(output_, false).error().exit, Exit::usage);
  EXPECT_EQ(slurp(output_ + ".log.jsonl"), "my notes");
  checked(log.publish(output_, true));
  checked(job.remove());
  EXPECT_EQ(test::names_in(parent_), std::set<std::string>{"out.pare.log.jsonl"});
}

TEST_F(TrainingLogTest, OtherRanksSayNothing) {
  TrainingLog log = TrainingLog::silent();
  checked(log.step(report_of(0)));
  checked(log.validation({}));
  checked(log.checkpoint(1, 1));
  checked(log.end({}));
  checked(log.publish(output_, false));
  EXPECT_FALSE(checked(log.curve()).has_value());
  EXPECT_TRUE(test::names_in(parent_).empty());
}

TEST_F(TrainingLogTest, TensorBoardFolder) {
  JobFolder job = folder(JobMode::fresh);
  TrainingLog log = checked(TrainingLog::open(job, {.tensorboard = parent_ + "/runs"}, start_of(2)));
  checked(log.validation({.step = 0, .cross_entropy = 3.0, .metrics = {{"kl", 0.5}}}));
  run(job, log, 0, 2, 2);
  const std::set<std::string> names = test::names_in(parent_ + "/runs");
  ASSERT_EQ(names.size(), 1u);
  EXPECT_THAT(*names.begin(), testing::StartsWith("events.out.tfevents."));
  const std::string bytes = slurp(parent_ + "/runs/" + *names.begin());
  for (const char* tag : {"brain.Event:2", "loss", "cross_entropy", "divergence", "lr", "gradient_norm",
                          "tokens_per_second", "validation/perplexity", "validation/kl"})
    EXPECT_THAT(bytes, HasSubstr(tag));
}

// Wherever a run goes on, its file says from which step on earlier files do not count.
TEST_F(TrainingLogTest, TensorBoardForgetsWhatComesAgain) {
  JobFolder job = folder(JobMode::fresh);
  for (const int64_t first : {0, 5}) {
    const std::string runs = parent_ + "/runs" + std::to_string(first);
    TrainingLog log = checked(TrainingLog::open(job, {.tensorboard = runs}, start_of(9, first, 0)));
    const std::string bytes = slurp(runs + "/" + *test::names_in(runs).begin());
    // step (field 2, where it is not 0), then session_log (field 7) with status START.
    const std::string step = first == 0 ? "" : std::string("\x10") + char(first);
    EXPECT_THAT(bytes, HasSubstr(step + "\x3a\x02\x08\x01"));
  }
}

TEST_F(TrainingLogTest, AFullDiskEndsTheRun) {
  JobFolder job = folder(JobMode::fresh);
  TrainingLog log = checked(TrainingLog::open(job, {}, start_of(2)));
  const test::FaultScope scope(
      [](std::string_view call, const std::string&) { return call == "write" ? ENOSPC : 0; });
  const Status status = log.step(report_of(0));
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().exit, Exit::io);
  EXPECT_EQ(status.error().path, job.training_log_path());
}

// Keeps what it is told.
struct Listener final : TrainingSink {
  explicit Listener(std::vector<TrainingRate>& out) : rates(out) {}
  Status start(const TrainingStart&) override { return {}; }
  Status step(const StepReport&, const TrainingRate& rate) override {
    rates.push_back(rate);
    return {};
  }
  Status validation(const TrainingValidation&) override { return {}; }
  Status checkpoint(int64_t, int64_t) override { return {}; }
  Status end(const TrainingEnd&, const TrainingRate&) override { return {}; }
  std::vector<TrainingRate>& rates;
};

// Times are measured; what is computed from them must fit together.
TEST(TrainingRate, FitsTogether) {
  std::vector<TrainingRate> rates;
  std::vector<std::unique_ptr<TrainingSink>> sinks;
  sinks.push_back(std::make_unique<Listener>(rates));
  TrainingStart start = start_of(10);
  start.ranks = 2;
  TrainingLog log = checked(TrainingLog::of(std::move(sinks), start));
  for (int64_t step = 0; step < 10; ++step) checked(log.step(report_of(step)));
  ASSERT_EQ(rates.size(), 10u);
  double seconds = 0.0;
  for (size_t i = 0; i < rates.size(); ++i) {
    seconds += rates[i].step_seconds;
    EXPECT_NEAR(rates[i].tokens_per_second * seconds, 100.0 * double(i + 1), 1e-6);
    EXPECT_NEAR(rates[i].peak_share, rates[i].tokens_per_second * 7000.0 / (2.0 * 1e9), 1e-9);
    EXPECT_NEAR(*rates[i].remaining, double(9 - i) * seconds / double(i + 1), 1e-9);
  }
  EXPECT_NEAR(rates.back().seconds, seconds, 1e-3);
}

TEST(ProgressText, SaysWhatIsKnown) {
  StepReport report = report_of(3);
  TrainingRate rate{.seconds = 8.0, .step_seconds = 2.0, .tokens_per_second = 1234.4, .peak_share = 0.613};
  rate.remaining = 72.0;
  EXPECT_EQ(
      progress_text(start_of(10), report, rate, std::nullopt),
      "distill  40% 4/10 steps  loss 1.0000  CE 4.6250  divergence 0.5000  lr 0.001  1234 tokens/s  61% of "
      "peak  1 min 12 s left");
  report.divergence = 0.0;
  report.skipped = true;
  rate.peak_share = 0.0;
  rate.remaining.reset();
  EXPECT_EQ(progress_text(start_of(0), report, rate, TrainingValidation{.step = 2, .cross_entropy = 4.5}),
            "distill  step 4  loss 1.0000  held out 4.5000  lr 0.001  1234 tokens/s  skipped");
}

TEST(FlopsPerToken, CountsRecomputationAndTheTeacher) {
  TrainingStart start = start_of(1);
  EXPECT_EQ(flops_per_token(start), 7000.0);
  start.recomputes = true;
  EXPECT_EQ(flops_per_token(start), 9000.0);
  start.teacher_parameters = 0;
  EXPECT_EQ(flops_per_token(start), 8000.0);
  EXPECT_GT(measured_peak_flops(), 1e8);
}

}  // namespace
}  // namespace pare::cli
