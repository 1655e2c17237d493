// `pare distill` as a user runs it: students that learn, outputs that load elsewhere, the same bytes again,
// and refusals.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "formats/open_model.h"
#include "tests/cli/training_words.h"
#include "tests/support/memory_source.h"
#include "tests/support/walk.h"

namespace pare::test {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

TEST(DistillCommand, ACutStudentComesNearerToItsTeacher) {
  const std::string out = temporary_folder() + "/small";
  const Json json = json_of(pare(distill_words(cut_student(), out) + small_run(12) + Words{"--json"}));
  EXPECT_EQ(at(json, "options.loss.kind").as_string(), "kl");  // for the teacher is among its ancestors
  EXPECT_EQ(at(json, "steps").as_int(), 12);
  EXPECT_GT(at(json, "log_perplexity_excess.recovered").as_double(), 0.1);
  EXPECT_LT(at(json, "damage.kl_mean").as_double(), at(json, "damage_before.kl_mean").as_double());
  EXPECT_EQ(pare({"verify", out}).exit_code, 0);
  EXPECT_EQ(bytes_of(out + "/tokenizer.json"), bytes_of(sample_model() + "/tokenizer.json"));
  EXPECT_EQ(bytes_of(out + "/config.json"), bytes_of(cut_student() + "/config.json"));
  EXPECT_EQ(read_tensors(out + "/model.safetensors").begin()->second.dtype(), DType::bf16);
  EXPECT_TRUE(fs::exists(out + ".report.json"));
  EXPECT_TRUE(fs::exists(out + ".log.jsonl"));
  EXPECT_FALSE(fs::exists(out + ".pare-job"));
  const CommandResult again =
      pare({"quantize", out, "--method", "rtn", "--scheme", "int8-ch", "-o", out + ".pare"});
  EXPECT_EQ(again.exit_code, 0) << again.error;
  EXPECT_EQ(pare({"run", out, "-p", "It was late", "-n", "4", "--ignore-eos"}).exit_code, 0);
}

TEST(DistillCommand, TheSameBytesForAnyThreadsAndAgain) {
  const std::string folder = temporary_folder();
  const auto run = [&](const std::string& name, const char* threads) {
    const CommandResult result = pare(distill_words(cut_student(), folder + "/" + name) + small_run() +
                                      Words{"--no-report", "--threads", threads});
    EXPECT_EQ(result.exit_code, 0) << result.error;
    return bytes_of(folder + "/" + name);
  };
  const std::string one = run("one.pare", "1");
  EXPECT_FALSE(one.empty());
  EXPECT_TRUE(run("two.pare", "2") == one);
  EXPECT_TRUE(run("three.pare", "2") == one);
}

TEST(DistillCommand, RecomputedActivationsGiveTheSameBytes) {
  const std::string folder = temporary_folder();
  for (const char* when : {"on", "off"})
    ASSERT_EQ(pare(distill_words(cut_student(), folder + "/" + when + ".pare") + small_run() +
                   Words{"--no-report", "--recompute", when})
                  .exit_code,
              0);
  EXPECT_TRUE(bytes_of(folder + "/on.pare") == bytes_of(folder + "/off.pare"));
}

TEST(DistillCommand, APlanWritesNothing) {
  const std::string folder = temporary_folder();
  const std::string before = folder_fingerprint(folder);
  const Words words = distill_words(cut_student(), folder + "/planned") + small_run() + Words{"--dry-run"};
  const Json json = json_of(pare(words + Words{"--json"}));
  EXPECT_TRUE(at(json, "dry_run").as_bool());
  EXPECT_EQ(at(json, "planned_steps").as_int(), 3);
  EXPECT_EQ(at(json, "tokens_per_step").as_int(), 128);
  EXPECT_GT(at(json, "memory_estimate_bytes").as_int(), 1 << 20);
  const CommandResult said = pare(words + Words{"--cache-teacher", folder + "/cache"});
  EXPECT_THAT(said.out, HasSubstr("bytes per token"));
  EXPECT_THAT(said.out, HasSubstr("nothing was written (--dry-run)"));
  EXPECT_EQ(folder_fingerprint(folder), before);
}

TEST(DistillCommand, AFreshStudentHasTheTeachersTokenizer) {
  const std::string folder = temporary_folder();
  std::ofstream(folder + "/small.json") << R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama",
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 2048, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true,
    "torch_dtype": "float32"})";
  const Words words =
      Words{"distill", "--teacher", sample_model(), "--student-config", folder + "/small.json"} +
      small_run(2);
  const Json json = json_of(pare(words + Words{"-o", folder + "/a", "--json"}));
  EXPECT_EQ(at(json, "options.loss.kind").as_string(), "ce+kl");
  EXPECT_EQ(at(json, "options.loss.alpha").as_double(), 0.5);
  EXPECT_EQ(pare({"run", folder + "/a", "-p", "It was", "-n", "2", "--ignore-eos"}).exit_code, 0);
  const auto values = read_tensors(folder + "/a/model.safetensors");
  EXPECT_EQ(values.at("model.embed_tokens.weight").dtype(), DType::f32);
  ASSERT_EQ(pare(words + Words{"-o", folder + "/b", "--no-report"}).exit_code, 0);
  ASSERT_EQ(pare(words + Words{"-o", folder + "/c", "--no-report", "--seed", "5"}).exit_code, 0);
  EXPECT_TRUE(bytes_of(folder + "/b/model.safetensors") == bytes_of(folder + "/a/model.safetensors"));
  EXPECT_FALSE(bytes_of(folder + "/c/model.safetensors") == bytes_of(folder + "/a/model.safetensors"));
}

