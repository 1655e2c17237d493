// `pare compress` as a user runs it: steps, report, manifest, the recipe that is written and replayed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/cli/words.h"
#include "tests/support/command.h"
#include "tests/support/memory_source.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::HasSubstr;
using testing::Not;
namespace fs = std::filesystem;

std::string sample() {
  return source_path("samples/books-3m");
}
std::string text() {
  return source_path("samples/text/sample.txt");
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

constexpr const char* kGptq =
    "schema: 1\nseed: 5\nsamples: 6\ncontext: 64\nsteps:\n  - quantize:\n      method: gptq\n"
    "      scheme: int4-g64\n      overrides:\n        - {pattern: \"*.down_proj\", value: int8-ch}\n";
constexpr const char* kPlain = "schema: 1\nsteps:\n  - quantize: {scheme: int8-ch}\n";

constexpr const char* kJoint =
    "schema: 1\nseed: 5\nsamples: 6\ncontext: 64\nsteps:\n  - prune: {method: wanda, sparsity: 0.5}\n"
    "  - quantize: {method: gptq, scheme: int4-g64}\n";

class Compress : public ::testing::Test {
 protected:
  std::string recipe(const std::string& content, const std::string& name = "r.yaml") {
    std::ofstream(folder_ + "/" + name) << content;
    return folder_ + "/" + name;
  }
  Words words(const std::string& recipe, const std::string& out, const Words& more = {}) {
    Words list = {"compress", sample(),          "--recipe", recipe,      "-o",
                  out,        "--report-tokens", "128",      "--no-speed"};
    list.insert(list.end(), more.begin(), more.end());
    return list;
  }
  Words with_data(const std::string& recipe, const std::string& out, const Words& more = {}) {
    Words list = words(recipe, out, {"--data", text()});
    list.insert(list.end(), more.begin(), more.end());
    return list;
  }

  std::string folder_ = temporary_folder(), out_ = folder_ + "/out.pare";
};

TEST_F(Compress, OneReportOneManifest) {
  const Json done = json_of(pare(with_data(recipe(kGptq), out_, {"--json"})));
  EXPECT_FALSE(fs::exists(out_ + ".pare-job"));
  EXPECT_EQ(pare({"verify", out_}).exit_code, 0);
  EXPECT_EQ(done.find("steps")->size(), 1u);
  EXPECT_EQ(done.find("fallbacks")->as_int(), 0);
  EXPECT_LT(done.find("weight_bytes_after")->as_double(), done.find("weight_bytes_before")->as_double());
  EXPECT_GT(done.find("damage")->find("kl_mean")->as_double(), 0.0);
  const Json& manifest = *done.find("manifest");
  EXPECT_EQ(manifest.find("command")->as_string(), "compress");
  EXPECT_EQ(manifest.find("seed")->as_int(), 5);
  ASSERT_EQ(manifest.find("recipe")->size(), 1u);
  const Json& options = *(*manifest.find("recipe"))[0].find("options");
  EXPECT_EQ(options.find("scheme")->as_string(), "int4-g64-sym");
  EXPECT_EQ(options.find("context")->as_string(), "64");
  EXPECT_EQ(options.find("damping")->as_string(), "0.01");
  ASSERT_EQ(manifest.find("history")->size(), 1u);
  EXPECT_EQ((*manifest.find("history"))[0].find("command")->as_string(), "quantize");
  EXPECT_EQ(manifest.find("options")->find("data_hash")->as_string().size(), 64u);
  // No path of this run, nowhere in it; the original is what is named and hashed.
  EXPECT_THAT(manifest.dump(), Not(HasSubstr(folder_)));
  EXPECT_EQ((*manifest.find("inputs"))[0].find("name")->as_string().find('/'), std::string::npos);
  int eight = 0;
  for (const Json& record : manifest.find("tensors")->items())
    eight += record.find("scheme")->as_string().starts_with("int8") ? 1 : 0;
  EXPECT_EQ(eight, 4);  // the sample has four blocks
  // The report beside it, and its page.
  const Json report = json_of(pare({"report", out_, "--json"}));
  EXPECT_EQ(report.find("report")->find("command")->as_string(), "compress");
}

TEST_F(Compress, TheSameWeightsAsTheCommandMakes) {
  ASSERT_EQ(pare(with_data(recipe(kGptq), out_)).exit_code, 0);
  const std::string other = folder_ + "/other.pare";
  ASSERT_EQ(
      pare({"quantize", sample(), "--method", "gptq", "--scheme", "int4-g64", "--set", "*.down_proj=int8-ch",
            "--data", text(), "--samples", "6", "--context", "64", "--seed", "5", "--no-report", "-o", other})
          .exit_code,
      0);
  for (const std::string& path : {out_, other})
    ASSERT_EQ(pare({"export", path, "-o", path + ".folder"}).exit_code, 0);
  EXPECT_TRUE(bytes_of(out_ + ".folder/model.safetensors") == bytes_of(other + ".folder/model.safetensors"));
}

TEST_F(Compress, ReplaysToTheSameBytes) {
  ASSERT_EQ(pare(with_data(recipe(kGptq), out_, {"--threads", "1"})).exit_code, 0);
  const CommandResult printed = pare({"inspect", out_, "--recipe"});
  ASSERT_EQ(printed.exit_code, 0) << printed.error;
  EXPECT_THAT(printed.out, HasSubstr("schema: 1\nseed: 5\ndata-hash: "));
  EXPECT_THAT(printed.out, HasSubstr("  - quantize:\n      "));
  const std::string replayed = folder_ + "/replayed.pare";
  const CommandResult again =
      pare(with_data(recipe(printed.out, "again.yaml"), replayed, {"--threads", "2"}));
  ASSERT_EQ(again.exit_code, 0) << again.error;
  EXPECT_TRUE(bytes_of(out_) == bytes_of(replayed)) << printed.out;
  EXPECT_EQ(pare({"inspect", replayed, "--recipe"}).out, printed.out);

  // With other data it is refused, naming the line.
  std::ofstream(folder_ + "/other.txt") << bytes_of(text()) << "More.";
  const CommandResult other =
      pare(words(folder_ + "/again.yaml", folder_ + "/x.pare", {"--data", folder_ + "/other.txt"}));
  EXPECT_EQ(other.exit_code, 3);
  EXPECT_THAT(other.error, HasSubstr("again.yaml: 3:1: data-hash"));
  EXPECT_FALSE(fs::exists(folder_ + "/x.pare"));
}

TEST_F(Compress, PrunedWeightsStayZeroInTheStepAfter) {
  ASSERT_EQ(pare(with_data(recipe(kJoint), out_, {"--keep-work"})).exit_code, 0);
  const std::string pruned = out_ + ".pare-job/parts/1.pare";
  for (const std::string& path : {pruned, out_})
    ASSERT_EQ(pare({"export", path, "--dtype", "f32", "-o", path + ".folder"}).exit_code, 0);
  const auto before = read_tensors(pruned + ".folder/model.safetensors");
  const auto after = read_tensors(out_ + ".folder/model.safetensors");
  int64_t zeros = 0, weights = 0;
  for (const auto& [name, tensor] : before) {
    if (!name.ends_with("_proj.weight")) continue;
    const Tensor& other = after.at(name);
    for (int64_t i = 0; i < tensor.numel(); ++i) {
      ++weights;
      if (tensor.data<float>()[i] != 0.0f) continue;
      ++zeros;
      ASSERT_EQ(other.data<float>()[i], 0.0f) << name << " " << i;
    }
  }
  EXPECT_GE(zeros * 2, weights);
  EXPECT_GT(weights, 2'000'000);
}

TEST_F(Compress, TwoStepsOneManifest) {
  const Json done = json_of(pare(with_data(recipe(kJoint), out_, {"--json"})));
  EXPECT_EQ(pare({"verify", out_}).exit_code, 0);
  ASSERT_EQ(done.find("steps")->size(), 2u);
  EXPECT_EQ((*done.find("steps"))[0].find("step")->as_string(), "prune");
  EXPECT_EQ((*done.find("steps"))[1].find("step")->as_string(), "quantize");
  const Json& manifest = *done.find("manifest");
  ASSERT_EQ(manifest.find("history")->size(), 2u);
  EXPECT_EQ((*manifest.find("history"))[0].find("command")->as_string(), "prune");
  EXPECT_GT((*manifest.find("history"))[0].find("tensors")->size(), 28u) << "what was pruned, per tensor";
  EXPECT_EQ((*manifest.find("history"))[1].find("command")->as_string(), "quantize");
  EXPECT_EQ((*manifest.find("recipe"))[0].find("options")->find("method")->as_string(), "wanda");
  // The second step saw what the first one made.
  EXPECT_THAT((*manifest.find("history"))[1].find("inputs")->dump(), HasSubstr("\"1.pare\""));
  EXPECT_THAT(manifest.find("inputs")->dump(), HasSubstr("model.safetensors"));

  const CommandResult printed = pare({"inspect", out_, "--recipe"});
  const std::string replayed = folder_ + "/replayed.pare";
  const CommandResult again =
      pare(with_data(recipe(printed.out, "again.yaml"), replayed, {"--threads", "1"}));
  ASSERT_EQ(again.exit_code, 0) << again.error;
  EXPECT_TRUE(bytes_of(out_) == bytes_of(replayed)) << printed.out;
}

TEST_F(Compress, DataBesideTheRecipe) {
  fs::copy_file(text(), folder_ + "/text.txt");
  const std::string path = recipe(std::string(kGptq) + "data: text.txt\n");
  ASSERT_EQ(pare(words(path, out_)).exit_code, 0);
  const std::string elsewhere = folder_ + "/elsewhere.pare";
  ASSERT_EQ(pare(with_data(recipe(kGptq, "plain.yaml"), elsewhere)).exit_code, 0);
  EXPECT_TRUE(bytes_of(out_) == bytes_of(elsewhere));
  const CommandResult both = pare(with_data(path, folder_ + "/x.pare"));
  EXPECT_EQ(both.exit_code, 2);
  EXPECT_THAT(both.error, HasSubstr("--data"));
  EXPECT_THAT(both.error, HasSubstr("r.yaml: 11:1: data"));
}

TEST_F(Compress, WithoutData) {
  const CommandResult result = pare(words(recipe(kPlain), out_));
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out, HasSubstr("step 1 of 1: quantize"));
  EXPECT_THAT(result.out, HasSubstr("pare: done: 1 steps: quantize"));
  EXPECT_THAT(result.out, Not(HasSubstr("pare-job")));
  EXPECT_EQ(pare({"verify", out_}).exit_code, 0);
  EXPECT_THAT(pare({"inspect", out_, "--recipe"}).out, Not(HasSubstr("data-hash")));
}

