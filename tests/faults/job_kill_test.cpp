// F1, F2, F11, F13, F23 on JobFolder: a job that is killed or interrupted anywhere, and resumed until it is
// done, writes the bytes that it writes undisturbed. PARE_SLOW_TESTS=1 runs more rounds and every call.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "engine/core/job_folder.h"
#include "engine/core/random.h"
#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

namespace fs = std::filesystem;

bool is_slow() {
  return std::getenv("PARE_SLOW_TESTS") != nullptr;
}

// Its messages go to `log`, or nowhere.
pid_t start_job(const std::string& mode, const std::string& output, int step_milliseconds, int64_t kill_at,
                const std::string& log = "/dev/null") {
  std::string arguments[] = {PARE_FAULTS_JOB, mode, output, std::to_string(step_milliseconds),
                             std::to_string(kill_at)};
  char* pointers[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(),
                      arguments[3].data(), arguments[4].data(), nullptr};
  posix_spawn_file_actions_t actions;
  ::posix_spawn_file_actions_init(&actions);
  ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC,
                                     0666);
  pid_t child = -1;
  EXPECT_EQ(::posix_spawn(&child, pointers[0], &actions, nullptr, pointers, environ), 0);
  ::posix_spawn_file_actions_destroy(&actions);
  return child;
}