TEST(DistillCommand, CodesAreStoredAsTheyWereTrained) {
  const std::string folder = temporary_folder();
  const Words words = Words{"distill", "--teacher", sample_model(), "--qat", "int4-g64"} + small_run(2);
  const Json json = json_of(pare(words + Words{"-o", folder + "/q.pare", "--json"}));
  EXPECT_EQ(at(json, "options.qat").as_string(), "int4-g64-sym");
  ASSERT_EQ(pare(words + Words{"-o", folder + "/q", "--no-report"}).exit_code, 0);
  // The folder has the values that the codes stand for.
  const CommandResult same =
      pare({"evaluate", folder + "/q", "--reference", folder + "/q.pare", "--data", sample_text(),
            "--context", "32", "--tokens", "128", "--fail-if", "kl>1e-9"});
  EXPECT_EQ(same.exit_code, 0) << same.out << same.error;
  EXPECT_THAT(pare({"inspect", folder + "/q.pare"}).out, HasSubstr("int4-g64-sym"));
}

TEST(DistillCommand, ScalesOfInputsStartFromTheDataAndAreLearned) {
  const std::string folder = temporary_folder(), few = folder + "/few.pare", many = folder + "/many.pare";
  const Words asked = {"--qat", "int8-ch", "--qat-activations", "static"};
  ASSERT_EQ(pare(Words{"distill", "--teacher", sample_model(), "-o", few} + small_run() + asked).exit_code,
            0);
  ASSERT_EQ(pare(Words{"distill", "--teacher", sample_model(), "-o", many} + small_run() + asked +
                 Words{"--step-rate", "100"})
                .exit_code,
            0);
  const auto model = checked(open_model(few)), other = checked(open_model(many));
  int different = 0, matrices = 0;
  for (const StoredTensor& stored : model->tensors()) {
    if (!stored.is_quantized()) continue;
    ASSERT_TRUE(stored.activation.has_value()) << stored.name;
    EXPECT_EQ(stored.activation->mode, ActivationQuant::Mode::static_tensor);
    EXPECT_GT(stored.activation->scale, 0.0f);
    EXPECT_NE(stored.activation->scale, 1.0f) << "a scale from the data";
    different += stored.activation->scale != other->find(stored.name)->activation->scale;
    ++matrices;
  }
  EXPECT_EQ(matrices, 28);
  EXPECT_GT(different, 14);
  EXPECT_EQ(pare({"run", few, "--prompt", "The", "--max-tokens", "2", "--quiet"}).exit_code, 0);
}

