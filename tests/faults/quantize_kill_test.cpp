// F1, F11, F13 on `pare quantize`: killed or stopped anywhere, and resumed until it is done, the program
// writes the bytes that it writes undisturbed. PARE_SLOW_TESTS=1 kills it more than fifty times.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "engine/core/random.h"
#include "tests/faults/quantize_process.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

bool is_slow() {
  return std::getenv("PARE_SLOW_TESTS") != nullptr;
}

QuantizeWords fresh_words() {
  QuantizeWords words;
  words.output = temporary_folder() + "/out.pare";
  return words;
}

const std::string& expected_bytes() {
  static const std::string bytes = [] {
    const QuantizeWords words = fresh_words();
    const CommandResult result = pare(words.list());
    EXPECT_EQ(result.exit_code, 0) << result.error;
    EXPECT_FALSE(fs::exists(words.job()));
    return read_bytes(words.output);
  }();
  return bytes;
}

void expect_done(const QuantizeWords& words) {
  EXPECT_TRUE(read_bytes(words.output) == expected_bytes()) << "other bytes";
  EXPECT_FALSE(fs::exists(words.job()));
  EXPECT_TRUE(fs::exists(words.output + ".report.json"));
  for (const auto& entry : fs::directory_iterator(fs::path(words.output).parent_path())) {
    const std::string name = entry.path().filename().string();
    // A process killed just after the output appeared leaves the file of its lock, which the next one
    // that writes this output removes; nothing else may stay.
    const bool is_lock = name.starts_with(".pare-tmp-") && name.ends_with("-lock") && entry.file_size() < 32;
    EXPECT_TRUE(name.starts_with("out.pare") || is_lock) << entry.path();
  }
}

TEST(QuantizeKill, AtRandomMoments) {
  // Before or after a commit, the fifth being that of the output; or once the output is there.
  kill_at_random_moments<QuantizeWords>(
      fresh_words,
      [](const QuantizeWords& words) {
        return JobWords{{}, words.output}.stages(5);
      },
      expected_bytes(), 40, is_slow() ? 60 : 8, 4, expect_done);
}

// The output has appeared, and the process died before it could record that.
TEST(QuantizeKill, BetweenTheOutputAndItsRecord) {
  const QuantizeWords words = fresh_words();
  ASSERT_EQ(pare(words.with({"--keep-work"}).list()).exit_code, 0);
  ASSERT_TRUE(fs::remove(words.job() + "/CURRENT"));  // holds the record
  const fs::file_time_type written = fs::last_write_time(words.output);
  const CommandResult result = pare(words.with({"--resume"}).list());
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out, HasSubstr("28 gptq"));
  EXPECT_EQ(fs::last_write_time(words.output), written) << "written again";
  expect_done(words);
}

TEST(QuantizeKill, BetweenTheRecordAndTheRemovalOfTheJob) {
  const QuantizeWords words = fresh_words();
  ASSERT_EQ(pare(words.with({"--keep-work"}).list()).exit_code, 0);
  EXPECT_TRUE(fs::exists(words.job() + "/job.json"));
  // In the middle of the removal, too: commits and objects go first.
  for (const auto& entry : fs::directory_iterator(words.job()))
    if (entry.path().filename().string().rfind("gen-", 0) == 0) fs::remove(entry.path());
  ASSERT_EQ(pare(words.with({"--resume", "--keep-work"}).list()).exit_code, 0);
  EXPECT_TRUE(fs::exists(words.job() + "/job.json"));
  const CommandResult result = pare(words.with({"--resume"}).list());
  ASSERT_EQ(result.exit_code, 0) << result.error;
  expect_done(words);
}

// What lies under the name of the output is only taken for the job's own when it is.
TEST(QuantizeKill, AnotherFileUnderTheNameOfTheOutput) {
  const QuantizeWords words = fresh_words();
  ASSERT_EQ(run_and_kill(words, 4), 128 + SIGKILL);
  if (fs::exists(words.output)) GTEST_SKIP() << "the kill came after the output";
  write_bytes(words.output, "something else");
  CommandResult result = pare(words.with({"--resume"}).list());
  EXPECT_EQ(result.exit_code, 2) << result.error;
  EXPECT_THAT(result.error, HasSubstr("out.pare: "));
  EXPECT_EQ(read_bytes(words.output), "something else");
  result = pare(words.with({"--resume", "--force"}).list());
  ASSERT_EQ(result.exit_code, 0) << result.error;
  expect_done(words);

  // The output of a finished job that was replaced or removed is not made up for in silence.
  ASSERT_EQ(pare(words.with({"--force", "--keep-work"}).list()).exit_code, 0);
  std::string damaged = read_bytes(words.output);
  damaged[damaged.size() / 2] = char(damaged[damaged.size() / 2] ^ 1);
  write_bytes(words.output, damaged);
  EXPECT_EQ(pare(words.with({"--resume"}).list()).exit_code, 3);
  fs::remove(words.output);
  result = pare(words.with({"--resume"}).list());
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.error, HasSubstr("--restart"));
  ASSERT_EQ(pare(words.with({"--restart"}).list()).exit_code, 0);
  expect_done(words);
}

