// Which job is resumed, where it lies, and what its result does not depend on (docs/jobs.md).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/faults/quantize_process.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

// A job on copies of model and data, stopped after its first block.
class QuantizeResume : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    words_ = new QuantizeWords();
    words_->model = copy_of_sample();
    words_->data = temporary_folder() + "/data.txt";
    fs::copy_file(source_path("samples/text/sample.txt"), words_->data);
    words_->output = temporary_folder() + "/out.pare";
    expected_ = new std::string();
    ASSERT_EQ(pare(words_->list()).exit_code, 0);
    *expected_ = read_bytes(words_->output);
    fs::remove(words_->output);
    // The file of the second commit is there, so the first one is what a resumed job finds at least.
    ASSERT_EQ(run_and_kill(*words_, 2), 128 + SIGKILL);
  }
  static void TearDownTestSuite() {
    delete words_;
    delete expected_;
  }

  // Refused with exit 8 naming `field`, the job untouched.
  static void expect_refused(const QuantizeWords& words, const std::string& field) {
    SCOPED_TRACE(field);
    fs::remove(words.job() + "/lock");  // of the killed process
    const std::string before = folder_fingerprint(words.job());
    const CommandResult result = pare(words.list());
    EXPECT_EQ(result.exit_code, 8) << result.error;
    EXPECT_EQ(result.error_lines(), 1) << result.error;
    EXPECT_THAT(result.error, HasSubstr(words.job() + ": identity: " + field));
    EXPECT_THAT(result.error, HasSubstr("(got "));
    EXPECT_EQ(folder_fingerprint(words.job()), before);
    EXPECT_FALSE(fs::exists(words.output));
  }

  static QuantizeWords* words_;
  static std::string* expected_;
};
QuantizeWords* QuantizeResume::words_ = nullptr;
std::string* QuantizeResume::expected_ = nullptr;

QuantizeWords resumed(const QuantizeWords& words, const std::vector<std::string>& more) {
  return words.with({"--resume"}).with(more);
}

// Another value for an option that the words hold already.
std::vector<std::string> replaced(std::vector<std::string> list, const std::string& option,
                                  const std::string& value) {
  const auto found = std::find(list.begin(), list.end(), option);
  EXPECT_NE(found, list.end()) << option;
  if (found != list.end()) *(found + 1) = value;
  return list;
}

TEST_F(QuantizeResume, OtherOptionsAreRefusedByName) {
  const std::vector<std::pair<std::vector<std::string>, std::string>> mutations = {
      {{"--damping", "0.02"}, "options.damping"},
      {{"--order", "natural"}, "options.order"},
      {{"--groups", "dynamic"}, "options.groups"},
      {{"--block-size", "64"}, "options.block"},
      {{"--clip", "p2.4"}, "options.clip"},
      {{"--inputs", "both"}, "options.inputs"},
      {{"--embedding", "int8-ch"}, "options.embedding"},
      {{"--activations", "dynamic"}, "options.activations"},
      {{"--kv", "int8"}, "options.kv"},
      {{"--clamp"}, "options.clamp"},
      {{"--allow-fallback"}, "options.allow_fallback"},
      {{"--exclude", "layers.0.*"}, "options.exclude"},
      {{"--set", "layers.1.*=int8"}, "options.set"},
      {{"--seed", "7"}, "seed"},
      {{"--cpu-profile", "generic"}, "arithmetic"},
  };
  for (const auto& [words, field] : mutations) {
    expect_refused(resumed(*words_, words), field);
  }
  for (const auto& [option, value, field] : std::vector<std::tuple<std::string, std::string, std::string>>{
           {"--scheme", "int4-g32", "options.scheme"},
           {"--method", "awq+gptq", "options.method"},
           {"--samples", "5", "options.samples"},
           {"--context", "32", "calibration.context"}}) {
    SCOPED_TRACE(field);
    const CommandResult result = pare(replaced(resumed(*words_, {}).list(), option, value));
    EXPECT_EQ(result.exit_code, 8) << result.error;
    EXPECT_THAT(result.error, HasSubstr("identity: " + field + ": "));
  }
}

TEST_F(QuantizeResume, OtherDataIsRefusedByName) {
  const std::string text = read_bytes(words_->data);
  write_bytes(words_->data, text + "One more sentence.\n");  // DT09: it grew
  expect_refused(resumed(*words_, {}), "calibration.hash");
  std::string changed = text;
  std::replace(changed.begin(), changed.end(), 'e', 'o');
  write_bytes(words_->data, changed);
  expect_refused(resumed(*words_, {}), "calibration.hash");
  write_bytes(words_->data, text);
}

TEST_F(QuantizeResume, OtherWeightsAreRefusedByName) {
  const std::string path = words_->model + "/model.safetensors", bytes = read_bytes(path);
  std::string changed = bytes;
  changed[changed.size() - 1000] = char(changed[changed.size() - 1000] ^ 1);
  write_bytes(path, changed);
  const CommandResult result = pare(resumed(*words_, {}).list());
  EXPECT_EQ(result.exit_code, 8) << result.error;
  EXPECT_THAT(result.error, testing::ContainsRegex("identity: inputs.[0-9]*..xxh3_128: "));
  write_bytes(path, bytes);
}

