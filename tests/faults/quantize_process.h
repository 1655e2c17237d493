// tests/faults/quantize_process.h: `pare quantize` as a process that a test stops where it wants.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

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

// A GPTQ job on the sample model that takes about a second.
struct QuantizeWords {
  std::string model = source_path("samples/books-3m"), data = source_path("samples/text/sample.txt");
  std::string output;
  std::vector<std::string> more{};

  std::vector<std::string> list() const {
    std::vector<std::string> words = {"quantize",        model, "--method",  "gptq", "--scheme",  "int4-g64",
                                      "--data",          data,  "--samples", "6",    "--context", "64",
                                      "--report-tokens", "64",  "-o",        output};
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  QuantizeWords with(const std::vector<std::string>& words) const {
    QuantizeWords result = *this;
    result.more.insert(result.more.end(), words.begin(), words.end());
    return result;
  }
  std::string job() const { return output + ".pare-job"; }
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

// Runs until the n-th commit (0: the beginning of the job), then kills.
inline int run_and_kill(const QuantizeWords& words, int commits) {
  const pid_t child = start_pare(words.list());
  const std::string file = commits == 0 ? "/job.json" : "/gen-" + std::to_string(commits) + ".json";
  wait_for_file(words.job() + file, child);
  ::kill(child, SIGKILL);
  return ended(child);
}

}  // namespace pare::test
