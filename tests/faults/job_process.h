// tests/faults/job_process.h: `pare` as a process that a test stops where it wants, and what every job owes
// then.
#pragma once

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "engine/core/random.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {

namespace fs = std::filesystem;

inline std::string read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

// A command line that writes `output` as a job.
struct JobWords {
  std::vector<std::string> command;  // without -o
  std::string output;

  std::vector<std::string> list() const { return with({"-o", output}).command; }
  JobWords with(const std::vector<std::string>& words) const {
    JobWords result = *this;
    result.command.insert(result.command.end(), words.begin(), words.end());
    return result;
  }
  std::string job() const { return output + ".pare-job"; }
  // What a person does after a kill.
  std::vector<std::string> next() const {
    return fs::exists(job() + "/job.json") ? with({"--resume"}).list() : list();
  }
  // The beginning of the job, its commits 1 to `commits`, and its output.
  std::vector<std::string> stages(int commits) const {
    std::vector<std::string> files = {job() + "/job.json"};
    for (int i = 1; i <= commits; ++i) files.push_back(job() + "/gen-" + std::to_string(i) + ".json");
    files.push_back(output);
    return files;
  }
};

// Starts without waiting; messages go to `log`. `ignores_hangup`: as under nohup.
inline pid_t start_pare(const std::vector<std::string>& arguments, const std::string& log = "/dev/null",
                        bool ignores_hangup = false) {
  std::vector<std::string> words = {binary_folder() + "/pare"};
  if (ignores_hangup) words = {"/bin/sh", "-c", "trap '' HUP; exec \"$0\" \"$@\"", binary_folder() + "/pare"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                     0666);
  pid_t child = -1;
  EXPECT_EQ(::posix_spawn(&child, pointers[0], &actions, nullptr, pointers.data(), environ), 0);
  ::posix_spawn_file_actions_destroy(&actions);
  return child;
}

// Exit code, or 128 + signal.
inline int ended(pid_t child) {
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Until the file is there, or the process is gone (false).
inline bool wait_for_file(const std::string& path, pid_t child) {
  siginfo_t info{};
  while (!fs::exists(path)) {
    info.si_pid = 0;
    if (::waitid(P_PID, id_t(child), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != 0)
      return fs::exists(path);
    ::usleep(300);
  }
  return true;
}

// F1: a job that is killed up to `tries` times, each soon after one of files(words) appeared, and then
// continued, ends as check(words) wants it; its output is never torn. Words: list(), next(), job(), output.
template <typename Words>
void kill_at_random_moments(const std::function<Words()>& fresh,
                            const std::function<std::vector<std::string>(const Words&)>& files,
                            const std::string& expected, uint64_t seed, int wanted, uint64_t tries,
                            const std::function<void(const Words&)>& check) {
  const Random random(seed, RandomPurpose::test_data);
  uint64_t draw = 0;
  ASSERT_FALSE(expected.empty());
  for (int kills = 0; kills < wanted;) {
    const Words words = fresh();
    for (uint64_t times = 1 + random.below(tries, draw++); times > 0; --times) {
      const std::vector<std::string> stages = files(words);
      const std::string file = stages[random.below(stages.size(), draw++)];
      const pid_t child = start_pare(words.next());
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
      const CommandResult result = pare(words.next());
      ASSERT_EQ(result.exit_code, 0) << result.error;
    }
    // A kill within the removal of the job may leave its empty folder.
    if (fs::exists(words.job())) {
      EXPECT_FALSE(fs::exists(words.job() + "/job.json"));
      fs::remove_all(words.job());
    }
    EXPECT_TRUE(read_bytes(words.output) == expected) << "other bytes";
    EXPECT_TRUE(fs::exists(words.output + ".report.json"));
    ASSERT_NO_FATAL_FAILURE(check(words));
    fs::remove_all(fs::path(words.output).parent_path());
  }
}

// F11: SIGTERM after the second commit is exit 75, and the printed command, run by a shell, ends in the same
// bytes.
inline void stop_and_run_what_is_printed(const JobWords& words, const std::string& expected) {
  const std::string log = fs::path(words.output).parent_path() / "out.pare.log";
  const pid_t child = start_pare(words.list(), log);
  ASSERT_TRUE(wait_for_file(words.job() + "/gen-2.json", child));
  ASSERT_EQ(::kill(child, SIGTERM), 0);
  ASSERT_EQ(ended(child), 75) << read_bytes(log);
  EXPECT_FALSE(fs::exists(words.output));
  const std::string line = read_bytes(log), verb = "pare " + words.command.front() + " ";
  ASSERT_THAT(line, testing::HasSubstr("interrupted; to continue: " + verb));
  const std::string command = line.substr(line.find(verb));
  ASSERT_EQ(std::system(("PATH=" + binary_folder() + ":$PATH " + command.substr(0, command.size() - 1) +
                         " > /dev/null")
                            .c_str()),
            0)
      << command;
  EXPECT_TRUE(read_bytes(words.output) == expected);
}

// F13: --resume with other options is exit 8 naming the field of the identity, and changes nothing.
// mutations: options and the field that each is refused for.
inline void expect_identity(const JobWords& words,
                            const std::vector<std::pair<std::vector<std::string>, std::string>>& mutations) {
  const pid_t child = start_pare(words.list());
  wait_for_file(words.job() + "/gen-2.json", child);
  ::kill(child, SIGKILL);
  if (ended(child) == 0) GTEST_SKIP() << "it was faster";
  for (const auto& [more, field] : mutations) {
    fs::remove(words.job() + "/lock");
    const std::string before = folder_fingerprint(words.job());
    const CommandResult result = pare(words.with({"--resume"}).with(more).list());
    EXPECT_EQ(result.exit_code, 8) << field << result.error;
    EXPECT_THAT(result.error, testing::HasSubstr("identity: " + field));
    EXPECT_EQ(folder_fingerprint(words.job()), before) << field;
  }
}

}  // namespace pare::test
