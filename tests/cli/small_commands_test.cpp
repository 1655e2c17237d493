// inspect, tokenize, verify, doctor, limits, completion.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "engine/core/json.h"
#include "engine/core/limits.h"
#include "tests/cli/words.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

std::string sample() {
  return source_path("samples/books-3m");
}

TEST(InspectCommand, CountsParametersAndBytes) {
  const Json json = json_of(pare({"inspect", sample(), "--json"}));
  EXPECT_EQ(json.find("parameters")->as_int(), 3279104);
  EXPECT_EQ(json.find("bytes")->as_int(), 2 * 3279104);
  EXPECT_EQ(json.find("config")->find("blocks")->as_int(), 4);
  int64_t parts = 0;
  for (const auto& [name, part] : json.find("parts")->members()) parts += part.find("parameters")->as_int();
  EXPECT_EQ(parts, 3279104);
  EXPECT_THAT(pare({"inspect", sample()}).out, HasSubstr("3,279,104 parameters"));
}

TEST(InspectCommand, EstimatesAreWhatQuantizeWrites) {
  const Json json = json_of(pare({"inspect", sample(), "--json"}));
  for (const Json& estimate : json.find("estimates")->items()) {
    const std::string scheme = estimate.find("scheme")->as_string();
    const Json plan = json_of(pare({"quantize", sample(), "--scheme", scheme, "-o",
                                    temporary_folder() + "/x.pare", "--dry-run", "--json"}));
    EXPECT_EQ(plan.find("weight_bytes_after")->as_int(), estimate.find("output_bytes")->as_int()) << scheme;
  }
}

TEST(InspectCommand, PareFilesShowSchemesAndManifest) {
  const std::string out = temporary_folder() + "/a.pare";
  ASSERT_EQ(pare({"quantize", sample(), "--scheme", "int4-g64", "-o", out}).exit_code, 0);
  const Json json = json_of(pare({"inspect", out, "--json"}));
  EXPECT_EQ(json.find("format")->as_string(), "pare");
  EXPECT_EQ(json.find("forms")->find("int4-g64-sym")->find("tensors")->as_int(), 28);
  EXPECT_EQ(json.find("manifest")->find("command")->as_string(), "quantize");
  EXPECT_THAT(pare({"inspect", out}).out, HasSubstr("int4-g64-sym"));
}

TEST(TokenizeCommand, TextAndBack) {
  const Json json = json_of(pare({"tokenize", sample(), "--text", "It was late.", "--json"}));
  std::string ids;
  for (const Json& id : json.find("ids")->items()) ids += std::to_string(id.as_int()) + " ";
  EXPECT_EQ(pare({"tokenize", sample(), "--decode", "--text", ids}).out, "It was late.\n");
}

TEST(TokenizeCommand, LinesInLinesOut) {
  const std::string folder = temporary_folder();
  std::ofstream(folder + "/in.jsonl") << "{\"text\": \"one\"}\n{\"text\": \"\\u00e9t\\u00e9\"}\n";
  const CommandResult encoded =
      pare({"tokenize", sample() + "/tokenizer.json", "--jsonl", folder + "/in.jsonl"});
  ASSERT_EQ(encoded.exit_code, 0) << encoded.error;
  std::ofstream(folder + "/ids.jsonl") << encoded.out;
  EXPECT_EQ(pare({"tokenize", sample(), "--jsonl", folder + "/ids.jsonl", "--decode"}).out,
            "{\"text\":\"one\"}\n{\"text\":\"été\"}\n");
}

