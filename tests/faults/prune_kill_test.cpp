// F1, F11, F13 on `pare prune`: killed or stopped anywhere, and resumed until it is done, the program writes
// the bytes that it writes undisturbed. PARE_SLOW_TESTS=1 kills it more than fifty times.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "engine/core/random.h"
#include "tests/faults/quantize_process.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

using Words = std::vector<std::string>;
const Words kSparseGpt = {"--method", "sparsegpt", "--allocation", "owl"};
const Words kTaylor = {"--method", "taylor", "--allocation", "global"};

// A job on the sample model that decides sparsities before its first block.
struct PruneWords {
  std::string output;
  Words method = kSparseGpt;
  std::vector<std::string> more{};

  std::vector<std::string> list() const {
    std::vector<std::string> words = {"prune",
                                      source_path("samples/books-3m"),
                                      "--sparsity",
                                      "0.5",
                                      "--data",
                                      source_path("samples/text/sample.txt"),
                                      "--samples",
                                      "6",
                                      "--context",
                                      "64",
                                      "--report-tokens",
                                      "64",
                                      "--no-speed",
                                      "-o",
                                      output};
    words.insert(words.end(), method.begin(), method.end());
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  PruneWords with(const std::vector<std::string>& words) const {
    PruneWords result = *this;
    result.more.insert(result.more.end(), words.begin(), words.end());
    return result;
  }
  std::string job() const { return output + ".pare-job"; }
};

PruneWords fresh_words(const Words& method = kSparseGpt) {
  return {.output = temporary_folder() + "/out.pare", .method = method};
}

std::string undisturbed_bytes(const Words& method) {
  const PruneWords words = fresh_words(method);
  const CommandResult result = pare(words.list());
  EXPECT_EQ(result.exit_code, 0) << result.error;
  EXPECT_FALSE(fs::exists(words.job()));
  return read_bytes(words.output);
}

const std::string& expected_bytes() {
  static const std::string bytes = undisturbed_bytes(kSparseGpt);
  return bytes;
}

std::vector<std::string> next_words(const PruneWords& words) {
  return fs::exists(words.job() + "/job.json") ? words.with({"--resume"}).list() : words.list();
}

void kill_at_random_moments(const Words& method, const std::string& expected, uint64_t seed, int wanted) {
  const Random random(seed, RandomPurpose::test_data);
  uint64_t draw = 0;
  int kills = 0;
  while (kills < wanted) {
    const PruneWords words = fresh_words(method);
    for (uint64_t times = 1 + random.below(3, draw++); times > 0; --times) {
      // The first commit is that of the sparsities, the sixth that of the output.
      const uint64_t stage = random.below(8, draw++);
      const std::string file = stage == 0   ? words.job() + "/job.json"
                               : stage == 7 ? words.output
                                            : words.job() + "/gen-" + std::to_string(stage) + ".json";
      const pid_t child = start_pare(next_words(words));
      wait_for_file(file, child);
      ::usleep(useconds_t(random.below(60'000, draw++)));
      ::kill(child, SIGKILL);
      const int code = ended(child);
      ASSERT_TRUE(code == 128 + SIGKILL || code == 0) << code;
      kills += code == 0 ? 0 : 1;
      ASSERT_TRUE(!fs::exists(words.output) || read_bytes(words.output) == expected) << "torn";
      if (code == 0 || (fs::exists(words.output) && !fs::exists(words.job() + "/job.json"))) break;
    }
    if (fs::exists(words.job() + "/job.json") || !fs::exists(words.output)) {
      const CommandResult result = pare(next_words(words));
      ASSERT_EQ(result.exit_code, 0) << result.error;
    }
    EXPECT_TRUE(read_bytes(words.output) == expected) << "other bytes";
    EXPECT_TRUE(fs::exists(words.output + ".report.json"));
    fs::remove_all(fs::path(words.output).parent_path());
  }
}

bool is_slow() {
  return std::getenv("PARE_SLOW_TESTS") != nullptr;
}

TEST(PruneKill, AtRandomMoments) {
  kill_at_random_moments(kSparseGpt, expected_bytes(), 41, is_slow() ? 55 : 6);
}

// The first commit is that of the gradients.
TEST(PruneKill, AtRandomMomentsOfGradients) {
  kill_at_random_moments(kTaylor, undisturbed_bytes(kTaylor), 43, is_slow() ? 55 : 4);
}

TEST(PruneKill, AStopSignalIsExit75AndThePrintedCommandContinues) {
  const PruneWords words = fresh_words();
  const std::string log = fs::path(words.output).parent_path() / "out.pare.log";
  const pid_t child = start_pare(words.list(), log);
  ASSERT_TRUE(wait_for_file(words.job() + "/gen-2.json", child));
  ASSERT_EQ(::kill(child, SIGTERM), 0);
  ASSERT_EQ(ended(child), 75) << read_bytes(log);
  EXPECT_FALSE(fs::exists(words.output));
  const std::string line = read_bytes(log);
  ASSERT_THAT(line, HasSubstr("interrupted; to continue: pare prune "));
  const std::string command = line.substr(line.find("pare prune"));
  ASSERT_EQ(std::system(("PATH=" + binary_folder() + ":$PATH " + command.substr(0, command.size() - 1) +
                         " > /dev/null")
                            .c_str()),
            0)
      << command;
  EXPECT_TRUE(read_bytes(words.output) == expected_bytes());
}

TEST(PruneKill, OtherOptionsAreRefusedByName) {
  const PruneWords words = fresh_words();
  const pid_t child = start_pare(words.list());
  wait_for_file(words.job() + "/gen-2.json", child);
  ::kill(child, SIGKILL);
  if (ended(child) == 0) GTEST_SKIP() << "it was faster";
  const std::vector<std::pair<std::vector<std::string>, std::string>> mutations = {
      {{"--damping", "0.02"}, "options.damping"},
      {{"--order", "act"}, "options.order"},
      {{"--scope", "row"}, "options.scope"},
      {{"--block-size", "64"}, "options.block"},
      {{"--calibrate", "block"}, "options.calibrate"},
      {{"--owl-lambda", "0.1"}, "options.owl_lambda"},
      {{"--scheme", "int8-ch"}, "options.scheme"},
      {{"--form", "dense"}, "options.form"},
      {{"--exclude", "layers.0.*"}, "options.exclude"},
      {{"--set", "layers.1.*=0.3"}, "options.set"},
      {{"--seed", "7"}, "seed"},
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

}  // namespace
}  // namespace pare::test
