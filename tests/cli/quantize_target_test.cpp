// `pare quantize --target-bpw` and `--target-size`: the budget is obeyed by what is written.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "engine/core/json.h"
#include "tests/cli/words.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

Words words(const std::string& out, const Words& more) {
  Words list = {"quantize",
                source_path("samples/books-3m"),
                "--method",
                "rtn",
                "--scheme",
                "int4-g64",
                "--data",
                source_path("samples/text/sample.txt"),
                "--samples",
                "1",
                "--context",
                "64",
                "--sensitivity",
                "output",
                "--no-report",
                "-o",
                out};
  list.insert(list.end(), more.begin(), more.end());
  return list;
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Bits per weight of the linears as the manifest of the file has them, weights counted by their shapes.
double stored_bits(const Json& done, std::set<std::string>* schemes = nullptr) {
  double bits = 0.0, weights = 0.0;
  for (const Json& record : done.find("manifest")->find("tensors")->items()) {
    if (record.find("kind")->as_string() != "quantized") continue;
    const Json& shape = *record.find("shape");
    const double count = shape[size_t(0)].as_double() * shape[size_t(1)].as_double();
    bits += count * record.find("bits_per_weight")->as_double();
    weights += count;
    if (schemes != nullptr) schemes->insert(record.find("scheme")->as_string());
  }
  return weights == 0.0 ? 0.0 : bits / weights;
}

TEST(QuantizeTarget, BitsPerWeight) {
  const std::string folder = temporary_folder();
  double error = 0.0;
  for (const auto& [target, bits] : std::vector<std::pair<std::string, double>>{{"3.5", 3.5}, {"5", 5.0}}) {
    SCOPED_TRACE(target);
    const std::string out = folder + "/" + target + ".pare";
    std::set<std::string> schemes;
    const Json done = json_of(pare(words(out, {"--target-bpw", target, "--json"})));
    const double stored = stored_bits(done, &schemes);
    EXPECT_LE(stored, bits);
    EXPECT_GT(stored, bits - 0.35) << "much less than allowed";
    EXPECT_GT(schemes.size(), 1u) << "one format for all";
    EXPECT_EQ(pare({"verify", out}).exit_code, 0);
    EXPECT_EQ(pare({"run", out, "-p", "The", "-n", "2"}).exit_code, 0);
    // The report has the curve with one chosen point; more bits, less loss.
    const auto report = parse_json(bytes_of(out + ".report.json"), "report", {.max_bytes = 1u << 26});
    ASSERT_TRUE(report);
    EXPECT_GT(report->find("curve")->find("points")->size(), 5u);
    const double predicted = report->find("extra")->find("predicted")->as_double();
    if (error > 0.0) {
      EXPECT_LT(predicted, error);
    }
    error = predicted;
  }
}

TEST(QuantizeTarget, SizeOfTheFileAndTheCurve) {
  const std::string out = temporary_folder() + "/a.pare";
  const CommandResult result = pare(words(out, {"--target-size", "3MB"}));
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out, HasSubstr("<- chosen"));
  EXPECT_THAT(result.out, HasSubstr("  chosen: "));
  // All weights; the tokenizer and the directory come on top.
  EXPECT_LE(std::filesystem::file_size(out), 3'000'000u + 250'000u);
  const std::string small = temporary_folder() + "/b.pare";
  const CommandResult refused = pare(words(small, {"--target-size", "100kB"}));
  EXPECT_EQ(refused.exit_code, 2) << refused.error;
  EXPECT_THAT(refused.error, HasSubstr("--target-size: "));
  EXPECT_EQ(pare(words(small, {"--target-size", "small"})).exit_code, 2);
  EXPECT_EQ(pare(words(small, {"--target-bpw", "0.5"})).exit_code, 2);
  EXPECT_FALSE(std::filesystem::exists(small));
}

// The decision is a commit of its own: a job that goes on after it does not measure again.
TEST(QuantizeTarget, ResumedJobsKeepTheDecision) {
  const std::string folder = temporary_folder(), whole = folder + "/a.pare", out = folder + "/b.pare";
  ASSERT_EQ(pare(words(whole, {"--target-bpw", "4.5", "--keep-work"})).exit_code, 0);
  // The job as it was after its last commit, with the output gone: what is left is writing it.
  std::filesystem::copy(whole + ".pare-job", out + ".pare-job", std::filesystem::copy_options::recursive);
  std::filesystem::remove(out + ".pare-job/CURRENT");
  ASSERT_EQ(pare(words(out, {"--target-bpw", "4.5", "--resume", "--keep-work"})).exit_code, 0);
  EXPECT_TRUE(bytes_of(out) == bytes_of(whole));
  // Commits: the decision, four blocks, the output; and once more the output.
  const std::string log = bytes_of(out + ".pare-job/events.jsonl");
  int commits = 0;
  for (size_t at = log.find("\"event\":\"commit\""); at != std::string::npos;
       at = log.find("\"event\":\"commit\"", at + 1))
    ++commits;
  EXPECT_EQ(commits, 7) << log;
}

}  // namespace
}  // namespace pare::test
