// F1 and F2: kill -9 at random times and before every system call. The final name holds nothing, the old
// bytes or the complete new ones; what is left is removed by the next run.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

#include "engine/core/hash.h"
#include "engine/core/manifest.h"
#include "engine/core/random.h"
#include "tests/engine/core/scratch.h"

namespace pare {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBodyBytes = 64 * (64u << 10);

pid_t start_writer(const std::string& kind, const std::string& path, char letter, int64_t kill_at) {
  std::string program = PARE_FAULTS_WRITER, letters(1, letter), number = std::to_string(kill_at);
  std::string kind_text = kind, path_text = path;
  char* arguments[] = {program.data(), kind_text.data(), path_text.data(),
                       letters.data(), number.data(),    nullptr};
  pid_t child = -1;
  EXPECT_EQ(::posix_spawn(&child, program.c_str(), nullptr, nullptr, arguments, environ), 0);
  return child;
}

int wait_for(pid_t child) {
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return status;
}

// The letter of a complete file, 0 when there is none, '!' when it is torn.
char letter_of(const std::string& path) {
  if (!fs::exists(path)) return 0;
  const std::string text = test::slurp(path);
  if (text.size() != kBodyBytes + 32) return '!';
  const std::string_view body = std::string_view(text).substr(0, kBodyBytes);
  return xxh3_128(body).hex() == text.substr(kBodyBytes) ? text[0] : '!';
}

char letter_of_folder(const std::string& path) {
  if (!fs::exists(path)) return 0;
  if (test::names_in(path) != std::set<std::string>{"a", "b", kManifestFileName}) return '!';
  const char a = letter_of(path + "/a");
  return a == letter_of(path + "/b") ? a : '!';
}

class Kill : public ::testing::TestWithParam<std::string> {
 protected:
  char state(const std::string& path) {
    return GetParam() == "dir" ? letter_of_folder(path) : letter_of(path);
  }

  // After a kill: old or new, nothing foreign beside it, and the next run cleans up.
  void check_and_recover(const std::string& folder, const std::string& path, char before, char written) {
    const char now = state(path);
    ASSERT_TRUE(now == before || now == written) << "torn: " << now;
    for (const std::string& name : test::names_in(folder)) {
      ASSERT_TRUE(name == "out" || is_temporary_name(name)) << name;
    }
    ASSERT_EQ(wait_for(start_writer(GetParam(), path, 'z', -1)), 0);
    ASSERT_EQ(state(path), 'z');
    ASSERT_EQ(test::names_in(folder), std::set<std::string>{"out"});
  }
};

TEST_P(Kill, AtRandomTimes) {
  const std::string folder = test::temporary_folder(), path = folder + "/out";
  const Random random(20, RandomPurpose::test_data);
  char before = 0;
  for (uint64_t round = 0; round < 20; ++round) {
    const char letter = static_cast<char>('a' + round);
    const pid_t child = start_writer(GetParam(), path, letter, -1);
    ::usleep(static_cast<useconds_t>(random.below(30'000, round)));
    ::kill(child, SIGKILL);
    wait_for(child);
    ASSERT_NO_FATAL_FAILURE(check_and_recover(folder, path, before, letter)) << "round " << round;
    before = 'z';
  }
}

TEST_P(Kill, BeforeEverySystemCall) {
  for (const char before : {'\0', 'o'}) {
    int64_t k = 0;
    // A folder repeats the calls of a file for each of its files; every fifth is enough there.
    const int64_t step = GetParam() == "dir" ? 5 : 1;
    for (bool killed = true; killed; k += step) {
      const std::string folder = test::temporary_folder(), path = folder + "/out";
      if (before != 0) {
        ASSERT_EQ(wait_for(start_writer(GetParam(), path, before, -1)), 0);
      }
      const int status = wait_for(start_writer(GetParam(), path, 'n', k));
      killed = WIFSIGNALED(status);
      if (!killed) {
        ASSERT_EQ(status, 0);
        ASSERT_EQ(state(path), 'n');
        break;
      }
      ASSERT_NO_FATAL_FAILURE(check_and_recover(folder, path, before, 'n')) << "call " << k;
      fs::remove_all(folder);
    }
    EXPECT_GT(k, 30);
  }
}

INSTANTIATE_TEST_SUITE_P(Outputs, Kill, ::testing::Values("file", "dir"));

}  // namespace
}  // namespace pare