TEST(TokenizeCommand, EverySharedCase) {
  PARE_SHARED_OR_SKIP(cases, "tokenizer-cases");
  for (const char* kind : {"gpt2", "llama3", "qwen2", "unigram", "bert"}) {
    const std::string folder = cases + "/" + kind;
    const CommandResult result =
        pare({"tokenize", folder + "/tokenizer.json", "--jsonl", folder + "/cases.jsonl"});
    ASSERT_EQ(result.exit_code, 0) << result.error;
    std::istringstream got(result.out);
    std::ifstream want(folder + "/cases.jsonl");
    int lines = 0;
    for (std::string a, b; std::getline(want, a);) {
      ASSERT_TRUE(std::getline(got, b));
      EXPECT_EQ(parse_json(b, "got", {.max_bytes = 1u << 24})->find("ids")->dump(),
                parse_json(a, "want", {.max_bytes = 1u << 24})->find("ids")->dump());
      ++lines;
    }
    EXPECT_EQ(lines, 185) << kind;
  }
}

TEST(TokenizeCommand, Refusals) {
  EXPECT_EQ(pare({"tokenize", sample()}).exit_code, 2);
  EXPECT_EQ(pare({"tokenize", sample(), "--decode", "--text", "1 2 banana"}).exit_code, 2);
  EXPECT_EQ(pare({"tokenize", sample(), "--decode", "--text", "999999"}).exit_code, 2);
  const std::string folder = temporary_folder();
  std::ofstream(folder + "/bad.jsonl") << "{\"text\": \"one\"}\n{\"text\": 7}\n";
  const CommandResult bad = pare({"tokenize", sample(), "--jsonl", folder + "/bad.jsonl"});
  EXPECT_EQ(bad.exit_code, 3);
  EXPECT_THAT(bad.error, HasSubstr("2:text"));
}

TEST(VerifyCommand, ListsEveryFault) {
  const std::string out = temporary_folder() + "/a.pare";
  ASSERT_EQ(pare({"quantize", sample(), "-o", out}).exit_code, 0);
  EXPECT_THAT(pare({"verify", out}).out, HasSubstr("verified"));
  std::fstream file(out, std::ios::in | std::ios::out | std::ios::binary);
  for (int64_t offset : {200'000, 2'500'000}) {
    file.seekg(offset);
    const char old = char(file.get());
    file.seekp(offset);
    file.put(char(old ^ 1));
  }
  file.close();
  const CommandResult result = pare({"verify", out, "--json"});
  EXPECT_EQ(result.exit_code, 3) << result.error;
  const Json json = parse_json(result.out, "stdout", {.max_bytes = 1u << 26}).value();
  EXPECT_EQ(json.find("faults")->size(), 2u);
  EXPECT_EQ(result.error_lines(), 1);
}

TEST(VerifyCommand, FoldersWithoutChecksumsAreSaidToBe) {
  EXPECT_THAT(pare({"verify", sample()}).out, HasSubstr("unchecked"));
}

TEST(DoctorCommand, NamesTheLevelInUse) {
  EXPECT_EQ(json_of(pare({"doctor", "--json"}, {.environment = {{"PARE_CPU_PROFILE", "generic"}}}))
                .find("cpu_level")
                ->as_string(),
            "generic");
  EXPECT_EQ(json_of(pare({"doctor", "--json", "--threads", "3"})).find("threads")->as_int(), 3);
}

TEST(LimitsCommand, HoldsEveryLimit) {
  EXPECT_EQ(json_of(pare({"limits", "--json"})).find("limits")->size(), limits::all().size());
  EXPECT_GT(limits::all().size(), 30u);
}

TEST(CompletionCommand, ShellsAcceptTheScripts) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    const CommandResult result = pare({"completion", shell});
    ASSERT_EQ(result.exit_code, 0);
    EXPECT_THAT(result.out, HasSubstr("quantize"));
    for (const char* word : {"distill", "finetune", "teacher", "tensorboard"})
      EXPECT_THAT(result.out, HasSubstr(word));
    const std::string path = temporary_folder() + "/script";
    std::ofstream(path) << result.out;
    if (std::string(shell) == "bash") {
      EXPECT_EQ(std::system(("bash -n " + path).c_str()), 0);
    }
  }
  EXPECT_THAT(pare({"completion", "man"}).out, HasSubstr(".SH COMMANDS"));
  EXPECT_EQ(pare({"completion", "csh"}).exit_code, 2);
}

}  // namespace
}  // namespace pare::test
