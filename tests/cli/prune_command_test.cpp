// `pare prune` as a user runs it: every method and pattern, what it says, what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/cli/prune_words.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

TEST(PruneCommand, EveryMethodAndPattern) {
  const std::string folder = temporary_folder();
  for (const auto& [method, sparsity, more] : std::vector<std::tuple<std::string, std::string, Words>>{
           {"magnitude", "0.5", {}},
           {"magnitude", "0.5", {"--allocation", "global"}},
           {"magnitude", "0.5", {"--allocation", "global", "--normalise", "lamp"}},
           {"magnitude", "2:4", {}},
           {"magnitude", "0.5:block-16x16", {}},
           {"magnitude", "0.3", data()},
           {"wanda", "0.5", data()},
           {"wanda", "4:8", plus(data(), {"--calibrate", "block"})},
           {"sparsegpt", "0.5", data()},
           {"sparsegpt", "0.5", plus(data(), {"--order", "act"})},
           {"sparsegpt", "2:4", data()},
           {"sparsegpt", "0.5:block-1x8", data()},
           {"sparsegpt", "0.5", plus(data(), {"--allocation", "owl"})},
           {"wanda", "0.6", plus(data(), {"--allocation", "global"})},
           {"taylor", "0.5", data()},
           {"taylor", "0.6", plus(data(), {"--taylor-form", "mixed", "--allocation", "global"})},
           {"taylor", "0.5:block-1x8", plus(data(), {"--taylor-form", "first"})},
           {"obd", "2:4", data()},
           {"fisher", "0.5", plus(data(), {"--allocation", "owl", "--scope", "row"})},
           {"sparsegpt", "2:4", plus(data(), {"--scheme", "int4-g64"})},
           {"sparsegpt", "0.5", plus(data(), {"--scheme", "int8-ch"})}}) {
    SCOPED_TRACE(method + " " + sparsity + (more.empty() ? "" : " " + more.back()));
    for (const char* name : {"/out.pare", "/out"}) {
      const std::string out = folder + name;
      const Json done =
          json_of(pare(prune(out, plus({"--method", method, "--sparsity", sparsity, "--json"}, more))));
      EXPECT_EQ(pare({"verify", out}).exit_code, 0);
      EXPECT_EQ(number(done, "pruned_tensors"), 28);
      EXPECT_EQ(number(done, "fallbacks"), 0);
      const double asked = number(done, "removed_parameters") / number(done, "pruned_parameters");
      // Rows and rows of blocks lose whole numbers; rows have 256 columns or more.
      const double slack = sparsity.find("block") != std::string::npos                    ? 0.03
                           : method == "wanda" || (!more.empty() && more.back() == "row") ? 4e-3
                                                                                          : 1e-4;
      EXPECT_NEAR(number(done, "sparsity_reached"), asked, slack);
      if (!more.empty() && more[0] == "--data") {
        EXPECT_GT(number(*done.find("damage")->find("data"), "scored_tokens"), 50);
      }
      const CommandResult generated = pare({"run", out, "-p", "It was", "-n", "4", "--temperature", "0"});
      EXPECT_EQ(generated.exit_code, 0) << generated.error;
    }
  }
}

// The dense weights of the folder are those that the sparse file stands for.
TEST(PruneCommand, SparseFileAndFolderAreTheSameModel) {
  const std::string folder = temporary_folder();
  for (const char* sparsity : {"0.5", "2:4", "0.5:block-16x16"}) {
    const Words words = {"--method", "magnitude", "--sparsity", sparsity};
    ASSERT_EQ(pare(prune(folder + "/a.pare", words)).exit_code, 0);
    ASSERT_EQ(pare(prune(folder + "/b", words)).exit_code, 0);
    ASSERT_EQ(pare({"export", folder + "/a.pare", "-o", folder + "/c", "--force"}).exit_code, 0);
    const Json a = json_of(pare({"evaluate", folder + "/a.pare", "--reference", folder + "/b", "--data",
                                 sample_text(), "--tokens", "512", "--json", "--device", "reference"}));
    EXPECT_LT(number((*a.find("results"))[0], "kl_max"), 1e-9) << sparsity;
    EXPECT_EQ(folder_fingerprint(folder + "/b").find("model.safetensors") == std::string::npos, false);
    EXPECT_LT(std::filesystem::file_size(folder + "/a.pare"),
              std::filesystem::file_size(folder + "/b/model.safetensors"))
        << sparsity;
  }
}

