#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "formats/safetensors.h"
#include "tests/cli/words.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

std::string sample() {
  return source_path("samples/books-3m");
}

TEST(RunCommand, TextOnStdoutSpeedOnStderr) {
  const CommandResult result = pare({"run", sample(), "-p", "It was a dark", "-n", "12"});
  EXPECT_EQ(result.exit_code, 0) << result.error;
  EXPECT_FALSE(result.out.empty());
  EXPECT_THAT(result.error, HasSubstr("12 new tokens"));
  EXPECT_THAT(result.error, HasSubstr("stopped by length"));
}

TEST(RunCommand, PromptFromArgumentFileAndStdinAgree) {
  const std::string path = temporary_folder() + "/prompt.txt";
  std::ofstream(path) << "It was a dark";
  const std::string expected = pare({"run", sample(), "-p", "It was a dark", "-n", "16"}).out;
  EXPECT_EQ(pare({"run", sample(), "-f", path, "-n", "16"}).out, expected);
  EXPECT_EQ(pare({"run", sample(), "-n", "16"}, {.input = "It was a dark"}).out, expected);
  EXPECT_EQ(run_command("pare-run", {sample(), "-p", "It was a dark", "-n", "16"}).out, expected);
}

TEST(RunCommand, SeedsRepeatAndDiffer) {
  auto text = [&](const char* seed) {
    return pare({"run", sample(), "-p", "The", "-n", "24", "--temperature", "1", "--seed", seed}).out;
  };
  EXPECT_EQ(text("7"), text("7"));
  EXPECT_NE(text("7"), text("8"));
}

TEST(RunCommand, ThreadsDoNotChangeTheText) {
  const std::string one = pare({"run", sample(), "-p", "The", "-n", "32", "--threads", "1"}).out;
  EXPECT_EQ(pare({"run", sample(), "-p", "The", "-n", "32", "--threads", "5"}).out, one);
}

TEST(RunCommand, StopStringsAreNotPrinted) {
  const Json free = json_of(pare({"run", sample(), "-p", "The", "-n", "40", "--json"}));
  const std::string text = free.find("text")->as_string();
  const std::string stop = text.substr(text.size() / 2, 4);
  const Json stopped = json_of(pare({"run", sample(), "-p", "The", "-n", "40", "--stop", stop, "--json"}));
  EXPECT_EQ(stopped.find("text")->as_string(), text.substr(0, text.find(stop)));
  EXPECT_EQ(stopped.find("stop_reason")->as_string(), "stop_string");
}

TEST(RunCommand, GreedyIdsOfTheStoriesModel) {
  PARE_SHARED_OR_SKIP(model, "stories260K-hf");
  std::vector<int64_t> expected;
  const auto stored = read_safetensors(model + "/expected.safetensors").value();
  for (const auto& [name, tensor] : stored) {
    if (name == "greedy_ids")
      expected.assign(tensor.data<int64_t>(), tensor.data<int64_t>() + tensor.numel());
  }
  ASSERT_EQ(expected.size(), 205u);
  // The prompt of the fixture is its first five ids: <s> and a few words.
  std::string ids;
  for (size_t i = 1; i < 5; ++i) ids += std::to_string(expected[i]) + " ";
  std::string prompt = pare({"tokenize", model, "--decode", "--text", ids}).out;
  prompt.pop_back();
  const Json result = json_of(pare({"run", model, "-p", prompt, "-n", "200", "--ignore-eos", "--json"}));
  ASSERT_EQ(result.find("prompt_tokens")->as_int(), 5);
  for (size_t i = 0; i < 200; ++i)
    ASSERT_EQ((*result.find("ids"))[i].as_int(), expected[5 + i]) << "token " << i;
}

TEST(RunCommand, Refusals) {
  std::string long_prompt;
  for (int i = 0; i < 400; ++i) long_prompt += "word ";
  const CommandResult result = pare({"run", sample(), "-p", long_prompt});
  EXPECT_EQ(result.exit_code, 2) << result.error;
  EXPECT_THAT(result.error, HasSubstr("context"));
  EXPECT_THAT(result.error, HasSubstr("403 tokens"));
  EXPECT_THAT(result.error, HasSubstr("255"));  // one position stays free for the answer
  EXPECT_EQ(pare({"run", sample(), "-p", "\xff\xfe"}).exit_code, 3);
  EXPECT_EQ(pare({"run", sample(), "-f", "/nowhere"}).exit_code, 5);
  EXPECT_EQ(pare({"run", sample(), "-p", "x", "--max-memory", "10kB"}).exit_code, 6);
}

TEST(RunCommand, FullDiskOnStdoutIsAnError) {
  EXPECT_EQ(pare({"run", sample(), "-p", "The", "-n", "4"}, {.stdout_path = "/dev/full"}).exit_code, 5);
}

}  // namespace
}  // namespace pare::test
