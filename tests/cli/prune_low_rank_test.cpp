// `pare prune --low-rank` and --low-rank-repair as a user runs them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/cli/prune_words.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

double perplexity(const std::string& model) {
  const Json json = json_of(
      pare({"evaluate", model, "--data", sample_text(), "--context", "64", "--tokens", "512", "--json"}));
  const Json* results = json.find("results");
  EXPECT_NE(results, nullptr) << json.dump();
  return results == nullptr ? 0.0 : number((*results)[size_t(0)], "perplexity");
}

TEST(PruneLowRank, EveryRule) {
  const std::string folder = temporary_folder();
  for (const auto& [rule, more] : std::vector<std::pair<std::string, Words>>{{"energy=0.98", data()},
                                                                             {"rank=24", data()},
                                                                             {"error=0.2", data()},
                                                                             {"budget=0.75", data()},
                                                                             {"energy=0.9", {}},
                                                                             {"budget=0.75", {}}}) {
    SCOPED_TRACE(rule + (more.empty() ? " without data" : ""));
    const std::string out = folder + "/out.pare";
    const Json done = json_of(pare(prune(out, plus({"--low-rank", rule, "--json"}, more))));
    EXPECT_EQ(pare({"verify", out}).exit_code, 0);
    EXPECT_EQ(number(done, "matrices"), 28);
    EXPECT_EQ(number(done, "factorized_tensors") + number(done, "dense_tensors"), 28);
    EXPECT_EQ(number(done, "fallbacks"), 0);
    if (rule.starts_with("budget")) {
      EXPECT_LE(number(done, "parameters_after"), 0.75 * number(done, "parameters_before"));
      EXPECT_LT(number(done, "weight_bytes_after"), number(done, "weight_bytes_before"));
    }
    EXPECT_EQ(done.find("damage") != nullptr, !more.empty());
    EXPECT_EQ(pare({"run", out, "-p", "Once", "-n", "4"}).exit_code, 0);
  }
}

// Factors and their products are the same model; a folder says that it is not smaller.
TEST(PruneLowRank, FolderHoldsProducts) {
  const std::string folder = temporary_folder();
  const std::string file = folder + "/thin.pare", dense = folder + "/dense";
  const Words words = plus({"--low-rank", "budget=0.75"}, data());
  EXPECT_EQ(pare(prune(file, words)).exit_code, 0);
  const CommandResult folder_run = pare(prune(dense, words));
  EXPECT_EQ(folder_run.exit_code, 0) << folder_run.error;
  EXPECT_THAT(folder_run.out, HasSubstr("holds the products"));
  EXPECT_THAT(pare({"inspect", file}).out, HasSubstr("rank"));
  const double thin = perplexity(file), product = perplexity(dense);
  EXPECT_NEAR(thin / product, 1.0, 0.01);  // the folder's products are rounded to the checkpoint's type
}

TEST(PruneLowRank, ThreadsGiveTheSameBytes) {
  const std::string folder = temporary_folder();
  const Words words = plus({"--low-rank", "budget=0.75", "--no-report"}, data());
  EXPECT_EQ(pare(prune(folder + "/a.pare", plus(words, {"--threads", "1"}))).exit_code, 0);
  EXPECT_EQ(pare(prune(folder + "/b.pare", plus(words, {"--threads", "2"}))).exit_code, 0);
  EXPECT_EQ(bytes_of(folder + "/a.pare"), bytes_of(folder + "/b.pare"));
}

TEST(PruneLowRank, Repair) {
  const std::string folder = temporary_folder();
  const auto errors = [](const Json& done, const char* key) {
    double sum = 0.0;
    for (const Json& record : done.find("manifest")->find("tensors")->items()) {
      const Json* repair = record.find("extra") != nullptr ? record.find("extra")->find("low_rank_repair")
                                                           : record.find("low_rank_repair");
      if (repair != nullptr) sum += number(*repair, key);
    }
    return sum;
  };
  const std::string out = folder + "/out.pare";
  for (const Words& words :
       {prune(out,
              plus({"--method", "wanda", "--sparsity", "2:4", "--low-rank-repair", "8", "--json"}, data())),
        plus({"quantize", sample_model(), "-o", out, "--force", "--method", "gptq", "--scheme", "int3-g64",
              "--low-rank-repair", "8", "--json"},
             data())}) {
    SCOPED_TRACE(words[0]);
    const Json done = json_of(pare(words));
    EXPECT_GT(errors(done, "output_error_before"), 0.0);
    EXPECT_LT(errors(done, "output_error_after"), 0.95 * errors(done, "output_error_before"));
    EXPECT_EQ(pare({"verify", out}).exit_code, 0);
    EXPECT_EQ(pare({"run", out, "-p", "Once", "-n", "4"}).exit_code, 0);
  }
  // A pruned file is rounded, and its rounding repaired.
  const std::string pruned = folder + "/pruned.pare";
  EXPECT_EQ(pare(prune(pruned, {"--method", "magnitude", "--sparsity", "0.3"})).exit_code, 0);
  const CommandResult rounded = pare(plus({"quantize", pruned, "-o", out, "--force", "--method", "gptq",
                                           "--scheme", "int4-g64", "--low-rank-repair", "4"},
                                          data()));
  EXPECT_EQ(rounded.exit_code, 0) << rounded.error;
  EXPECT_EQ(pare({"quantize", pruned, "-o", out, "--force", "--scheme", "int4-g64"}).exit_code, 0);
}

TEST(PruneLowRank, Refusals) {
  const std::string folder = temporary_folder();
  const std::string out = folder + "/out.pare";
  const std::vector<std::pair<Words, int>> cases = {
      {{"--low-rank", "energy=2"}, 2},
      {{"--low-rank", "much"}, 2},
      {{"--low-rank", "rank=8", "--method", "wanda"}, 2},
      {{"--low-rank", "rank=8", "--sparsity", "0.5"}, 2},
      {{"--low-rank", "rank=8", "--low-rank-repair", "8"}, 2},
      {{"--low-rank", "budget=0.01"}, 2},
      {{"--low-rank", "rank=8", "--include", "nothing.*"}, 2},
      {{"--method", "magnitude", "--low-rank-repair", "8"}, 2},
  };
  for (const auto& [words, exit] : cases) {
    const CommandResult result = pare(prune(out, words));
    EXPECT_EQ(result.exit_code, exit) << words[1] << ": " << result.error;
    EXPECT_FALSE(std::filesystem::exists(out));
    EXPECT_FALSE(std::filesystem::exists(out + ".pare-job")) << words[1];
  }
  EXPECT_EQ(pare(prune(folder + "/dir", plus({"--low-rank-repair", "8"}, data()))).exit_code, 2);
  const std::string codes = folder + "/codes.pare";
  EXPECT_EQ(pare({"quantize", sample_model(), "-o", codes, "--scheme", "int8-ch"}).exit_code, 0);
  const CommandResult rounded = pare({"prune", codes, "-o", out, "--low-rank", "rank=8"});
  EXPECT_EQ(rounded.exit_code, 4);
  EXPECT_THAT(rounded.error, HasSubstr("already quantized"));
}

}  // namespace
}  // namespace pare::test
