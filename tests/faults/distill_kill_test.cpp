// F1, F11, F13 on `pare distill`: killed or stopped anywhere, and resumed until it is done, the program
// writes the bytes that it writes undisturbed. PARE_SLOW_TESTS=1 kills it fifty times.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "tests/faults/job_process.h"

namespace pare::test {
namespace {

// Quantization-aware training of the sample model against itself, with a validation, patience and a commit
// after every step.
JobWords fresh_words() {
  return {.command = {"distill",
                      "--teacher",
                      source_path("samples/books-3m"),
                      "--qat",
                      "int4-g64",
                      "--data",
                      source_path("samples/text/sample.txt"),
                      "--context",
                      "32",
                      "--batch",
                      "2",
                      "--steps",
                      "5",
                      "--evaluate-every",
                      "2",
                      "--patience",
                      "9",
                      "--validation-tokens",
                      "64",
                      "--checkpoint-every",
                      "1",
                      "--report-tokens",
                      "64",
                      "--no-speed"},
          .output = temporary_folder() + "/out.pare"};
}

const std::string& expected_bytes() {
  static const std::string bytes = [] {
    const JobWords words = fresh_words();
    const CommandResult result = pare(words.list());
    EXPECT_EQ(result.exit_code, 0) << result.error;
    EXPECT_FALSE(fs::exists(words.job()));
    return read_bytes(words.output);
  }();
  return bytes;
}

TEST(DistillKill, AtRandomMoments) {
  // Commits: one for each step, validations between, the last one, that of the output.
  kill_at_random_moments<JobWords>(
      fresh_words, [](const JobWords& words) { return words.stages(10); }, expected_bytes(), 43,
      std::getenv("PARE_SLOW_TESTS") != nullptr ? 50 : 4, 3,
      [](const JobWords& words) { EXPECT_TRUE(fs::exists(words.output + ".log.jsonl")); });
}

TEST(DistillKill, AStopSignalIsExit75AndThePrintedCommandContinues) {
  stop_and_run_what_is_printed(fresh_words(), expected_bytes());
}

TEST(DistillKill, OtherOptionsAreRefusedByName) {
  expect_identity(fresh_words(), {{{"--loss", "jsd"}, "options.loss.kind"},
                                  {{"--temperature", "2"}, "options.loss.temperature"},
                                  {{"--lr", "0.001"}, "options.learning_rate.peak"},
                                  {{"--schedule", "linear"}, "options.learning_rate.shape"},
                                  {{"--weight-decay", "0"}, "options.optimizer.decay"},
                                  {{"--keep-masks", "on"}, "options.keep_masks"},
                                  {{"--qat-activations", "dynamic"}, "options.qat_activations"},
                                  {{"--seed", "7"}, "seed"},
                                  {{"--no-shuffle"}, "calibration.hash"},
                                  {{"--cpu-profile", "generic"}, "arithmetic"}});
}

// What was decided by time is not decided again.
TEST(DistillKill, ARunByTimeKeepsItsNumberOfSteps) {
  const JobWords words = fresh_words();
  std::vector<std::string> list = words.list();
  for (size_t i = 0; i < list.size(); ++i) {
    if (list[i] == "--steps") list[i] = "--minutes", list[i + 1] = "0.1";
    if (list[i] == "--patience") list[i + 1] = "0";
  }
  const pid_t child = start_pare(list);
  wait_for_file(words.job() + "/gen-3.json", child);
  ::kill(child, SIGKILL);
  if (ended(child) == 0) GTEST_SKIP() << "it was faster";
  const std::string committed = read_bytes(words.job() + "/gen-3.json");
  const size_t place = committed.find("\"steps\":");
  ASSERT_NE(place, std::string::npos);
  const std::string steps = committed.substr(place, committed.find(',', place) - place);
  list.push_back("--resume");
  list.push_back("--json");
  const CommandResult result = pare(list);
  ASSERT_EQ(result.exit_code, 0) << result.error;
  std::string said = result.out;
  said.erase(std::remove(said.begin(), said.end(), ' '), said.end());
  EXPECT_NE(said.find(steps), std::string::npos) << steps;
}

}  // namespace
}  // namespace pare::test
