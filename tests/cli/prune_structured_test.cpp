// `pare prune --structure` as a user runs it: plans, outputs that load again, refusals, and a job that goes
// on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/cli/words.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

std::string sample() {
  return source_path("samples/books-3m");
}
std::string text() {
  return source_path("samples/text/sample.txt");
}

Words prune(const std::string& out, const Words& more) {
  Words words = {"prune", sample(), "-o", out, "--no-speed"};
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

Words with_data(Words words) {
  for (const char* word : {"--data", "", "--samples", "6", "--context", "64", "--report-tokens", "128"})
    words.emplace_back(*word == '\0' ? text() : word);
  return words;
}

int64_t integer(const Json& json, const std::string& a, const std::string& b) {
  const Json* found = json.find(a);
  if (found != nullptr) found = found->find(b);
  EXPECT_TRUE(found != nullptr && found->is_integer()) << a << "." << b;
  return found != nullptr && found->is_integer() ? found->as_int() : 0;
}

TEST(PruneStructured, TheOutputIsAPlainSmallerModel) {
  const std::string out = temporary_folder() + "/small";
  const Json json = json_of(pare(with_data(prune(
      out, {"--structure", "layers,hidden,heads,mlp", "--layers", "3", "--hidden", "192", "--kv-heads", "1",
            "--intermediate", "512", "--keep-first", "0", "--keep-last", "0", "--repair", "--json"}))));
  EXPECT_EQ(integer(json, "after", "layers"), 3);
  EXPECT_EQ(integer(json, "after", "heads"), 2);
  EXPECT_LT(integer(json, "after", "parameters"), integer(json, "before", "parameters"));
  EXPECT_LT(integer(json, "after", "kv_bytes_per_token_at_16_bit"),
            integer(json, "before", "kv_bytes_per_token_at_16_bit"));
  ASSERT_NE(json.find("damage"), nullptr);
  const CommandResult inspected = pare({"inspect", out, "--json"});
  EXPECT_EQ(inspected.exit_code, 0) << inspected.error;
  EXPECT_THAT(pare({"inspect", out}).out,
              HasSubstr("3 blocks, hidden 192, MLP 512, 2 heads of 64, 1 KV heads"));
  EXPECT_EQ(pare({"verify", out}).exit_code, 0);
  const CommandResult said = pare({"run", out, "-p", "It was late", "-n", "8", "--ignore-eos"});
  EXPECT_EQ(said.exit_code, 0) << said.error;
}

TEST(PruneStructured, APareFileHoldsTheSameModel) {
  const std::string folder = temporary_folder();
  const Words cut = {"--structure", "mlp", "--sparsity", "0.2", "--repair"};
  ASSERT_EQ(pare(with_data(prune(folder + "/a", cut))).exit_code, 0);
  ASSERT_EQ(pare(with_data(prune(folder + "/a.pare", cut))).exit_code, 0);
  ASSERT_EQ(pare({"export", folder + "/a.pare", "-o", folder + "/b"}).exit_code, 0);
  const auto bytes = [](const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string{std::istreambuf_iterator<char>(in), {}};
  };
  EXPECT_EQ(bytes(folder + "/b/config.json"), bytes(folder + "/a/config.json"));
  const CommandResult same = pare({"evaluate", folder + "/a.pare", "--reference", folder + "/a", "--data",
                                   text(), "--context", "64", "--tokens", "256", "--fail-if", "kl>1e-12"});
  EXPECT_EQ(same.exit_code, 0) << same.out << same.error;
}

TEST(PruneStructured, APlanWritesNothing) {
  const std::string out = temporary_folder() + "/planned";
  const Json json = json_of(pare(prune(
      out, {"--structure", "mlp", "--params", "2.5M", "--importance", "weight", "--dry-run", "--json"})));
  EXPECT_LE(integer(json, "after", "parameters"), 2'500'000);
  EXPECT_EQ(integer(json, "after", "intermediate") % 64, 0);
  EXPECT_FALSE(std::filesystem::exists(out));
  const CommandResult words =
      pare(prune(out, {"--structure", "layers", "--layers", "3", "--importance", "weight", "--keep-first",
                       "1", "--keep-last", "1", "--dry-run"}));
  EXPECT_THAT(words.out, HasSubstr("layers 4 -> 3"));
}

TEST(PruneStructured, AVocabularyFollowsItsText) {
  const std::string out = temporary_folder() + "/words";
  const Json json = json_of(pare(prune(out, {"--structure", "vocabulary", "--keep-corpus", text(),
                                             "--min-count", "3", "--multiple", "16", "--json"})));
  EXPECT_LT(integer(json, "after", "vocabulary"), 2048);
  EXPECT_EQ(integer(json, "after", "vocabulary") % 16, 0);
  EXPECT_EQ(pare({"run", out, "-p", "It was late", "-n", "8"}).exit_code, 0);
}

TEST(PruneStructured, WhatCannotBeIsRefused) {
  const std::string out = temporary_folder() + "/none";
  const auto refused = [&](int code, const Words& more, const std::string& said) {
    const CommandResult result = pare(prune(out, more));
    EXPECT_EQ(result.exit_code, code) << said << ": " << result.error;
    EXPECT_THAT(result.error, HasSubstr(said));
    EXPECT_FALSE(std::filesystem::exists(out));
  };
  refused(2, {"--structure", "mlp", "--sparsity", "0.25", "--importance", "taylor"}, "gradients of the loss");
  refused(2, {"--structure", "layers", "--sparsity", "0.25", "--importance", "eigen"}, "a score of layers");
  refused(2, {"--structure", "mlp", "--sparsity", "0.25", "--taylor-form", "first"}, "--importance");
  refused(4, {"--structure", "experts", "--sparsity", "0.25"}, "no experts");
  refused(2, {"--structure", "mlp", "--sparsity", "0.25", "--importance", "activation"}, "--data");
  refused(2, {"--structure", "mlp", "--sparsity", "0.25", "--repair"}, "--data");
  refused(2, {"--structure", "mlp", "--sparsity", "0.25", "--method", "wanda"}, "--importance");
  refused(2, {"--structure", "mlp"}, "no target");
  refused(2, {"--structure", "mlp", "--layers", "2"}, "leaves out");
  refused(2, {"--structure", "heads", "--sparsity", "0.25"}, "removes no unit");
  refused(2, {"--structure", "vocabulary"}, "--keep-corpus");
  refused(2, {"--structure", "mlp", "--sparsity", "0.25", "--params", "1M"}, "one target");
  refused(7, {"--structure", "mlp", "--sparsity", "1"}, "nothing would be left");
  refused(7, {"--drop-layers", "0,1,2,3"}, "nothing would be left");
}

TEST(PruneStructured, GradientsChooseUnits) {
  const std::string folder = temporary_folder();
  for (const char* score : {"taylor", "fisher"}) {
    const std::string out = folder + "/" + score;
    const Json json = json_of(pare(with_data(
        prune(out, {"--structure", "layers,mlp", "--layers", "3", "--intermediate", "448", "--keep-first",
                    "0", "--keep-last", "0", "--importance", score, "--repair", "--json"}))));
    EXPECT_EQ(integer(json, "after", "layers"), 3);
    EXPECT_EQ(integer(json, "after", "intermediate"), 448);
    EXPECT_EQ(pare({"run", out, "-p", "It was late", "-n", "4"}).exit_code, 0);
  }
}

TEST(PruneStructured, TheSameBytesForAnyThreads) {
  const std::string folder = temporary_folder();
  const auto run = [&](const std::string& threads) {
    const std::string out = folder + "/" + threads;
    EXPECT_EQ(
        pare(with_data(prune(out, {"--structure", "heads,mlp", "--kv-heads", "1", "--intermediate", "448",
                                   "--repair", "--importance", "obs", "--threads", threads, "--no-report"})))
            .exit_code,
        0);
    std::ifstream in(out + "/model.safetensors", std::ios::binary);
    return std::string{std::istreambuf_iterator<char>(in), {}};
  };
  EXPECT_EQ(run("1"), run("2"));
}

}  // namespace
}  // namespace pare::test