TEST_F(Compress, SpeedIsMeasuredOnBothModels) {
  Words list = words(recipe(kPlain), out_, {"--json"});
  list.erase(std::find(list.begin(), list.end(), "--no-speed"));
  const Json done = json_of(pare(list));
  const Json* speed = done.find("speed");
  ASSERT_NE(speed, nullptr);
  EXPECT_GT(speed->find("original")->find("loaded_bytes")->as_int(),
            speed->find("compressed")->find("loaded_bytes")->as_int());
  EXPECT_THAT(pare({"report", out_, "--text"}).out, HasSubstr("SPEED ON THIS DEVICE"));
}

TEST_F(Compress, ToAFolder) {
  ASSERT_EQ(pare(words(recipe(kPlain), folder_ + "/folder")).exit_code, 0);
  EXPECT_TRUE(fs::exists(folder_ + "/folder/model.safetensors"));
  EXPECT_EQ(pare({"verify", folder_ + "/folder"}).exit_code, 0);
}

TEST_F(Compress, PlansEveryStepAndWritesNothing) {
  const std::string path = recipe(kGptq);
  const std::string before = folder_fingerprint(folder_);
  const CommandResult plan = pare(with_data(path, out_, {"--dry-run"}));
  ASSERT_EQ(plan.exit_code, 0) << plan.error;
  EXPECT_THAT(plan.out, HasSubstr("step 1 of 1: quantize"));
  EXPECT_THAT(plan.out, HasSubstr("28 matrices to int4-g64-sym by gptq (with exceptions)"));
  EXPECT_THAT(plan.out, HasSubstr("nothing was written"));
  const Json json = json_of(pare(with_data(path, out_, {"--dry-run", "--json"})));
  EXPECT_TRUE(json.find("dry_run")->as_bool());
  EXPECT_EQ(folder_fingerprint(folder_), before);
}

