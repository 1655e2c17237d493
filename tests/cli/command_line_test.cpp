// The command line itself: rows CL of docs/bad-input.md, and what every command must do.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "engine/backends/cuda/device_info.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

std::string sample() {
  return source_path("samples/books-3m");
}

void expect_error(const CommandResult& result, int exit_code, const std::vector<std::string>& words) {
  EXPECT_EQ(result.exit_code, exit_code) << result.error;
  EXPECT_EQ(result.error_lines(), 1) << result.error;
  EXPECT_EQ(result.error.back(), '\n');
  for (const std::string& word : words) EXPECT_THAT(result.error, HasSubstr(word));
}

TEST(CommandLine, HelpAndVersion) {
  const CommandResult help = pare({"--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* verb : {"inspect", "quantize", "evaluate", "export", "run", "tokenize", "verify", "doctor",
                           "limits", "completion"}) {
    EXPECT_THAT(help.out, HasSubstr(verb));
    const CommandResult verb_help = pare({verb, "--help"});
    EXPECT_EQ(verb_help.exit_code, 0) << verb;
    EXPECT_THAT(verb_help.out, HasSubstr("--json")) << verb;
  }
  EXPECT_THAT(pare({"--version"}).out, HasSubstr("pare 0."));
}

TEST(CommandLine, CL07UnknownOptionsNameTheNearest) {
  expect_error(pare({"quantize", sample(), "-o", "x.pare", "--shceme", "int8"}), 2, {"--shceme", "--scheme"});
  expect_error(pare({"quantise", sample()}), 2, {"quantise", "quantize"});
  expect_error(pare({"inspect", sample(), "surplus"}), 2, {"surplus"});
  expect_error(pare({"inspect"}), 2, {"MODEL is required"});
  expect_error(pare({}), 2, {});
}

TEST(CommandLine, CL07OptionGivenTwice) {
  expect_error(pare({"quantize", sample(), "--scheme", "int8", "--scheme", "int4", "-o", "x.pare"}), 2,
               {"--scheme"});
}

TEST(CommandLine, CL06NumbersThatAreNone) {
  for (const char* value : {"4x", "1e3", "", "-1", "99999999999999999999", "nan"}) {
    expect_error(pare({"run", sample(), "-p", "x", "--max-tokens", value}), 2, {"max-tokens"});
  }
  for (const char* value : {"nan", "warm", "-0.5"}) {
    expect_error(pare({"run", sample(), "-p", "x", "--temperature", value}), 2, {"temperature"});
  }
  expect_error(pare({"inspect", sample(), "--threads", "2"}), 2, {"--threads"});
}

TEST(CommandLine, CL10NoRemoteCode) {
  expect_error(pare({"inspect", sample(), "--trust-remote-code"}), 2, {"--trust-remote-code", "by design"});
}