TEST(DistillCommand, RemovedWeightsStayRemoved) {
  const std::string folder = temporary_folder();
  ASSERT_EQ(pare({"prune", sample_model(), "--method", "magnitude", "--sparsity", "0.5", "--no-speed", "-o",
                  folder + "/sparse"})
                .exit_code,
            0);
  const CommandResult result = pare(distill_words(folder + "/sparse", folder + "/kept") + small_run());
  ASSERT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out, HasSubstr("its zeros stay zero"));
  ASSERT_EQ(pare(distill_words(folder + "/sparse", folder + "/grown") + small_run() +
                 Words{"--no-report", "--keep-masks", "off"})
                .exit_code,
            0);
  const auto zeros = [&](const std::string& name) {
    const auto tensors = read_tensors(folder + name + "/model.safetensors");
    const Tensor& weight = tensors.at("model.layers.1.mlp.down_proj.weight");
    const auto* bits = weight.data<uint16_t>();
    return std::count_if(bits, bits + weight.numel(), [](uint16_t bit) { return (bit & 0x7fff) == 0; });
  };
  EXPECT_EQ(zeros("/kept"), zeros("/sparse"));
  EXPECT_LT(zeros("/grown"), zeros("/sparse") / 10);
}

TEST(DistillCommand, ACacheIsMadeOnceAndReadAgain) {
  const std::string folder = temporary_folder();
  const Words cached = small_run() + Words{"--cache-teacher", folder + "/cache", "--top-k", "16"};
  const CommandResult made = pare(distill_words(cut_student(), folder + "/a.pare") + cached);
  ASSERT_EQ(made.exit_code, 0) << made.error;
  EXPECT_THAT(made.out, HasSubstr("teacher cache made"));
  EXPECT_THAT(made.out, HasSubstr("bytes per token"));
  const std::string before = folder_fingerprint(folder + "/cache");
  const CommandResult used = pare(distill_words(cut_student(), folder + "/b.pare") + cached);
  ASSERT_EQ(used.exit_code, 0) << used.error;
  EXPECT_THAT(used.out, HasSubstr("used again"));
  EXPECT_EQ(folder_fingerprint(folder + "/cache"), before);
  EXPECT_TRUE(bytes_of(folder + "/a.pare") == bytes_of(folder + "/b.pare"));

  // Of another temperature, and damaged.
  const CommandResult other =
      pare(distill_words(cut_student(), folder + "/c.pare") + cached + Words{"--temperature", "2"});
  EXPECT_EQ(other.exit_code, 8) << other.error;
  EXPECT_THAT(other.error, HasSubstr("temperature"));
  std::string part;
  for (const auto& entry : fs::directory_iterator(folder + "/cache"))
    if (entry.path().extension() == ".topk") part = entry.path();
  std::string bytes = bytes_of(part);
  for (size_t place = 64; place < bytes.size(); place += 256)
    bytes[place] = char(bytes[place] ^ 1);  // in every window
  std::ofstream(part, std::ios::binary) << bytes;
  const CommandResult damaged = pare(distill_words(cut_student(), folder + "/c.pare") + cached);
  EXPECT_EQ(damaged.exit_code, 3) << damaged.error;
  EXPECT_FALSE(fs::exists(folder + "/c.pare"));
  EXPECT_FALSE(fs::exists(folder + "/c.pare.pare-job"));
}

TEST(DistillCommand, ATeacherThatComesBlockByBlockSaysTheSame) {
  const std::string folder = temporary_folder();
  for (const char* how : {"whole", "one-by-one"})
    ASSERT_EQ(pare(distill_words(cut_student(), folder + "/" + how + ".pare") + small_run(2) +
                   Words{"--no-report", "--teacher-blocks", how})
                  .exit_code,
              0);
  EXPECT_TRUE(bytes_of(folder + "/whole.pare") == bytes_of(folder + "/one-by-one.pare"));
}

