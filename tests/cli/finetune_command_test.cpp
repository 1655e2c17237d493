// `pare finetune` as a user runs it, and what both training commands do with time, validation and memory.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/cli/training_words.h"
#include "tests/support/memory_source.h"

namespace pare::test {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

Words finetune_words(const std::string& out) {
  return {"finetune", sample_model(), "-o", out};
}

double value(const Json& json, const std::string& path) {
  const Json found = at(json, path);
  EXPECT_TRUE(found.is_number()) << path;
  return found.is_number() ? found.as_double() : 0.0;
}

TEST(FinetuneCommand, TheModelLearnsTheText) {
  const std::string out = temporary_folder() + "/tuned";
  const Json json = json_of(pare(finetune_words(out) + small_run(10) +
                                 Words{"--validate", sample_text(), "--evaluate-every", "5", "--json"}));
  EXPECT_EQ(at(json, "command").as_string(), "finetune");
  EXPECT_EQ(at(json, "options.loss.kind").as_string(), "ce");
  const Json points = at(json, "validations");
  ASSERT_EQ(points.size(), 3u);  // before the first step, in the middle, at the end
  EXPECT_EQ(at(points[0], "step").as_int(), 0);
  EXPECT_EQ(at(points[2], "step").as_int(), 10);
  EXPECT_LT(value(points[2], "cross_entropy"), value(points[0], "cross_entropy") - 0.1);
  EXPECT_EQ(pare({"verify", out}).exit_code, 0);
  // The manifest says what was done, without paths.
  const Json manifest = at(json, "manifest");
  EXPECT_EQ(at(manifest, "options.training.steps").as_int(), 10);
  EXPECT_EQ(manifest.dump().find(source_path("samples")), std::string::npos);
}

TEST(FinetuneCommand, AdaptersAreAddedIn) {
  const std::string out = temporary_folder() + "/lora";
  ASSERT_EQ(pare(finetune_words(out) + small_run() + Words{"--lora", "4", "--no-report"}).exit_code, 0);
  const auto before = read_tensors(sample_model() + "/model.safetensors");
  const auto after = read_tensors(out + "/model.safetensors");
  ASSERT_EQ(before.size(), after.size());
  const auto is_same = [&](const std::string& name) {
    return std::memcmp(before.at(name).raw(), after.at(name).raw(), before.at(name).size_bytes()) == 0;
  };
  EXPECT_TRUE(is_same("model.embed_tokens.weight"));
  EXPECT_TRUE(is_same("model.norm.weight"));
  EXPECT_FALSE(is_same("model.layers.0.self_attn.q_proj.weight"));
}

TEST(FinetuneCommand, SeveralFilesByWeight) {
  const std::string folder = temporary_folder();
  std::ofstream(folder + "/a.jsonl") << [] {
    std::string lines;
    for (int i = 0; i < 60; ++i) lines += "{\"text\": \"The sea was grey, and the boat was late again.\"}\n";
    return lines;
  }();
  Words words = finetune_words(folder + "/out.pare") + small_run() + Words{"--no-report", "--json"};
  words[5] = sample_text() + "=3";
  const Json json = json_of(pare(words + Words{"--data", folder + "/a.jsonl=1", "--token-cache", folder}));
  const Json streams = at(json, "data.streams");
  ASSERT_EQ(streams.size(), 2u);
  EXPECT_EQ(value(streams[0], "weight"), 3.0);
  EXPECT_EQ(value(streams[1], "weight"), 1.0);
  // One without a weight, and a second run that reads the token cache.
  words[3] = folder + "/again.pare";
  const Json again = json_of(pare(words + Words{"--data", folder + "/a.jsonl=1", "--token-cache", folder}));
  EXPECT_TRUE(bytes_of(folder + "/out.pare") == bytes_of(folder + "/again.pare"));
  words[3] = folder + "/none.pare";
  const CommandResult refused = pare(words + Words{"--data", folder + "/a.jsonl"});
  EXPECT_EQ(refused.exit_code, 2);
  EXPECT_THAT(refused.error, HasSubstr("weights for all files or for none"));
}

TEST(FinetuneCommand, OnlyTheFirstTokensOfAFile) {
  const Json json = json_of(pare(finetune_words(temporary_folder() + "/out") + small_run(1) +
                                 Words{"--max-tokens", "1000", "--dry-run", "--json"}));
  const Json streams = at(json, "data.streams");
  ASSERT_EQ(streams.size(), 1u);
  EXPECT_EQ(at(streams[0], "tokens").as_int(), 1000);
  const Json whole = json_of(
      pare(finetune_words(temporary_folder() + "/out") + small_run(1) + Words{"--dry-run", "--json"}));
  const Json all = at(whole, "data.streams");
  ASSERT_EQ(all.size(), 1u);
  EXPECT_GT(at(all[0], "tokens").as_int(), 1000);
  EXPECT_NE(at(all[0], "token_hash").as_string(), at(streams[0], "token_hash").as_string());
}

TEST(FinetuneCommand, TheTypeOfTheOutputCanBeChosen) {
  const std::string out = temporary_folder() + "/wide";
  ASSERT_EQ(pare(finetune_words(out) + small_run(1) + Words{"--no-report", "--dtype", "f32"}).exit_code, 0);
  EXPECT_EQ(read_tensors(out + "/model.safetensors").begin()->second.dtype(), DType::f32);
  EXPECT_THAT(bytes_of(out + "/config.json"), HasSubstr("\"torch_dtype\": \"float32\""));
}

TEST(FinetuneCommand, ARunByTimeSaysHowManyStepsItTook) {
  const std::string out = temporary_folder() + "/timed.pare";
  Words words = finetune_words(out) + small_run() + Words{"--no-report", "--json"};
  words.erase(words.begin() + 10, words.begin() + 12);  // --steps
  const Json json = json_of(pare(words + Words{"--minutes", "0.05"}));
  EXPECT_GE(at(json, "steps").as_int(), 1);
  EXPECT_EQ(at(json, "manifest.options.training.steps").as_int(), at(json, "steps").as_int());
}

TEST(FinetuneCommand, NoBetterValidationEndsTheRun) {
  const std::string out = temporary_folder() + "/early.pare";
  // A rate at which the model forgets at once.
  const Json json = json_of(
      pare(finetune_words(out) + small_run(40, "0.1") +
           Words{"--no-report", "--json", "--validate", sample_text(), "--validation-tokens", "512",
                 "--evaluate-every", "1", "--patience", "2", "--warmup", "0", "--schedule", "constant"}));
  EXPECT_EQ(at(json, "ended").as_string(), "early stop");
  EXPECT_EQ(at(json, "steps").as_int(), 2);
  EXPECT_EQ(at(json, "kept_step").as_int(), 0);
}

TEST(FinetuneCommand, ALossThatIsNotANumberIsExit7) {
  const std::string out = temporary_folder() + "/nan.pare";
  const CommandResult result = pare(finetune_words(out) + small_run(200, "1000") +
                                    Words{"--no-report", "--optimizer", "sgd", "--clip", "0", "--warmup", "0",
                                          "--validation-share", "0", "--checkpoint-every", "1"});
  EXPECT_EQ(result.exit_code, 7) << result.error;
  EXPECT_THAT(result.error, HasSubstr("step "));
  EXPECT_FALSE(fs::exists(out));
  EXPECT_TRUE(fs::exists(out + ".pare-job/CURRENT"));  // the last good checkpoint
}

TEST(FinetuneCommand, PrivateTrainingSaysWhatItSpent) {
  const std::string out = temporary_folder() + "/private.pare";
  const Json json = json_of(pare(finetune_words(out) + small_run(2) +
                                 Words{"--no-report", "--dp-clip", "1", "--dp-noise", "1.5", "--json"}));
  EXPECT_GT(value(json, "privacy.epsilon"), 0.0);
  EXPECT_LT(value(json, "privacy.epsilon"), 100.0);
  EXPECT_EQ(json.dump().find("secret"), std::string::npos);
}

TEST(FinetuneCommand, SparsityGrowsWhileItIsTrained) {
  const std::string folder = temporary_folder();
  ASSERT_EQ(pare(finetune_words(folder + "/s") + small_run(6) +
                 Words{"--no-report", "--sparsity-schedule", "0.5@1:4:3"})
                .exit_code,
            0);
  const auto tensors = read_tensors(folder + "/s/model.safetensors");
  const Tensor& weight = tensors.at("model.layers.2.mlp.up_proj.weight");
  const auto* bits = weight.data<uint16_t>();
  const auto zeros =
      std::count_if(bits, bits + weight.numel(), [](uint16_t bit) { return (bit & 0x7fff) == 0; });
  EXPECT_EQ(zeros, weight.numel() / 2);
}

}  // namespace
}  // namespace pare::test