TEST(CommandLine, CL11DevicesAreNeverReplaced) {
  // A GPU that no machine has: without CUDA in the build it is a capability that is missing, else a device.
  const int exit_code = built_with_cuda() ? 6 : 4;
  const std::string gpu = "cuda:1000";
  expect_error(pare({"run", sample(), "-p", "x", "--device", gpu}), exit_code, {gpu});
  expect_error(pare({"run", sample(), "-p", "x", "--device", "tpu"}), 2, {"--device", "tpu"});
  const std::string out = temporary_folder() + "/out.pare";
  for (const char* verb : {"quantize", "export"}) {
    expect_error(pare({verb, sample(), "-o", out, "--device", gpu}), exit_code, {gpu});
    expect_error(pare({verb, sample(), "-o", out, "--device", "tpu"}), 2, {"--device", "tpu"});
  }
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST(CommandLine, CL13OptionsOfAGpuNeedOne) {
  expect_error(pare({"run", sample(), "-p", "x", "--max-vram", "8GB"}), 2, {"--max-vram", "--device cuda"});
  expect_error(pare({"run", sample(), "-p", "x", "--gpu-math", "f32"}), 2, {"--gpu-math", "--device cuda"});
  expect_error(pare({"run", sample(), "-p", "x", "--device", "cuda", "--max-vram", "some"}), 2,
               {"--max-vram", "some"});
  // What is wrong with options is said before a device is opened.
  expect_error(pare({"quantize", sample(), "-o", temporary_folder() + "/out.pare", "--device", "cuda:1000",
                     "--scheme", "nonsense"}),
               2, {"--scheme", "nonsense"});
  expect_error(
      pare({"finetune", sample(), "--data", source_path("samples/text/sample.txt"), "--steps",
            "1", "--device", "cuda:1000", "--compute", "f32", "-o", temporary_folder() + "/student"}),
      2, {"--compute", "--gpu-math f32"});
}

TEST(CommandLine, CL14MalformedVariable) {
  expect_error(pare({"doctor"}, {.environment = {{"PARE_CPU_PROFILE", "fast"}}}), 2,
               {"PARE_CPU_PROFILE", "fast"});
  EXPECT_EQ(pare({"doctor"}, {.environment = {{"PARE_CPU_PROFILE", "generic"}, {"OMP_NUM_THREADS", "many"}}})
                .exit_code,
            0);
}

TEST(CommandLine, CL09EmptyEnvironment) {
  const CommandResult result =
      pare({"inspect", sample()},
           {.environment = {{"PATH", ""}, {"HOME", ""}, {"LANG", ""}, {"LC_ALL", "xx_YY.ISO-8859-15"}}});
  EXPECT_EQ(result.exit_code, 0) << result.error;
}

TEST(CommandLine, CL15FullStdout) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"limits"}, {"inspect", sample(), "--json"}, {"--help"}}) {
    expect_error(pare(words, {.stdout_path = "/dev/full"}), 5, {"stdout"});
  }
}

TEST(CommandLine, IX20MissingModelNamesThePath) {
  expect_error(pare({"inspect", "/nowhere/at/all"}), 5, {"/nowhere/at/all"});
  expect_error(pare({"inspect", "nobody/nothing"}, {.environment = {{"HF_HUB_CACHE", temporary_folder()}}}),
               5, {"nobody/nothing", "never downloads"});
}

TEST(CommandLine, ErrorsAsJson) {
  const CommandResult result = pare({"inspect", "/nowhere", "--log-format", "json"});
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_THAT(result.error, HasSubstr("\"exit\":5"));
  EXPECT_THAT(result.error, HasSubstr("\"level\":\"error\""));
}

TEST(CommandLine, EscapesFromFilesNeverReachTheTerminal) {
  const std::string model = copy_of_sample();
  std::ofstream(model + "/config.json")
      << "{\"architectures\": [\"\\u001b[2Jevil\\u202e\"], \"model_type\": \"x\"}";
  const CommandResult result = pare({"inspect", model});
  EXPECT_EQ(result.exit_code, 4) << result.error;
  EXPECT_EQ(result.error.find('\x1b'), std::string::npos);
  EXPECT_THAT(result.error, HasSubstr("\\x1b[2Jevil"));
}

// RL09: every command works on a stack of 256 KiB.
TEST(CommandLine, RL09SmallStack) {
#ifdef PARE_SANITIZED
  GTEST_SKIP() << "sanitizers need a larger stack of their own";
#endif
  const std::string command = "ulimit -s 256 && '" + binary_folder() + "/pare' run '" + sample() +
                              "' -p 'It was late' -n 8 > /dev/null 2>&1";
  EXPECT_EQ(std::system(("sh -c \"" + command + "\"").c_str()), 0);
}

TEST(CommandLine, CL13OptionsThatContradict) {
  const std::string text = source_path("samples/text/sample.txt");
  expect_error(pare({"run", sample(), "-p", "x", "-f", text}), 2, {"-f"});
  expect_error(pare({"evaluate", sample(), "--data", text, "--save-logits", "x.safetensors"}), 2,
               {"--save-logits"});
  expect_error(pare({"run", sample(), "-p", "x", "--seed", "-1"}), 2, {"--seed"});
}

TEST(CommandLine, CL05MemoryCeiling) {
  const std::string text = source_path("samples/text/sample.txt"), folder = temporary_folder();
  expect_error(pare({"evaluate", sample(), "--data", text, "--max-memory", "1kB"}), 6, {"memory"});
  expect_error(pare({"export", sample(), "-o", folder + "/a.pare", "--max-memory", "1kB"}), 6, {"memory"});
  expect_error(pare({"quantize", sample(), "-o", folder + "/a.pare", "--max-memory", "1kB"}), 6, {"memory"});
}