TEST(DistillCommand, TheJobMayLieElsewhere) {
  const std::string folder = temporary_folder();
  const Words words = distill_words(cut_student(), folder + "/out.pare") + small_run(2) +
                      Words{"--no-report", "--work-dir", folder + "/work"};
  ASSERT_EQ(pare(words + Words{"--keep-work"}).exit_code, 0);
  EXPECT_TRUE(fs::exists(folder + "/work/CURRENT"));
  const std::string bytes = bytes_of(folder + "/out.pare");
  // It is finished: nothing is done again, and the folder goes.
  const CommandResult again = pare(words + Words{"--resume"});
  EXPECT_EQ(again.exit_code, 0) << again.error;
  EXPECT_FALSE(fs::exists(folder + "/work"));
  EXPECT_TRUE(bytes_of(folder + "/out.pare") == bytes);
  ASSERT_EQ(pare(words + Words{"--keep-work", "--force"}).exit_code, 0);
  const CommandResult restarted = pare(words + Words{"--restart", "--force"});
  EXPECT_EQ(restarted.exit_code, 0) << restarted.error;
  EXPECT_TRUE(bytes_of(folder + "/out.pare") == bytes);
}

TEST(DistillCommand, StudentsKeepTheirForm) {
  const std::string folder = temporary_folder();
  // A teacher of codes, a student of patterns: zeros stay where they were, and are not stored.
  ASSERT_EQ(pare({"quantize", sample_model(), "--scheme", "int8-ch", "-o", folder + "/int8.pare"}).exit_code,
            0);
  ASSERT_EQ(pare({"prune", sample_model(), "--method", "magnitude", "--sparsity", "2:4", "--no-speed", "-o",
                  folder + "/sparse.pare"})
                .exit_code,
            0);
  const CommandResult sparse = pare(Words{"distill", "--teacher", folder + "/int8.pare", "--student",
                                          folder + "/sparse.pare", "-o", folder + "/out.pare"} +
                                    small_run(2) + Words{"--no-report"});
  ASSERT_EQ(sparse.exit_code, 0) << sparse.error;
  EXPECT_THAT(pare({"inspect", folder + "/out.pare"}).out, HasSubstr("2:4 BF16"));
  // Factors.
  ASSERT_EQ(pare({"prune", sample_model(), "--low-rank", "energy=0.9", "--data", sample_text(), "--context",
                  "64", "--samples", "4", "--no-speed", "--no-report", "-o", folder + "/thin.pare"})
                .exit_code,
            0);
  const CommandResult thin = pare(distill_words(folder + "/thin.pare", folder + "/thinner.pare") +
                                  small_run(2) + Words{"--no-report"});
  ASSERT_EQ(thin.exit_code, 0) << thin.error;
  EXPECT_THAT(pare({"inspect", folder + "/thinner.pare"}).out, HasSubstr("rank "));
  // Codes have no gradient; factors beside them do.
  const Words codes = {"finetune", folder + "/int8.pare", "-o", folder + "/merged"};
  const CommandResult refused = pare(codes + small_run(1));
  EXPECT_EQ(refused.exit_code, 4);
  EXPECT_THAT(refused.error, HasSubstr("codes cannot be trained"));
  EXPECT_EQ(pare(codes + small_run(1) + Words{"--no-report", "--lora", "2"}).exit_code, 0);
}

TEST(DistillCommand, HiddenStatesAndAttentionAreCompared) {
  const std::string out = temporary_folder() + "/h.pare";
  const Json json = json_of(pare(distill_words(cut_student(), out) + small_run(2) +
                                 Words{"--hidden-loss", "mse", "--attention-loss", "--json"}));
  EXPECT_FALSE(at(json, "options.intermediate").is_null());
}

TEST(DistillCommand, MemoryIsObeyed) {
  const std::string out = temporary_folder() + "/m.pare";
  const CommandResult refused =
      pare(distill_words(cut_student(), out) + small_run() + Words{"--max-memory", "40MB"});
  EXPECT_EQ(refused.exit_code, 6) << refused.error;
  EXPECT_THAT(refused.error, HasSubstr("need "));
  EXPECT_FALSE(fs::exists(out));
  // As little as will do: found by asking, since it depends on the machine's own libraries.
  const Words plan = distill_words(cut_student(), out) + small_run() + Words{"--dry-run", "--json"};
  const Json roomy = json_of(pare(plan));
  EXPECT_FALSE(at(roomy, "recompute").as_bool());
  const int64_t need = at(roomy, "memory_estimate_bytes").as_int();
  bool recomputes = false;
  for (int64_t limit = need - (need >> 8); limit > need / 2 && !recomputes; limit -= need >> 6) {
    const CommandResult tight = pare(plan + Words{"--max-memory", std::to_string(limit)});
    if (tight.exit_code != 0) break;
    const Json json = json_of(tight);
    EXPECT_LE(at(json, "memory_estimate_bytes").as_int(), limit);
    recomputes = at(json, "recompute").as_bool() || at(json, "micro_batch").as_int() < 4;
  }
  EXPECT_TRUE(recomputes);
}