TEST_F(Compress, RefusedBeforeAnyWork) {
  const auto refused = [&](const std::string& content, int code, const std::string& words_of_error,
                           const Words& more = {}) {
    const std::string path = recipe(content);
    const std::string before = folder_fingerprint(folder_);
    const CommandResult result = pare(words(path, out_, more));
    EXPECT_EQ(result.exit_code, code) << result.error;
    EXPECT_EQ(result.error_lines(), 1) << result.error;
    EXPECT_THAT(result.error, HasSubstr(words_of_error));
    EXPECT_EQ(folder_fingerprint(folder_), before);
  };
  refused("schema: 1\nsteps: [distil]\n", 4, "r.yaml: 2:9: steps");
  refused("schema: 1\nsteps:\n  - quantize: {scheme: int8-ch}\n  - quantize: {scheme: int4-g64}\n", 4,
          "step 2 (quantize)");
  refused("schema: 1\nsteps:\n  - quantize: {overrides: [{pattern: nowhere.*, value: keep}]}\n", 3,
          "r.yaml: 3:28: overrides");
  refused("schema: 1\nsteps:\n  - quantize: {exclude: [nowhere.*]}\n", 3, "3:26: exclude");
  refused(kGptq, 3, "method: needs calibration data");
  refused(kPlain, 6, "memory", {"--max-memory", "1MB"});
  refused(kPlain, 2, "--fail-if", {"--fail-if", "kl>0.1"});
  refused(kPlain, 2, "--data", {"--data", "-"});
  EXPECT_EQ(pare({"compress", sample(), "-o", out_}).exit_code, 2);
  EXPECT_EQ(pare({"compress", sample(), "--recipe", folder_ + "/none.yaml", "-o", out_}).exit_code, 5);
  EXPECT_EQ(pare({"compress", sample(), "--recipe", recipe(kPlain), "--seed", "3", "-o", out_}).exit_code, 2);
  EXPECT_EQ(pare({"inspect", sample(), "--recipe"}).exit_code, 4);
}

