// A cut vocabulary encodes the text it was made for as before, token by token, whatever the tokenizer.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/limits.h"
#include "engine/tokenizer/tokenizer.h"
#include "prune/structured/config_text.h"
#include "prune/structured/vocabulary_files.h"
#include "tests/prune/structured/tiny_structured.h"

namespace pare {
namespace {

using test::checked;

std::string read(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

std::shared_ptr<const Tokenizer> tokenizer_of(const std::vector<Asset>& assets) {
  TokenizerFiles files;
  for (const Asset& asset : assets) {
    if (asset.name == "tokenizer.json") files.tokenizer_json = asset.bytes;
    if (asset.name == "tokenizer_config.json") files.tokenizer_config_json = asset.bytes;
    if (asset.name == "special_tokens_map.json") files.special_tokens_map_json = asset.bytes;
  }
  files.tokenizer_json_path = "tokenizer.json";
  return checked(Tokenizer::load(files));
}

std::vector<std::string> texts_of(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::vector<std::string> texts;
  for (const int32_t id : ids) texts.push_back(tokenizer.token_text(id));
  return texts;
}

struct Cut {
  std::shared_ptr<test::MemorySource> source;
  std::shared_ptr<const Tokenizer> before, after;
  std::vector<int64_t> kept;
  std::vector<Asset> assets;
};

Cut cut(const std::string& folder, const std::string& text, int64_t multiple = 1) {
  Cut result;
  result.source = std::make_shared<test::MemorySource>(R"({"bos_token_id": 1, "eos_token_id": [2, 3]})");
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}) {
    const std::string bytes = read(folder + "/" + name);
    if (!bytes.empty()) result.source->add_asset(name, bytes);
  }
  result.before = tokenizer_of(result.source->assets());
  const int64_t size = result.before->vocabulary_size();
  std::vector<uint64_t> counts(static_cast<size_t>(size), 0);
  for (const int32_t id : checked(result.before->encode(text, {.add_special = true}))) ++counts[size_t(id)];
  result.kept = checked(choose_vocabulary(*result.source, size, counts, 1, multiple));
  result.assets = checked(cut_vocabulary_files(*result.source, new_ids(result.kept, size)));
  result.after = tokenizer_of(result.assets);
  return result;
}

class Vocabulary : public ::testing::TestWithParam<const char*> {};

TEST_P(Vocabulary, ReencodingGivesTheSameTokens) {
  PARE_SHARED_OR_SKIP(folder, GetParam());
  PARE_SHARED_OR_SKIP(corpus, "text/tinyshakespeare.txt");
  const std::string text =
      read(corpus).substr(0, 60'000) + " Grüße, 東京 \xF0\x9F\x98\x80 1234567890\n\n\tend";
  const Cut result = cut(folder, text);
  const int64_t size = result.before->vocabulary_size();
  EXPECT_LT(int64_t(result.kept.size()), size);
  EXPECT_EQ(result.after->vocabulary_size(), int64_t(result.kept.size()));
  for (const bool special : {false, true}) {
    const auto old_ids = checked(result.before->encode(text, {.add_special = special}));
    const auto ids = checked(result.after->encode(text, {.add_special = special}));
    EXPECT_EQ(texts_of(*result.after, ids), texts_of(*result.before, old_ids));
    EXPECT_EQ(result.after->decode(ids, false), result.before->decode(old_ids, false));
    // New ids are the old ones in their order.
    for (size_t i = 0; i < ids.size(); ++i) ASSERT_EQ(result.kept[size_t(ids[i])], old_ids[i]);
  }
  // Other text still encodes to something that decodes to it as well as before.
  const std::string other = "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich. Ελλάδα";
  const auto ids = checked(result.after->encode(other));
  EXPECT_EQ(result.after->decode(ids, false),
            result.before->decode(checked(result.before->encode(other)), false));
  for (const int32_t id : {result.before->bos_id().value_or(-1), result.before->eos_id().value_or(-1)}) {
    if (id < 0) continue;
    EXPECT_TRUE(result.after->token_id(result.before->token_text(id)).has_value());
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, Vocabulary,
                         ::testing::Values("books-3m", "stories260K-hf", "tokenizer-cases/gpt2",
                                           "tokenizer-cases/llama3", "tokenizer-cases/qwen2",
                                           "tokenizer-cases/unigram", "tokenizer-cases/bert"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name)
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

TEST(VocabularyFiles, FillsUpToAMultiple) {
  PARE_SHARED_OR_SKIP(folder, "books-3m");
  const Cut plain = cut(folder, "a small text"), filled = cut(folder, "a small text", 64);
  EXPECT_EQ(filled.kept.size() % 64, 0u);
  EXPECT_GE(filled.kept.size(), plain.kept.size());
  EXPECT_LT(filled.kept.size(), plain.kept.size() + 64);
}

TEST(VocabularyFiles, IdsInOtherFilesFollow) {
  Json config = checked(parse_json(
      R"({"bos_token_id": 4, "eos_token_id": [2, 5], "pad_token_id": null, "suppress_tokens": [1, 2], "n": 4})",
      "test", {.max_bytes = 1000}));
  renumber_token_ids(config, new_ids({2, 4, 5}, 6));
  EXPECT_EQ(config.dump(),
            R"({"bos_token_id":1,"eos_token_id":[0,2],"pad_token_id":null,"suppress_tokens":[0],"n":4})");
}

TEST(VocabularyFiles, NoTokenizerIsRefused) {
  const auto source = test::tiny_model(test::kTinyLlama);
  EXPECT_EQ(choose_vocabulary(*source, 40, {}, 1, 1).error().exit, Exit::unsupported);
}

// The whole way: rows of embedding and head, config and generation config.
TEST(VocabularyFiles, LogitsOfKeptTokensStay) {
  PARE_SHARED_OR_SKIP(folder, "books-3m");
  install_backend(make_cpu_backend());
  const auto source = test::MemorySource::read(folder);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"})
    if (source->asset(name) == nullptr) source->add_asset(name, read(folder + "/" + std::string(name)));
  const auto tokenizer = tokenizer_of(source->assets());
  const std::string text = "Once upon a time there was a small house near the sea.";
  const auto ids = checked(tokenizer->encode(text, {.add_special = true}));
  StructuredJob job = test::structured_job(source);
  job.windows = {};
  job.options.cut_vocabulary = true;
  job.options.token_counts.assign(size_t(job.model.config.vocabulary_size), 0);
  for (const int32_t id : ids) ++job.options.token_counts[size_t(id)];
  const test::StructuredRun run(job);
  ASSERT_FALSE(run.error) << format_error(*run.error);
  const auto after = tokenizer_of(run.model->assets());
  const auto new_ids_of_text = checked(after->encode(text, {.add_special = true}));
  EXPECT_EQ(texts_of(*after, new_ids_of_text), texts_of(*tokenizer, ids));

  const auto logits = [](std::shared_ptr<const WeightSource> model_source,
                         const std::vector<int32_t>& tokens) {
    const auto model = checked(Model::open(std::move(model_source), Device::cpu()));
    return test::walk(*model, test::tensor_of(tokens, Device::cpu()),
                      {.sequences = 1, .tokens_per_sequence = int64_t(tokens.size())})
        .logits;
  };
  const Tensor whole = logits(source, ids), cut_logits = logits(run.model, new_ids_of_text);
  const ModelConfig config = checked(describe_model(*run.model)).config;
  EXPECT_LT(config.vocabulary_size, job.model.config.vocabulary_size);
  EXPECT_EQ(tokenizer->token_text(job.model.config.eos_ids.front()),
            after->token_text(config.eos_ids.front()));
  for (int64_t v = 0; v < config.vocabulary_size; ++v) {
    const auto old_id = tokenizer->token_id(after->token_text(int32_t(v)));
    ASSERT_TRUE(old_id.has_value());
    for (int64_t t = 0; t < whole.size(0); ++t)
      ASSERT_NEAR(cut_logits.data<float>()[t * config.vocabulary_size + v],
                  whole.data<float>()[t * whole.size(1) + *old_id], 1e-4);
  }
}

}  // namespace
}  // namespace pare