// CL16, both ways.
TEST_F(QuantizeResume, ResumeWithoutJobAndJobWithoutResume) {
  CommandResult result = pare(words_->list());
  EXPECT_EQ(result.exit_code, 8) << result.error;
  EXPECT_THAT(result.error, HasSubstr("--resume continues it, --restart discards it"));
  QuantizeWords other = *words_;
  other.output = temporary_folder() + "/other.pare";
  result = pare(resumed(other, {}).list());
  EXPECT_EQ(result.exit_code, 8) << result.error;
  EXPECT_THAT(result.error, HasSubstr("other.pare.pare-job: no job to resume"));
  EXPECT_FALSE(fs::exists(other.job()));
}

// Threads, memory and the name of the output are not part of a job; neither is where it lies.
TEST_F(QuantizeResume, ResumesElsewhereWithOtherThreadsAndMemory) {
  for (const char* memory : {"200MB", "3GB"}) {
    QuantizeWords moved = *words_;
    moved.output = temporary_folder() + "/moved.pare";
    const std::string work = temporary_folder() + "/work";
    fs::copy(words_->job(), work, fs::copy_options::recursive);
    const CommandResult result = pare(
        resumed(moved, {"--work-dir", work, "--threads", "1", "--max-memory", memory, "--keep-work"}).list());
    ASSERT_EQ(result.exit_code, 0) << result.error;
    EXPECT_TRUE(read_bytes(moved.output) == *expected_);
    EXPECT_TRUE(fs::exists(work + "/job.json"));
    EXPECT_FALSE(fs::exists(moved.job()));
  }
}

// CL18, where this machine has a second file system.
TEST_F(QuantizeResume, JobOnAnotherFileSystem) {
  if (!fs::is_directory("/dev/shm")) GTEST_SKIP() << "no /dev/shm";
  const std::string work = "/dev/shm/pare-test-" + std::to_string(::getpid());
  QuantizeWords words = *words_;
  words.output = temporary_folder() + "/o.pare";
  const CommandResult result = pare(words.with({"--work-dir", work}).list());
  EXPECT_EQ(result.exit_code, 0) << result.error;
  EXPECT_TRUE(read_bytes(words.output) == *expected_);
  EXPECT_FALSE(fs::exists(work));
}

TEST_F(QuantizeResume, RestartBeginsAgainAndResumeEnds) {
  QuantizeWords copy = *words_;
  copy.output = temporary_folder() + "/copy.pare";
  fs::copy(words_->job(), copy.job(), fs::copy_options::recursive);
  CommandResult result = pare(copy.with({"--restart", "--json"}).list());
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_EQ(result.out.find("resumed_at_block"), std::string::npos);
  EXPECT_TRUE(read_bytes(copy.output) == *expected_);
  EXPECT_FALSE(fs::exists(copy.job()));
  copy.output = temporary_folder() + "/copy.pare";
  fs::copy(words_->job(), copy.job(), fs::copy_options::recursive);
  result = pare(resumed(copy, {"--json"}).list());
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_NE(result.out.find("\"resumed_at_block\": "), std::string::npos);
  EXPECT_TRUE(read_bytes(copy.output) == *expected_);
}

TEST(QuantizeBytes, ThreadsAndMemoryDoNotMatter) {
  QuantizeWords words;
  std::string first;
  int64_t spilled = 0;
  for (const std::vector<std::string>& more :
       std::vector<std::vector<std::string>>{{"--threads", "1", "--max-memory", "4GB"},
                                             {"--threads", "2", "--max-memory", "4GB"},
                                             {"--threads", "2", "--max-memory", "130MB"}}) {
    words.output = temporary_folder() + "/out.pare";
    const CommandResult result =
        pare(replaced(words.with(more).with({"--json", "--no-report"}).list(), "--samples", "160"));
    if (result.exit_code == 6) GTEST_SKIP() << "this build needs more: " << result.error;
    ASSERT_EQ(result.exit_code, 0) << result.error;
    const size_t at = result.out.find("\"spilled_bytes\": ");
    ASSERT_NE(at, std::string::npos);
    spilled = std::atoll(result.out.c_str() + at + 17);
    const std::string bytes = read_bytes(words.output);
    if (first.empty()) first = bytes;
    EXPECT_TRUE(bytes == first) << more[1] << " threads, " << more[3];
  }
  EXPECT_GT(spilled, 0) << "the small ceiling was to make it spill";
}

TEST(QuantizeBytes, EveryCpuProfileWorks) {
  for (const char* profile : {"generic", "avx2", "avx512"}) {
    QuantizeWords words;
    words.output = temporary_folder() + "/out.pare";
    const CommandResult result =
        run_command("pare", words.list(), {.environment = {{"PARE_CPU_PROFILE", profile}}});
    if (result.exit_code == 4 || result.exit_code == 6) continue;  // not on this machine
    ASSERT_EQ(result.exit_code, 0) << profile << ": " << result.error;
    EXPECT_EQ(pare({"verify", words.output}).exit_code, 0) << profile;
    EXPECT_EQ(pare({"run", words.output, "-p", "The", "-n", "2"}).exit_code, 0) << profile;
  }
}

}  // namespace
}  // namespace pare::test