TEST(QuantizeKill, AFolderOfSafetensorsIsKnownAgain) {
  QuantizeWords words = fresh_words();
  words.output = temporary_folder() + "/out";
  ASSERT_EQ(pare(words.with({"--keep-work"}).list()).exit_code, 0);
  const std::string whole = folder_fingerprint(words.output);
  ASSERT_TRUE(fs::remove(words.job() + "/CURRENT"));
  ASSERT_EQ(pare(words.with({"--resume", "--keep-work"}).list()).exit_code, 0);
  EXPECT_EQ(folder_fingerprint(words.output), whole);
  // Gone before the record: written again, the same.
  ASSERT_TRUE(fs::remove(words.job() + "/CURRENT"));
  fs::remove_all(words.output);
  const CommandResult result = pare(words.with({"--resume"}).list());
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_EQ(folder_fingerprint(words.output), whole);
}

// The first signal ends the block, which is committed, and the line says how to go on.
TEST(QuantizeKill, StopSignalsAreExit75AndResumable) {
  const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
  for (int round = 0; round < 3; ++round) {
    SCOPED_TRACE(round);
    const QuantizeWords words = fresh_words();
    const std::string log = fs::path(words.output).parent_path() / "out.pare.log";
    const pid_t child = start_pare(words.list(), log);
    ASSERT_TRUE(wait_for_file(words.job() + (round == 0 ? "/job.json" : "/gen-1.json"), child));
    ASSERT_EQ(::kill(child, numbers[round]), 0);
    ASSERT_EQ(ended(child), 75) << read_bytes(log);
    EXPECT_FALSE(fs::exists(words.output));
    EXPECT_FALSE(fs::exists(words.job() + "/lock"));
    const std::string line = read_bytes(log);
    const std::string mark = "interrupted; to continue: pare quantize ";
    ASSERT_THAT(line, HasSubstr(mark));
    EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
    // The printed command, by a shell.
    const std::string command = line.substr(line.find("pare quantize"));
    EXPECT_THAT(command, HasSubstr("--resume"));
    ASSERT_EQ(std::system(("PATH=" + binary_folder() + ":$PATH " + command.substr(0, command.size() - 1) +
                           " > /dev/null")
                              .c_str()),
              0)
        << command;
    expect_done(words);
  }
}

TEST(QuantizeKill, SecondSignalEndsItAtOnce) {
  const QuantizeWords words = fresh_words().with({"--quiet"});
  const pid_t child = start_pare(words.list());
  ASSERT_TRUE(wait_for_file(words.job() + "/job.json", child));
  // Stopped while both arrive, so that no block can end between them.
  ASSERT_EQ(::kill(child, SIGSTOP), 0);
  ASSERT_EQ(::kill(child, SIGINT), 0);
  ASSERT_EQ(::kill(child, SIGTERM), 0);
  ASSERT_EQ(::kill(child, SIGCONT), 0);
  ASSERT_EQ(ended(child), 130);
  EXPECT_FALSE(fs::exists(words.output));
  ASSERT_EQ(pare(words.next()).exit_code, 0);
  expect_done(words);
}

TEST(QuantizeKill, IgnoredHangupStaysIgnored) {
  const QuantizeWords words = fresh_words();
  const pid_t child = start_pare(words.list(), "/dev/null", /*ignores_hangup=*/true);
  ASSERT_TRUE(wait_for_file(words.job() + "/job.json", child));
  ASSERT_EQ(::kill(child, SIGHUP), 0);
  ASSERT_EQ(ended(child), 0);
  expect_done(words);
}

// RL10: whoever comes second is told so, in every mode.
TEST(QuantizeKill, ALivingProcessHoldsTheJob) {
  const QuantizeWords words = fresh_words();
  const pid_t child = start_pare(words.list());
  ASSERT_TRUE(wait_for_file(words.job() + "/gen-1.json", child));
  ASSERT_EQ(::kill(child, SIGSTOP), 0);
  for (const char* mode : {"--resume", "--restart", ""}) {
    const CommandResult second = pare(*mode != 0 ? words.with({mode}).list() : words.list());
    EXPECT_EQ(second.exit_code, 8) << mode << second.error;
    EXPECT_THAT(second.error, HasSubstr("another process holds this job (got pid " + std::to_string(child)));
  }
  ASSERT_EQ(::kill(child, SIGCONT), 0);
  ASSERT_EQ(ended(child), 0);
  expect_done(words);
}

}  // namespace
}  // namespace pare::test