TEST(DistillCommand, WhatCannotBeIsRefused) {
  const std::string folder = temporary_folder(), out = folder + "/none";
  const auto refused = [&](int code, const Words& words, const std::string& said) {
    const CommandResult result = pare(words);
    EXPECT_EQ(result.exit_code, code) << said << ": " << result.error;
    EXPECT_EQ(result.error_lines(), 1) << result.error;
    EXPECT_THAT(result.error, HasSubstr(said));
    EXPECT_FALSE(fs::exists(out));
    EXPECT_FALSE(fs::exists(out + ".pare-job"));
  };
  const Words models = distill_words(cut_student(), out), run = small_run();
  const Words data = {"--data", sample_text(), "--context", "32"};
  refused(2, models + data, "give --steps N or --minutes M");
  refused(2, models + run + Words{"--minutes", "1"}, "together with --minutes");
  refused(2, Words{"distill", "--teacher", sample_model(), "-o", out} + run, "--student-config");
  refused(2, models + run + Words{"--student-config", "x.json"}, "together with --student-config");
  refused(2, models + run + Words{"--loss", "ce"}, "pare finetune");
  refused(2, models + run + Words{"--loss", "kl", "--alpha", "0.5"}, "alpha");
  refused(2, models + run + Words{"--micro-batch", "3"}, "does not divide --batch 4");
  refused(2, models + run + Words{"--layer-map", "0,1"}, "belongs to --hidden-loss");
  refused(2, models + run + Words{"--tail", "zero"}, "belongs to --cache-teacher");
  refused(2, models + run + Words{"--cache-teacher", out, "--hidden-loss", "mse"}, "no hidden states");
  refused(2, models + run + Words{"--qat", "int4-g64", "--lora", "4"}, "together with --lora");
  refused(2, models + run + Words{"--qat-activations", "dynamic"}, "belongs to --qat");
  refused(2,
          models + run +
              Words{"--qat", "int8-ch", "--qat-activations", "static", "--dp-clip", "1", "--dp-noise", "1"},
          "takes its first scales from the data");
  refused(2, models + run + Words{"--lr-min", "1e-2"}, "more than --lr");
  refused(2, models + run + Words{"--warmup", "10"}, "more than --steps 3");
  refused(2, models + run + Words{"--patience", "2", "--validation-share", "0"}, "needs validation data");
  refused(2, models + run + Words{"--dp-clip", "1"}, "--dp-noise");
  refused(2, models + run + Words{"--checkpoint-every", "soon"}, "not a time");
  refused(2, models + run + Words{"--sparsity-schedule", "0.5@7:3"}, "not a schedule");
  refused(2, models + run + Words{"--resume", "--restart"}, "together with --restart");
  refused(2, models + run + Words{"--fail-if", "speed>1"}, "speed");
  refused(4, models + run + Words{"--qat", "nf4-g64"}, "nf4");
  refused(5, models + Words{"--data", folder + "/absent.txt", "--steps", "1"}, "absent.txt");
  refused(5, Words{"distill", "--teacher", folder + "/absent", "--student", cut_student(), "-o", out} + run,
          "absent");
  refused(8, models + run + Words{"--resume"}, "no job");
  refused(3, models + Words{"--data", sample_text(), "--context", "9999", "--steps", "1"},
          "fewer than one window");
}

TEST(DistillCommand, AnotherTokenizerIsRefused) {
  const std::string other = copy_of_sample();
  std::string text = bytes_of(other + "/tokenizer.json");
  const size_t place = text.find("\"the\"");
  ASSERT_NE(place, std::string::npos);
  text.replace(place, 5, "\"teh\"");
  std::ofstream(other + "/tokenizer.json", std::ios::binary) << text;
  const CommandResult result = pare(distill_words(other, temporary_folder() + "/x") + small_run());
  EXPECT_EQ(result.exit_code, 3) << result.error;
}

}  // namespace
}  // namespace pare::test