TEST(CommandLine, CL01LogitsNeverReplaceTheirInput) {
  const std::string model = copy_of_sample();
  const std::string before = folder_fingerprint(model);
  expect_error(pare({"evaluate", model, "--input-ids", model + "/expected.safetensors", "--save-logits",
                     model + "/expected.safetensors", "--force"}),
               2, {"expected.safetensors"});
  EXPECT_EQ(folder_fingerprint(model), before);
}

// Output rows: nothing on disk changes when a run is refused.
TEST(Output, CL02ExistsWithoutForce) {
  const std::string folder = temporary_folder();
  std::ofstream(folder + "/out.pare") << "precious";
  const std::string before = folder_fingerprint(folder);
  expect_error(pare({"quantize", sample(), "-o", folder + "/out.pare"}), 2, {"out.pare", "--force"});
  EXPECT_EQ(folder_fingerprint(folder), before);
  EXPECT_EQ(pare({"quantize", sample(), "-o", folder + "/out.pare", "--force"}).exit_code, 0);
}

TEST(Output, CL01OutputIsTheInput) {
  const std::string model = copy_of_sample();
  const std::string before = folder_fingerprint(model);
  expect_error(pare({"quantize", model, "-o", model, "--force"}), 2, {});
  std::filesystem::create_hard_link(model + "/model.safetensors", model + "/other.pare");
  expect_error(pare({"quantize", model, "-o", model + "/other.pare", "--force"}), 2, {"other.pare"});
  std::filesystem::remove(model + "/other.pare");
  EXPECT_EQ(folder_fingerprint(model), before);
}

// A folder that pare wrote itself is no exception: --force would replace the weights being read.
TEST(Output, CL01OutputIsTheFolderOfTheInputOrInsideIt) {
  const std::string model = temporary_folder() + "/dense";
  ASSERT_EQ(pare({"export", sample(), "-o", model}).exit_code, 0);
  const std::string before = folder_fingerprint(model);
  expect_error(pare({"quantize", model, "-o", model, "--force"}), 2, {"output is an input"});
  expect_error(pare({"export", model, "-o", model, "--force"}), 2, {"output is an input"});
  expect_error(pare({"quantize", model, "-o", model + "/x.pare"}), 2, {"inside an input"});
  EXPECT_EQ(folder_fingerprint(model), before);
  const std::string file = model + "/model.safetensors";  // beside a single file there is room
  EXPECT_EQ(pare({"quantize", file, "-o", model + "/x.pare"}).exit_code, 0);
}

TEST(Output, CL03MissingFolder) {
  expect_error(pare({"quantize", sample(), "-o", "/nowhere/out.pare"}), 5, {"/nowhere"});
}

TEST(Output, CL08UmaskDecidesTheMode) {
  const std::string folder = temporary_folder();
  const mode_t old = ::umask(027);
  EXPECT_EQ(pare({"quantize", sample(), "-o", folder + "/a.pare"}).exit_code, 0);
  ::umask(old);
  struct stat status {};
  ASSERT_EQ(::stat((folder + "/a.pare").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, mode_t(0640));
}

TEST(Output, CL17ForceSparesForeignFiles) {
  const std::string folder = temporary_folder() + "/out";
  EXPECT_EQ(pare({"export", sample(), "-o", folder}).exit_code, 0);
  std::ofstream(folder + "/notes.txt") << "mine";
  expect_error(pare({"export", sample(), "-o", folder, "--force"}), 2, {"notes.txt"});
  std::filesystem::remove(folder + "/notes.txt");
  EXPECT_EQ(pare({"export", sample(), "-o", folder, "--force"}).exit_code, 0);
}

TEST(Output, NoTemporariesRemain) {
  const std::string folder = temporary_folder();
  EXPECT_EQ(pare({"quantize", sample(), "-o", folder + "/a.pare"}).exit_code, 0);
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"a.pare", "a.pare.report.json"}));
}

}  // namespace
}  // namespace pare::test