TEST(PruneCommand, SaysWhatItDid) {
  const std::string out = temporary_folder() + "/out.pare";
  const CommandResult result =
      pare(plus({"prune", sample_model(), "-o", out, "--method", "wanda", "--report"}, data()));
  ASSERT_EQ(result.exit_code, 0) << result.error;
  for (const char* part :
       {"28 matrices lose 0.5 by wanda, uniform", "1,376,256 of 3,279,104 parameters removed",
        "sparsity reached 50.000 %", "damage on", "one token", "prompt of", "weights in memory",
        "28 wanda, 0 fallback", "model.layers.0.self_attn.q_proj.weight"})
    EXPECT_THAT(result.out, HasSubstr(part));
}

// Channel norms are enough for Wanda; SparseGPT says what it lacks, and leaves nothing in the way.
TEST(PruneCommand, SavedStatistics) {
  const std::string folder = temporary_folder();
  const std::string file = folder + "/s.safetensors", out = folder + "/out.pare";
  ASSERT_EQ(pare({"calibrate", sample_model(), "--data", sample_text(), "--samples", "6", "--context", "64",
                  "-o", file})
                .exit_code,
            0);
  for (const char* method : {"wanda", "magnitude"}) {
    const CommandResult result =
        pare(prune(out, {"--method", method, "--statistics", file, "--sparsity", "2:4"}));
    EXPECT_EQ(result.exit_code, 0) << method << result.error;
  }
  std::filesystem::remove(out);
  for (int time = 0; time < 2; ++time) {
    const CommandResult result = pare(prune(out, {"--method", "sparsegpt", "--statistics", file}));
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_THAT(result.error, HasSubstr("second_moment"));
    EXPECT_FALSE(std::filesystem::exists(out + ".pare-job"));
  }
}

TEST(PruneCommand, DryRunWritesNothing) {
  const std::string folder = temporary_folder();
  for (const Words& more : {Words{"--method", "magnitude"}, data()}) {
    const CommandResult result = pare(prune(folder + "/out.pare", plus({"--dry-run"}, more)));
    EXPECT_EQ(result.exit_code, 0) << result.error;
    EXPECT_THAT(result.out, HasSubstr("nothing was written"));
    EXPECT_TRUE(std::filesystem::is_empty(folder));
  }
}

TEST(PruneCommand, RefusesByName) {
  const std::string folder = temporary_folder();
  const std::string out = folder + "/out.pare";
  for (const auto& [more, code, part] : std::vector<std::tuple<Words, int, std::string>>{
           {{"--method", "wanda"}, 2, "needs calibration data"},
           {{"--method", "taylor"}, 2, "needs gradients"},
           {{"--method", "magnitude", "--taylor-form", "first"}, 2, "--taylor-form"},
           {plus(data(), {"--method", "fisher", "--taylor-form", "first"}), 2, "--taylor-form"},
           {plus(data(), {"--method", "taylor", "--taylor-form", "second"}), 2, "--taylor-form"},
           {plus(data(), {"--method", "taylor", "--allocation", "global", "--scope", "row"}), 2,
            "--allocation"},
           {plus(data(), {"--method", "taylor", "--allocation", "global", "--sparsity", "2:4"}), 2, "N:M"},
           {plus(data(), {"--method", "taylor", "--max-memory", "40MB"}), 6, "need"},
           {{"--method", "wonda"}, 2, "not a method of pruning"},
           {{"--method", "magnitude", "--sparsity", "1.0"}, 2, "--sparsity"},
           {{"--method", "magnitude", "--sparsity", "4:2"}, 2, "--sparsity"},
           {{"--method", "magnitude", "--sparsity", "2:3"}, 4, "does not divide"},
           {{"--method", "magnitude", "--sparsity", "2:4", "--allocation", "global"}, 2, "--allocation"},
           {{"--method", "magnitude", "--scheme", "int4-g64"}, 2, "--scheme"},
           {{"--method", "magnitude", "--normalise", "rms"}, 2, "--normalise"},
           {{"--method", "magnitude", "--resume"}, 2, "--resume"},
           {plus(data(), {"--method", "sparsegpt", "--damping", "nan"}), 2, "--damping"},
           {{"--method", "magnitude", "--set", "nothing.*=0.5"}, 2, "matches no tensor"},
           {{"--method", "magnitude", "--set", "*norm*=0.5"}, 2, "never pruned"},
           {plus(data(), {"--method", "sparsegpt", "--sparsity", "2:4", "--order", "act"}), 2, "--order"},
           {plus(data(), {"--method", "sparsegpt", "--scheme", "int4-g64-asymf"}), 4,
            "code for exactly zero"},
           {{"--method", "magnitude", "--sparsity", "0.999999"}, 7, "would lose all weights"}}) {
    const CommandResult result = pare(prune(out, more));
    EXPECT_EQ(result.exit_code, code) << part << "\n" << result.error;
    EXPECT_EQ(result.error_lines(), 1) << result.error;
    EXPECT_THAT(result.error, HasSubstr(part));
    EXPECT_FALSE(std::filesystem::exists(out)) << part;
  }
}