int wait_for(pid_t child) {
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

// Exit code, or -1 when it died of a signal.
int run_job(const std::string& mode, const std::string& output, int64_t kill_at = -1,
            const std::string& log = "/dev/null") {
  const int status = wait_for(start_job(mode, output, 0, kill_at, log));
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

std::string expected_output() {
  static const std::string text = [] {
    const std::string output = test::memory_folder() + "/out";
    EXPECT_EQ(run_job("fresh", output), 0);
    return test::slurp(output);
  }();
  return text;
}

class JobKill : public ::testing::Test {
 protected:
  // What a person does after a kill: --resume, and when there is nothing to resume and no output, once more
  // from the start.
  void finish(const std::string& output) {
    const std::string log = output + ".log";
    const int code = run_job("resume", output, -1, log);
    if (code == 8) {
      ASSERT_NE(test::slurp(log).find("no job to resume"), std::string::npos) << test::slurp(log);
      if (!fs::exists(output)) {
        ASSERT_EQ(run_job("fresh", output, -1, log), 0) << test::slurp(log);
      }
    } else {
      ASSERT_EQ(code, 0) << test::slurp(log);
    }
    fs::remove(log);
    ASSERT_TRUE(test::slurp(output) == expected_output()) << "other bytes";
  }

  void check_whole(const std::string& output) {
    ASSERT_TRUE(!fs::exists(output) || test::slurp(output) == expected_output()) << "torn";
  }
};

TEST_F(JobKill, UndisturbedJobLeavesItsOutputOnly) {
  const std::string folder = test::temporary_folder(), output = folder + "/out";
  ASSERT_EQ(run_job("fresh", output), 0);
  EXPECT_EQ(test::names_in(folder), std::set<std::string>{"out"});
  EXPECT_EQ(test::slurp(output).size(), 240'000u);
  EXPECT_TRUE(test::slurp(output) == expected_output());
}

TEST_F(JobKill, AtRandomTimes) {
  const Random random(20, RandomPurpose::test_data);
  const uint64_t rounds = is_slow() ? 200 : 20;
  uint64_t draw = 0;
  int kills = 0;
  for (uint64_t round = 0; round < rounds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const std::string folder = test::temporary_folder(), output = folder + "/out";
    std::string mode = "fresh";
    for (uint64_t times = 1 + random.below(4, draw++); times > 0; --times) {
      const pid_t child = start_job(mode, output, 5, -1);
      ::usleep(static_cast<useconds_t>(random.below(60'000, draw++)));
      ::kill(child, SIGKILL);
      kills += WIFSIGNALED(wait_for(child)) ? 1 : 0;
      ASSERT_NO_FATAL_FAILURE(check_whole(output));
      // job.json is what makes it a job; before it there is nothing to resume.
      mode = fs::exists(job_path_of(output) + "/job.json") ? "resume" : "fresh";
      if (mode == "fresh" && fs::exists(output)) break;
    }
    ASSERT_NO_FATAL_FAILURE(finish(output));
    ASSERT_FALSE(fs::exists(job_path_of(output) + "/job.json"));
    fs::remove_all(folder);
  }
  EXPECT_GT(kills, static_cast<int>(rounds) / 2);
}

TEST_F(JobKill, BeforeEverySystemCall) {
  const int64_t step = is_slow() ? 1 : 5;
  int64_t k = 0;
  for (bool killed = true; killed; k += step) {
    SCOPED_TRACE("call " + std::to_string(k));
    const std::string folder = test::memory_folder(), output = folder + "/out";
    killed = run_job("fresh", output, k) == -1;
    ASSERT_NO_FATAL_FAILURE(check_whole(output));
    if (killed) {
      ASSERT_NO_FATAL_FAILURE(finish(output));
    }
    ASSERT_TRUE(test::slurp(output) == expected_output());
    fs::remove_all(folder);
  }
  EXPECT_GT(k, 300);
}

// F23: killed again while resuming, at every call of the resume, from three places of the job.
TEST_F(JobKill, BeforeEverySystemCallOfAResume) {
  const int64_t step = is_slow() ? 1 : 11;
  for (const int64_t first_kill : {150, 300, 480}) {
    const std::string stopped = test::memory_folder();
    ASSERT_EQ(run_job("fresh", stopped + "/out", first_kill), -1);
    int64_t k = 0;
    for (bool killed = true; killed; k += step) {
      SCOPED_TRACE(std::to_string(first_kill) + ", then call " + std::to_string(k));
      const std::string folder = test::memory_folder(), output = folder + "/out";
      fs::copy(stopped, folder, fs::copy_options::recursive);
      killed = run_job("resume", output, k) == -1;
      ASSERT_NO_FATAL_FAILURE(check_whole(output));
      if (killed) {
        ASSERT_NO_FATAL_FAILURE(finish(output));
      }
      ASSERT_TRUE(test::slurp(output) == expected_output());
      fs::remove_all(folder);
    }
    EXPECT_GT(k, 30);
  }
}

void wait_until_exists(const std::string& path, pid_t child) {
  int status = 0;
  while (!fs::exists(path) && ::waitpid(child, &status, WNOHANG) == 0) ::usleep(1000);
}

// F11: the first signal lets the unit end, is committed, and leaves a job that continues with equal bytes.
TEST_F(JobKill, StopSignalsAreExit75AndResumable) {
  const Random random(21, RandomPurpose::test_data);
  const int numbers[] = {SIGTERM, SIGINT, SIGHUP};
  const uint64_t rounds = is_slow() ? 50 : 6;
  for (uint64_t round = 0; round < rounds; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const std::string output = test::temporary_folder() + "/out", job = job_path_of(output);
    // Steps long enough for the signal to meet one, on a busy machine too.
    const std::string log = output + ".log";
    const pid_t child = start_job("fresh", output, 300, -1, log);
    wait_until_exists(job + "/job.json", child);
    ::usleep(static_cast<useconds_t>(random.below(250'000, round)));
    ASSERT_EQ(::kill(child, numbers[round % 3]), 0);
    const int status = wait_for(child);
    ASSERT_TRUE(WIFEXITED(status)) << "died of a signal";
    ASSERT_EQ(WEXITSTATUS(status), 75) << test::slurp(log);
    EXPECT_EQ(test::slurp(log),
              "pare: error: " + job + ": interrupted; --resume continues from the last commit\n");
    EXPECT_FALSE(fs::exists(output));
    EXPECT_TRUE(fs::exists(job + "/gen-1.json") || fs::exists(job + "/gen-2.json") ||
                fs::exists(job + "/gen-3.json") || fs::exists(job + "/gen-4.json"));
    EXPECT_FALSE(fs::exists(job + "/lock"));
    ASSERT_NO_FATAL_FAILURE(finish(output));
  }
}

TEST_F(JobKill, SecondSignalEndsItAtOnce) {
  const std::string output = test::temporary_folder() + "/out";
  const pid_t child = start_job("fresh", output, 60'000, -1);  // never gets through a step
  wait_until_exists(job_path_of(output) + "/job.json", child);
  ASSERT_EQ(::kill(child, SIGINT), 0);
  ::usleep(10'000);
  ASSERT_EQ(::kill(child, SIGTERM), 0);
  const int status = wait_for(child);
  // The two may be delivered together with the second first, which is 130 as well.
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 130);
  ASSERT_NO_FATAL_FAILURE(finish(output));
}

// RL10: a living process holds the job, a dead one does not.
TEST_F(JobKill, LockOfALivingProcessHoldsThatOfADeadOneDoesNot) {
  const std::string output = test::temporary_folder() + "/out", job = job_path_of(output);
  const pid_t child = start_job("fresh", output, 60'000, -1);
  wait_until_exists(job + "/job.json", child);
  for (const JobMode mode : {JobMode::fresh, JobMode::resume, JobMode::restart}) {
    const auto second = JobFolder::open(job, mode);
    ASSERT_FALSE(second);
    EXPECT_EQ(second.error().exit, Exit::locked);
    EXPECT_EQ(second.error().rule, "RL10");
    EXPECT_EQ(second.error().got, "pid " + std::to_string(child));
  }
  for (const char* mode : {"resume", "restart", "fresh"}) EXPECT_EQ(run_job(mode, output), 8) << mode;
  ::kill(child, SIGKILL);
  wait_for(child);
  EXPECT_TRUE(fs::exists(job + "/lock")) << "left by the dead process";
  ASSERT_NO_FATAL_FAILURE(finish(output));
  EXPECT_FALSE(fs::exists(job));
}

// F13: one wins, the others are told so; never mixed bytes.
TEST_F(JobKill, ManyJobsOnOneOutput) {
  const uint64_t rounds = is_slow() ? 20 : 3;
  for (uint64_t round = 0; round < rounds; ++round) {
    const std::string output = test::temporary_folder() + "/out";
    std::vector<pid_t> children;
    for (int i = 0; i < 6; ++i) children.push_back(start_job("fresh", output, 20, -1));
    int winners = 0;
    for (const pid_t child : children) {
      const int status = wait_for(child);
      ASSERT_TRUE(WIFEXITED(status));
      winners += WEXITSTATUS(status) == 0 ? 1 : 0;
      // 2 is for one that starts when the output is there already.
      EXPECT_TRUE(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 8 || WEXITSTATUS(status) == 2)
          << WEXITSTATUS(status);
    }
    EXPECT_EQ(winners, 1);
    EXPECT_TRUE(test::slurp(output) == expected_output());
    EXPECT_FALSE(fs::exists(job_path_of(output)));
  }
}

TEST_F(JobKill, RestartBeginsAgain) {
  const std::string output = test::memory_folder() + "/out";
  ASSERT_EQ(run_job("fresh", output, 300), -1);
  EXPECT_EQ(run_job("fresh", output), 8) << "CL16";
  ASSERT_EQ(run_job("restart", output), 0);
  EXPECT_TRUE(test::slurp(output) == expected_output());
}

}  // namespace
}  // namespace pare
