// `pare report`, and `pare evaluate --report`, which gives it something to show.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "engine/core/json.h"
#include "tests/support/command.h"
#include "tests/support/markup.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string sample() {
  return source_path("samples/books-3m");
}
std::string text() {
  return source_path("samples/text/sample.txt");
}

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

void write_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

Json json_of(const std::vector<std::string>& words) {
  const CommandResult result = pare(words);
  EXPECT_EQ(result.exit_code, 0) << result.error;
  auto json = parse_json(result.out, "stdout", {.max_bytes = 1u << 26});
  EXPECT_TRUE(json.has_value()) << result.out;
  return json.has_value() ? *json : Json::object();
}

void expect_error(const CommandResult& result, int exit_code, const std::vector<std::string>& words) {
  EXPECT_EQ(result.exit_code, exit_code) << result.error;
  EXPECT_EQ(result.error_lines(), 1) << result.error;
  for (const std::string& word : words) EXPECT_THAT(result.error, HasSubstr(word));
}

// The sample in int4 by plain rounding.
class ReportCommand : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = temporary_folder();
    out_ = folder_ + "/out.pare";
    const CommandResult made = pare({"quantize", sample(), "--scheme", "int4-g64", "-o", out_});
    ASSERT_EQ(made.exit_code, 0) << made.error;
  }
  CommandResult evaluate(const std::vector<std::string>& more = {}) {
    std::vector<std::string> words = {"evaluate", out_,       "--reference", sample(),  "--data",
                                      text(),     "--tokens", "2048",        "--report"};
    words.insert(words.end(), more.begin(), more.end());
    return pare(words);
  }
  std::string folder_, out_;
};

TEST_F(ReportCommand, WritesAPageBesideTheOutput) {
  const CommandResult result = pare({"report", out_});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out, HasSubstr(out_ + ".report.html"));
  const std::string page = read_file(out_ + ".report.html");
  EXPECT_EQ(markup_fault(page), "");
  EXPECT_THAT(page, HasSubstr("model.layers.3.mlp.down_proj.weight"));
  // A file that is there stays, unless it is told to go.
  expect_error(pare({"report", out_}), 2, {out_ + ".report.html", "--force"});
  EXPECT_EQ(pare({"report", out_, "--force"}).exit_code, 0);
  EXPECT_EQ(read_file(out_ + ".report.html"), page);
  EXPECT_EQ(pare({"report", out_, "-o", "-"}).out, page);
  expect_error(pare({"report", out_, "-o", out_, "--force"}), 2, {out_});
  expect_error(pare({"report", out_, "--text", "--json"}), 2, {"--text", "--json"});
}

TEST_F(ReportCommand, FolderOfAnotherFormatIsReportedToo) {
  const std::string dense = folder_ + "/dense";
  ASSERT_EQ(pare({"export", out_, "-o", dense}).exit_code, 0);
  const CommandResult result = pare({"report", dense + "/"});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_TRUE(std::filesystem::exists(dense + ".report.html"));
}

// RP07
TEST_F(ReportCommand, ModelWithoutAManifestIsRefused) {
  for (const char* form : {"--text", "--json", "--force"})
    expect_error(pare({"report", sample(), form, "-o", folder_ + "/x"}), 4, {sample(), "manifest"});
  EXPECT_FALSE(std::filesystem::exists(folder_ + "/x"));
  const std::string copy = copy_of_sample();
  expect_error(
      pare({"evaluate", copy, "--reference", sample(), "--data", text(), "--tokens", "512", "--report"}), 4,
      {copy, "manifest"});
  EXPECT_FALSE(std::filesystem::exists(copy + ".report.json"));
}

// RP01 to RP05 as a user meets them.
TEST_F(ReportCommand, MalformedFileBesideTheOutputIsNamed) {
  const std::string beside = out_ + ".report.json";
  std::filesystem::remove(beside);
  ASSERT_EQ(evaluate().exit_code, 0);
  const std::string good = read_file(beside);
  std::string deep;
  for (int i = 0; i < 5000; ++i) deep += "[";
  for (const std::string& content :
       {std::string(), std::string("nonsense"), std::string("{"), good.substr(0, good.size() / 2), good + "}",
        std::string("{\"schema_version\": \xff\xfe}"), std::string("\0\0\0\0", 4), deep,
        std::string("{\"kind\": 1, \"kind\": 2}")}) {
    write_file(beside, content);
    for (const char* form : {"--text", "--json"}) expect_error(pare({"report", out_, form}), 3, {beside});
    EXPECT_THAT(pare({"report", out_, "--text", "--log-format", "json"}).error, HasSubstr("\"RP01\""));
  }
  expect_error(pare({"report", out_}), 3, {beside});
  EXPECT_FALSE(std::filesystem::exists(out_ + ".report.html"));
  expect_error(evaluate(), 3, {beside});  // nor is it replaced in silence
  EXPECT_EQ(evaluate({"--force"}).exit_code, 0);
  std::string newer = good;
  newer.replace(newer.find("\"schema_version\": 1"), 19, "\"schema_version\": 2");
  write_file(beside, newer);
  expect_error(pare({"report", out_, "--text"}), 4, {beside, "schema_version", "2"});
  write_file(beside, "[]");
  expect_error(pare({"report", out_, "--text"}), 3, {beside});
}