// One cut over all matrices: the whole loses exactly what was asked, each matrix another share; what --set
// names keeps its own.
TEST(PruneCommand, AGlobalCutByGradients) {
  const std::string folder = temporary_folder(), out = folder + "/out";
  const Words words =
      plus(data(), {"--method", "taylor", "--taylor-form", "first", "--sparsity", "0.5", "--allocation",
                    "global", "--set", "layers.*.down_proj=0.25", "--json", "--keep-work"});
  const Json done = json_of(pare(prune(out, words)));
  EXPECT_EQ(done.find("method")->as_string(), "taylor");
  EXPECT_EQ(done.find("taylor_form")->as_string(), "first");
  int64_t cut_weights = 0, cut_kept = 0, named = 0;
  double low = 1.0, high = 0.0;
  for (const Json& record : done.find("manifest")->find("tensors")->items()) {
    const Json& extra = *record.find("extra");
    const Json* kept = extra.find("kept");
    if (kept == nullptr) continue;
    int64_t weights = 1;
    for (const Json& size : record.find("shape")->items()) weights *= size.as_int();
    const double share = number(extra, "sparsity");
    EXPECT_NEAR(share, number(extra, "sparsity_asked"), 1e-3);
    if (record.find("name")->as_string().find("down_proj") != std::string::npos) {
      EXPECT_EQ(kept->as_int(), weights - weights / 4);
      ++named;
      continue;
    }
    cut_weights += weights, cut_kept += kept->as_int();
    low = std::min(low, share), high = std::max(high, share);
  }
  EXPECT_EQ(named, 4);
  EXPECT_EQ(cut_kept, cut_weights / 2);
  EXPECT_GT(high - low, 0.02);
  // A job that is done is found to be, with its scores.
  const std::string before = folder_fingerprint(out);
  const CommandResult resumed = pare(prune(out, plus(words, {"--resume"})));
  EXPECT_EQ(resumed.exit_code, 0) << resumed.error;
  EXPECT_EQ(folder_fingerprint(out), before);
}

TEST(PruneCommand, ThreadsDoNotChangeWhatGradientsChoose) {
  const std::string folder = temporary_folder();
  std::vector<std::string> prints;
  for (const char* threads : {"1", "2"}) {
    const std::string out = folder + "/" + threads;
    const CommandResult result =
        pare(prune(out, plus(data(), {"--method", "fisher", "--threads", threads, "--no-report"})));
    ASSERT_EQ(result.exit_code, 0) << result.error;
    prints.push_back(folder_fingerprint(out));
  }
  EXPECT_EQ(prints[0], prints[1]);
}

TEST(PruneCommand, ThreadsAndMemoryDoNotChangeTheFile) {
  const std::string folder = temporary_folder();
  std::vector<std::string> prints;
  for (const Words& more :
       {Words{"--threads", "1"}, Words{"--threads", "2"}, Words{"--max-memory", "120MB"}}) {
    const std::string out = folder + "/" + std::to_string(prints.size());
    const CommandResult result =
        pare(prune(out, plus(plus(data(), {"--method", "sparsegpt", "--sparsity", "0.6"}), more)));
    ASSERT_EQ(result.exit_code, 0) << result.error;
    prints.push_back(folder_fingerprint(out));
  }
  EXPECT_EQ(prints[0], prints[1]);
  EXPECT_EQ(prints[0], prints[2]);
}

}  // namespace
}  // namespace pare::test
