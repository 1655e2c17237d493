// Training as a step of `pare compress`: prune, distil and quantize as one job with one report.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/core/json.h"
#include "tests/faults/quantize_process.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Words = std::vector<std::string>;

constexpr const char* kRecipe =
    "schema: 1\nseed: 3\nsamples: 6\ncontext: 64\nsteps:\n"
    "  - prune: {structure: \"layers,mlp\", layers: 3, intermediate: 480, multiple: 32, keep-first: 1, "
    "keep-last: 1}\n"
    "  - distill: {steps: 4, batch: 4, lr: 1e-4, evaluate-every: 2}\n"
    "  - quantize: {method: gptq, scheme: int4-g64}\n";

class CompressTraining : public testing::Test {
 protected:
  std::string recipe(const std::string& content) {
    write_bytes(folder_ + "/r.yaml", content);
    return folder_ + "/r.yaml";
  }
  Words words(const std::string& recipe, const std::string& out, const Words& more = {}) {
    Words list = {"compress",
                  source_path("samples/books-3m"),
                  "--recipe",
                  recipe,
                  "--data",
                  source_path("samples/text/sample.txt"),
                  "-o",
                  out,
                  "--report-tokens",
                  "128",
                  "--no-speed"};
    list.insert(list.end(), more.begin(), more.end());
    return list;
  }
  Json report_of(const std::string& out) {
    auto json = parse_json(read_bytes(out + ".report.json"), "report", {.max_bytes = 1u << 24});
    EXPECT_TRUE(json.has_value());
    return json ? *json : Json::object();
  }
  // Numbers of the steps in a log, in its order.
  static std::vector<int64_t> logged_steps(const std::string& path) {
    std::vector<int64_t> steps;
    std::istringstream in(read_bytes(path));
    for (std::string line; std::getline(in, line);) {
      const auto json = parse_json(line, path, {.max_bytes = 1u << 20});
      EXPECT_TRUE(json.has_value()) << line;
      if (json && json->find("event")->as_string() == "step") steps.push_back(json->find("step")->as_int());
    }
    return steps;
  }
  std::string folder_ = temporary_folder(), out_ = folder_ + "/out.pare";
};

TEST_F(CompressTraining, OneJobOneReportAndTheSameBytesAgain) {
  const CommandResult result = pare(words(recipe(kRecipe), out_));
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out, HasSubstr("step 2 of 3: distill"));
  EXPECT_THAT(result.out, HasSubstr("held-out part of the data"));
  EXPECT_FALSE(fs::exists(out_ + ".pare-job"));
  EXPECT_THAT(logged_steps(out_ + ".log.jsonl"), ElementsAre(0, 1, 2, 3));
  const Json report = report_of(out_);
  ASSERT_NE(report.find("training"), nullptr);
  EXPECT_EQ(report.find("training")->find("steps")->as_int(), 4);
  EXPECT_EQ(report.find("training")->find("loss_name")->as_string(), "kl")
      << "the student was cut from MODEL";
  EXPECT_EQ(report.find("training")->find("validation")->size(), 3u);
  EXPECT_LT(report.find("training")->find("loss")->items()[3][1].as_double(),
            report.find("training")->find("loss")->items()[0][1].as_double());
  const CommandResult page = pare({"report", out_, "--text"});
  EXPECT_THAT(page.out, HasSubstr("Held-out perplexity, before and after"));

  const CommandResult again = pare({"inspect", out_, "--recipe"});
  ASSERT_EQ(again.exit_code, 0) << again.error;
  const CommandResult replayed = pare(words(recipe(again.out), folder_ + "/out2.pare"));
  ASSERT_EQ(replayed.exit_code, 0) << replayed.error;
  EXPECT_TRUE(read_bytes(out_) == read_bytes(folder_ + "/out2.pare"));
}