TEST_F(ReportCommand, EvaluateMeasuresWhatItPrints) {
  const Json before = json_of({"report", out_, "--json"});
  const CommandResult result = evaluate({"--json"});
  ASSERT_EQ(result.exit_code, 0) << result.error;
  auto parsed = parse_json(result.out, "stdout", {.max_bytes = 1u << 26});
  ASSERT_TRUE(parsed.has_value());
  const Json& printed = (*parsed->find("results"))[size_t(0)];
  EXPECT_EQ(printed.find("report")->as_string(), out_ + ".report.json");
  const Json report = *json_of({"report", out_, "--json"}).find("report");
  const Json& damage = *report.find("damage");
  const auto same = [&](const Json& side, const char* key, const char* printed_key) {
    const double value = printed.find(printed_key)->as_double();
    EXPECT_NEAR(side.find(key)->as_double(), value, 1e-5 * std::max(1.0, std::abs(value))) << printed_key;
  };
  same(*damage.find("compressed"), "perplexity", "perplexity");
  same(*damage.find("compressed"), "perplexity_error", "perplexity_error");
  same(*damage.find("original"), "perplexity", "reference_perplexity");
  for (const char* key : {"kl_mean", "kl_mean_error", "kl_median", "kl_p99", "kl_max", "top1_agreement",
                          "log_ratio", "log_ratio_error", "delta_perplexity", "delta_perplexity_error"})
    same(damage, key, key);
  EXPECT_EQ(damage.find("data")->find("scored_tokens")->as_int(), printed.find("tokens")->as_int());
  EXPECT_THAT(damage.find("data")->find("token_hash")->as_string(),
              testing::StartsWith(printed.find("token_hash")->as_string()));
  // What the run that made the output said of itself stays.
  if (const Json& old = *before.find("report"); !old.is_null()) {
    EXPECT_EQ(report.find("run")->dump(), old.find("run")->dump());
  }
  EXPECT_THAT(pare({"report", out_, "--text"}).out, HasSubstr("sample.txt"));
  EXPECT_THAT(pare({"report", out_, "--text"}).out, Not(HasSubstr("made for another output")));
  // Measured damage is not lost by accident.
  expect_error(evaluate(), 2, {out_ + ".report.json", "--force"});
  EXPECT_EQ(evaluate({"--force"}).exit_code, 0);
}

TEST_F(ReportCommand, EvaluateRefusesReportsItCannotMake) {
  expect_error(pare({"evaluate", out_, "--data", text(), "--report"}), 2, {"--report", "--reference"});
  expect_error(pare({"evaluate", out_, out_, "--reference", sample(), "--data", text(), "--report"}), 2,
               {"--report", "one MODEL"});
  expect_error(evaluate({"--kv", "int8"}), 2, {"--report", "--kv"});
}

TEST_F(ReportCommand, ReportOfOtherWeightsIsSaid) {
  ASSERT_EQ(evaluate({"--force"}).exit_code, 0);
  const std::string other = folder_ + "/other.pare";
  ASSERT_EQ(pare({"quantize", sample(), "--scheme", "int8-ch", "-o", other}).exit_code, 0);
  std::filesystem::copy_file(out_ + ".report.json", other + ".report.json",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(pare({"report", other, "--text"}).out, HasSubstr("made for another output"));
  expect_error(
      pare({"evaluate", other, "--reference", sample(), "--data", text(), "--tokens", "512", "--report"}), 2,
      {other + ".report.json", "--force"});
}

// Everything but hashes and the command line, which are there to be copied, fits a terminal.
TEST_F(ReportCommand, TextFitsEightyColumns) {
  ASSERT_EQ(evaluate({"--force"}).exit_code, 0);
  const std::string shown = pare({"report", out_, "--text"}).out;
  std::istringstream lines(shown);
  int rows = 0;
  for (std::string line; std::getline(lines, line); ++rows) {
    const auto width =
        std::count_if(line.begin(), line.end(), [](char c) { return (uint8_t(c) & 0xC0) != 0x80; });
    const size_t first = line.find_first_not_of(' ');
    const bool is_one_word = first != std::string::npos && line.find(' ', first) == std::string::npos;
    if (is_one_word || line.starts_with("    pare ")) continue;
    EXPECT_LE(width, 80) << line;
  }
  EXPECT_GT(rows, 100);
  for (const char* word :
       {"DAMAGE", "SIZE", "MATRICES", "DETAILS OF MATRICES", "WORST TOKENS", "TO REPEAT IT"})
    EXPECT_THAT(shown, HasSubstr(word));
}

}  // namespace
}  // namespace pare::test
