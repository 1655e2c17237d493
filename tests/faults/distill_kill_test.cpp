// F1, F11, F13 on `pare distill`: killed or stopped anywhere, and resumed until it is done, the program
// writes the bytes that it writes undisturbed. PARE_SLOW_TESTS=1 kills it fifty times.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "engine/core/random.h"
#include "tests/faults/quantize_process.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

// Quantization-aware training of the sample model against itself, with a validation, patience and a commit
// after every step.
struct DistillWords {
  std::string output;
  std::vector<std::string> more{};

  std::vector<std::string> list() const {
    std::vector<std::string> words = {"distill",
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
                                      "--no-speed",
                                      "-o",
                                      output};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  DistillWords with(const std::vector<std::string>& words) const {
    DistillWords result = *this;
    result.more.insert(result.more.end(), words.begin(), words.end());
    return result;
  }
  std::string job() const { return output + ".pare-job"; }
};

DistillWords fresh_words() {
  return {.output = temporary_folder() + "/out.pare"};
}

const std::string& expected_bytes() {
  static const std::string bytes = [] {
    const DistillWords words = fresh_words();
    const CommandResult result = pare(words.list());
    EXPECT_EQ(result.exit_code, 0) << result.error;
    EXPECT_FALSE(fs::exists(words.job()));
    return read_bytes(words.output);
  }();
  return bytes;
}

std::vector<std::string> next_words(const DistillWords& words) {
  return fs::exists(words.job() + "/job.json") ? words.with({"--resume"}).list() : words.list();
}

TEST(DistillKill, AtRandomMoments) {
  const Random random(43, RandomPurpose::test_data);
  const int wanted = std::getenv("PARE_SLOW_TESTS") != nullptr ? 50 : 4;
  uint64_t draw = 0;
  int kills = 0;
  ASSERT_FALSE(expected_bytes().empty());
  while (kills < wanted) {
    const DistillWords words = fresh_words();
    for (uint64_t times = 1 + random.below(3, draw++); times > 0; --times) {
      // Commits: one for each step, validations between, the last one, that of the output.
      const uint64_t stage = random.below(12, draw++);
      const std::string file = stage == 0    ? words.job() + "/job.json"
                               : stage == 11 ? words.output
                                             : words.job() + "/gen-" + std::to_string(stage) + ".json";
      const pid_t child = start_pare(next_words(words));
      wait_for_file(file, child);
      ::usleep(useconds_t(random.below(60'000, draw++)));
      ::kill(child, SIGKILL);
      const int code = ended(child);
      ASSERT_TRUE(code == 128 + SIGKILL || code == 0) << code;
      kills += code == 0 ? 0 : 1;
      ASSERT_TRUE(!fs::exists(words.output) || read_bytes(words.output) == expected_bytes()) << "torn";
      if (code == 0 || (fs::exists(words.output) && !fs::exists(words.job() + "/job.json"))) break;
    }
    if (fs::exists(words.job() + "/job.json") || !fs::exists(words.output)) {
      const CommandResult result = pare(next_words(words));
      ASSERT_EQ(result.exit_code, 0) << result.error;
    }
    EXPECT_TRUE(read_bytes(words.output) == expected_bytes()) << "other bytes";
    EXPECT_TRUE(fs::exists(words.output + ".report.json"));
    EXPECT_TRUE(fs::exists(words.output + ".log.jsonl"));
    fs::remove_all(fs::path(words.output).parent_path());
  }
}

TEST(DistillKill, AStopSignalIsExit75AndThePrintedCommandContinues) {
  const DistillWords words = fresh_words();
  const std::string log = fs::path(words.output).parent_path() / "out.pare.log";
  const pid_t child = start_pare(words.list(), log);
  ASSERT_TRUE(wait_for_file(words.job() + "/gen-2.json", child));
  ASSERT_EQ(::kill(child, SIGTERM), 0);
  ASSERT_EQ(ended(child), 75) << read_bytes(log);
  EXPECT_FALSE(fs::exists(words.output));
  const std::string line = read_bytes(log);
  ASSERT_THAT(line, HasSubstr("interrupted; to continue: pare distill "));
  const std::string command = line.substr(line.find("pare distill"));
  ASSERT_EQ(std::system(("PATH=" + binary_folder() + ":$PATH " + command.substr(0, command.size() - 1) +
                         " > /dev/null")
                            .c_str()),
            0)
      << command;
  EXPECT_TRUE(read_bytes(words.output) == expected_bytes());
}

TEST(DistillKill, OtherOptionsAreRefusedByName) {
  const DistillWords words = fresh_words();
  const pid_t child = start_pare(words.list());
  wait_for_file(words.job() + "/gen-2.json", child);
  ::kill(child, SIGKILL);
  if (ended(child) == 0) GTEST_SKIP() << "it was faster";
  const std::vector<std::pair<std::vector<std::string>, std::string>> mutations = {
      {{"--loss", "jsd"}, "options.loss.kind"},
      {{"--temperature", "2"}, "options.loss.temperature"},
      {{"--lr", "0.001"}, "options.learning_rate.peak"},
      {{"--schedule", "linear"}, "options.learning_rate.shape"},
      {{"--weight-decay", "0"}, "options.optimizer.decay"},
      {{"--keep-masks", "on"}, "options.keep_masks"},
      {{"--qat-activations", "dynamic"}, "options.qat_activations"},
      {{"--seed", "7"}, "seed"},
      {{"--no-shuffle"}, "calibration.hash"},
      {{"--cpu-profile", "generic"}, "arithmetic"}};
  for (const auto& [more, field] : mutations) {
    fs::remove(words.job() + "/lock");
    const std::string before = folder_fingerprint(words.job());
    const CommandResult result = pare(words.with({"--resume"}).with(more).list());
    EXPECT_EQ(result.exit_code, 8) << field << result.error;
    EXPECT_THAT(result.error, HasSubstr("identity: " + field));
    EXPECT_EQ(folder_fingerprint(words.job()), before) << field;
  }
}

// What was decided by time is not decided again.
TEST(DistillKill, ARunByTimeKeepsItsNumberOfSteps) {
  const DistillWords words = fresh_words();
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