TEST_F(CompressTraining, StoppedWithinTheTrainingAndContinued) {
  const std::string slow =
      "schema: 1\nseed: 3\ncontext: 64\nsteps:\n  - finetune: {steps: 60, batch: 4, lr: 1e-4}\n"
      "  - quantize: {scheme: int8-ch}\n";
  ASSERT_EQ(pare(words(recipe(slow), folder_ + "/whole.pare")).exit_code, 0);
  const pid_t child = start_pare(words(recipe(slow), out_), folder_ + "/messages");
  const std::string log = out_ + ".pare-job/parts/1.pare.pare-job/train.jsonl";
  ASSERT_TRUE(wait_for_file(log, child));
  for (int waits = 0; waits < 20'000 && read_bytes(log).find("\"step\":7,") == std::string::npos; ++waits)
    ::usleep(1000);
  ::kill(child, SIGTERM);
  ASSERT_EQ(ended(child), 75) << read_bytes(folder_ + "/messages");
  const std::vector<int64_t> before = logged_steps(log);
  EXPECT_LT(before.size(), 60u);
  EXPECT_GE(before.size(), 8u);
  const CommandResult resumed = pare(words(recipe(slow), out_, {"--resume"}));
  ASSERT_EQ(resumed.exit_code, 0) << resumed.error;
  EXPECT_TRUE(read_bytes(out_) == read_bytes(folder_ + "/whole.pare"));
  const std::vector<int64_t> steps = logged_steps(out_ + ".log.jsonl");
  ASSERT_EQ(steps.size(), 60u);
  for (size_t i = 0; i < steps.size(); ++i) EXPECT_EQ(steps[i], int64_t(i));
  EXPECT_THAT(read_bytes(out_ + ".log.jsonl"),
              HasSubstr("\"first_step\":" + std::to_string(before.size()) + ","))
      << "where it went on";
  EXPECT_EQ(report_of(out_).find("training")->find("steps")->as_int(), 60);
}

TEST_F(CompressTraining, Errors) {
  const auto refused = [&](const std::string& step, int code, const std::string& words_of_error,
                           const Words& more = {}) {
    const std::string path = recipe("schema: 1\ncontext: 64\nsteps:\n  - " + step + "\n");
    const CommandResult result = pare(words(path, out_, more));
    EXPECT_EQ(result.exit_code, code) << result.error;
    EXPECT_EQ(result.error_lines(), 1) << result.error;
    EXPECT_THAT(result.error, HasSubstr(words_of_error));
    EXPECT_FALSE(fs::exists(out_));
  };
  refused("distill: {minutes: 1}", 3, "4:24: minutes: how far a machine gets in that time is no recipe");
  refused("distill: {batch: 4}", 3, "steps: give --steps N or --minutes M");
  refused("distill: {steps: 2, teacher: other}", 3, "unknown key");
  refused("distill: {steps: 2, loss: l2}", 3, "loss: not accepted");
  refused("finetune: {steps: 2, loss: kl}", 3, "unknown key");
  refused("finetune: {steps: 2}", 2, "--teacher: no step of the recipe has a teacher",
          {"--teacher", source_path("samples/books-3m")});
  refused("quantize: {scheme: int8-ch}\n  - distill: {steps: 2}", 4,
          "already quantized when this step would begin");
  write_bytes(out_ + ".log.jsonl", "my notes");
  refused("finetune: {steps: 2}", 2, "output exists; --force replaces it");
  EXPECT_EQ(read_bytes(out_ + ".log.jsonl"), "my notes");
}

// With --qat the plan knows what the training will leave.
TEST_F(CompressTraining, DryRunPlansTheStepsBehind) {
  const std::string path = recipe("schema: 1\ncontext: 64\nsteps:\n  - distill: {steps: 2, qat: int4-g64}\n");
  const CommandResult result = pare(words(path, out_, {"--dry-run"}));
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out, HasSubstr("as int4-g64-sym will see them, from the teacher"));
  EXPECT_THAT(result.out, HasSubstr("6.6 MB -> 2.5 MB"));
  EXPECT_FALSE(fs::exists(out_ + ".pare-job"));
}

}  // namespace
}  // namespace pare::test