TEST_F(Compress, GatesHoldForTheWhole) {
  const CommandResult result = pare(with_data(recipe(kGptq), out_, {"--fail-if", "kl>0.000001"}));
  EXPECT_EQ(result.exit_code, 9) << result.error;
  EXPECT_TRUE(fs::exists(out_));
}

TEST_F(Compress, KeepsItsWorkWhenAsked) {
  ASSERT_EQ(pare(with_data(recipe(kGptq), out_, {"--keep-work"})).exit_code, 0);
  EXPECT_TRUE(fs::exists(out_ + ".pare-job/parts/1.pare"));
  EXPECT_EQ(pare({"verify", out_ + ".pare-job/parts/1.pare"}).exit_code, 0);
  const std::string before = bytes_of(out_);
  // Finished: the output is recognised, and the folder goes.
  const CommandResult resumed = pare(with_data(folder_ + "/r.yaml", out_, {"--resume"}));
  EXPECT_EQ(resumed.exit_code, 0) << resumed.error;
  EXPECT_TRUE(bytes_of(out_) == before);
  EXPECT_FALSE(fs::exists(out_ + ".pare-job"));
  const CommandResult twice = pare(with_data(folder_ + "/r.yaml", out_));
  EXPECT_EQ(twice.exit_code, 2) << "exists";
}

}  // namespace
}  // namespace pare::test
