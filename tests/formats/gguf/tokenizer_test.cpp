// Tokenizers through GGUF and back: the same ids for every reference case; published vocabularies of other
// programs.
#include <gtest/gtest.h>

#include <cstdio>
#include <fstream>
#include <sstream>

#include "engine/core/json.h"
#include "engine/tokenizer/tokenizer.h"
#include "formats/gguf/export.h"
#include "formats/gguf/file.h"
#include "formats/gguf/tokenizer_read.h"
#include "tests/formats/tiny_model.h"
#include "tests/support/memory_source.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

std::shared_ptr<const Tokenizer> tokenizer_in(const std::string& gguf_path) {
  const auto file = GgufFile::open(InputFile::open(gguf_path).value());
  if (!file) return nullptr;
  const GgufMetadata metadata((*file)->header(), gguf_path);
  const auto assets = gguf_tokenizer_assets(metadata);
  EXPECT_TRUE(assets) << format_error(assets.error());
  if (!assets) return nullptr;
  TokenizerFiles files;
  for (const Asset& asset : *assets) {
    if (asset.name == "tokenizer.json") files.tokenizer_json = asset.bytes;
    if (asset.name == "tokenizer_config.json") files.tokenizer_config_json = asset.bytes;
  }
  auto tokenizer = Tokenizer::load(files);
  EXPECT_TRUE(tokenizer) << format_error(tokenizer.error());
  return tokenizer ? *tokenizer : nullptr;
}

// Texts and ids as the other program's own test lists them.
class PublishedVocabulary : public testing::TestWithParam<std::string> {};

TEST_P(PublishedVocabulary, GivesThePublishedIds) {
  const auto path = shared_data("vocab/ggml-vocab-" + GetParam() + ".gguf");
  if (!path) GTEST_SKIP() << "without shared data";
  const auto tokenizer = tokenizer_in(*path);
  ASSERT_NE(tokenizer, nullptr);
  const std::string all = read_file(*path + ".inp"), mark = "\n__ggml_vocab_test__\n";
  std::istringstream results(read_file(*path + ".out"));
  int cases = 0;
  for (size_t begin = 0; begin < all.size();) {
    size_t end = all.find(mark, begin);
    if (end == std::string::npos) break;
    const std::string text = all.substr(begin, end - begin);
    begin = end + mark.size();
    std::string line;
    std::getline(results, line);
    std::istringstream numbers(line);
    std::vector<int32_t> want;
    for (int32_t id; numbers >> id;) want.push_back(id);
    const auto ids = tokenizer->encode(text, {.add_special = false, .parse_special = false});
    ASSERT_TRUE(ids);
    EXPECT_EQ(*ids, want) << GetParam() << ": " << Json(text).dump();
    ++cases;
  }
  EXPECT_GT(cases, 30);
}
INSTANTIATE_TEST_SUITE_P(Files, PublishedVocabulary, testing::Values("gpt-2", "phi-3"),
                         [](const auto& info) { return info.param == "gpt-2" ? "gpt2" : "phi3"; });

class RoundTrip : public testing::TestWithParam<std::string> {};

TEST_P(RoundTrip, GivesTheSameIds) {
  const std::string name = GetParam();
  const auto folder = shared_data(name == "stories260K" ? "stories260K-hf" : "tokenizer-cases/" + name);
  if (!folder) GTEST_SKIP() << "without shared data";
  MemorySource source("{}");
  source.add_asset("tokenizer.json", read_file(*folder + "/tokenizer.json"));
  ModelConfig config;
  config.vocabulary_size = 1100;  // more rows than tokens: the rest is padding
  GgufPlan plan;
  const Status added = add_gguf_tokenizer(source, config, plan);
  ASSERT_TRUE(added) << format_error(added.error());
  const std::string path = temporary_folder() + "/t.gguf";
  auto writer = GgufWriter::create(path, {}, plan.pairs, {}).value();
  ASSERT_TRUE(writer.finish());
  const auto tokenizer = tokenizer_in(path);
  ASSERT_NE(tokenizer, nullptr);
  std::ifstream cases(*shared_data("tokenizer-cases/" + name + "/cases.jsonl"));
  int count = 0;
  for (std::string line; std::getline(cases, line); ++count) {
    const Json row = parse_json(line, "cases", {.max_bytes = 1u << 24}).value();
    std::vector<int32_t> want;
    const Json* ids = row.find("ids_framed") != nullptr ? row.find("ids_framed") : row.find("ids");
    for (const Json& id : ids->items()) want.push_back(int32_t(id.as_int()));
    EXPECT_EQ(tokenizer->encode(row.find("text")->as_string(), {.add_special = true}).value(), want)
        << row.find("text")->dump().substr(0, 100);
    std::vector<int32_t> plain;
    for (const Json& id : row.find("ids")->items()) plain.push_back(int32_t(id.as_int()));
    EXPECT_EQ(tokenizer->decode(plain, false), row.find("decoded")->as_string());
  }
  EXPECT_EQ(count, 185);
}
INSTANTIATE_TEST_SUITE_P(Tokenizers, RoundTrip, testing::Values("stories260K", "gpt2", "llama3", "qwen2"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace pare::test
