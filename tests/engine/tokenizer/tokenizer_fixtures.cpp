#include "tests/engine/tokenizer/tokenizer_fixtures.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include "engine/core/file.h"
#include "engine/core/limits.h"
#include "engine/core/random.h"
#include "engine/tokenizer/byte_level.h"
#include "engine/tokenizer/unicode.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

TokenizerFiles files_of(std::string json, std::string path) {
  TokenizerFiles files;
  files.tokenizer_json = std::move(json);
  files.tokenizer_json_path = std::move(path);
  files.tokenizer_config_path = "m/tokenizer_config.json";
  files.special_tokens_map_path = "m/special_tokens_map.json";
  return files;
}

}  // namespace

LoadedTokenizer load_text(const std::string& tokenizer_json, std::optional<std::string> config_json) {
  TokenizerFiles files = files_of(tokenizer_json, "m/tokenizer.json");
  files.tokenizer_config_json = std::move(config_json);
  return Tokenizer::load(files);
}

std::shared_ptr<const Tokenizer> load_shared(const std::string& folder) {
  const auto path = shared_data(folder + "/tokenizer.json");
  if (!path) return nullptr;
  auto json = read_text_file(*path, limits::kTokenizerBytes);
  EXPECT_TRUE(json) << folder;
  if (!json) return nullptr;
  auto loaded = Tokenizer::load(files_of(*json, *path));
  EXPECT_TRUE(loaded) << (loaded ? "" : format_error(loaded.error()));
  return loaded ? *loaded : nullptr;
}

std::string document(const std::string& model, const std::string& tail) {
  return "{\"version\":\"1.0\"," + tail + (tail.empty() ? "" : ",") + "\"model\":" + model + "}";
}

std::string byte_level_json(const std::vector<std::string>& tokens, const std::vector<std::string>& merges,
                            const std::string& tail) {
  Json vocabulary = Json::object();
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary[byte_level::map(std::string(1, static_cast<char>(byte)))] = Json(byte);
  }
  for (const std::string& token : tokens) vocabulary[token] = Json(static_cast<int64_t>(vocabulary.size()));
  Json list = Json::array();
  for (const std::string& merge : merges) list.push_back(Json(merge));
  const std::string model =
      fmt::format(R"({{"type":"BPE","vocab":{},"merges":{}}})", vocabulary.dump(), list.dump());
  const bool cuts = tail.find("pre_tokenizer") != std::string::npos;
  const std::string byte_level =
      R"("pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"decoder":{"type":"ByteLevel"})";
  return document(model, cuts ? tail : tail + (tail.empty() ? "" : ",") + byte_level);
}

std::vector<Json> read_json_lines(const std::string& path) {
  std::vector<Json> rows;
  const auto text = read_text_file(path, limits::kTextLineBytes);
  EXPECT_TRUE(text) << path;
  if (!text) return rows;
  size_t begin = 0;
  for (size_t end = text->find('\n'); end != std::string::npos; end = text->find('\n', begin)) {
    auto row = parse_json(std::string_view(*text).substr(begin, end - begin), path,
                          {.max_bytes = limits::kTextLineBytes});
    EXPECT_TRUE(row) << path;
    if (row) rows.push_back(*std::move(row));
    begin = end + 1;
  }
  return rows;
}

std::vector<int32_t> ids_of(const Json& array) {
  std::vector<int32_t> ids;
  for (const Json& id : array.items()) ids.push_back(static_cast<int32_t>(id.as_int()));
  return ids;
}

std::vector<int32_t> encode(const Tokenizer& tokenizer, std::string_view text, const EncodeOptions& options) {
  auto ids = tokenizer.encode(text, options);
  EXPECT_TRUE(ids) << (ids ? "" : format_error(ids.error()));
  return ids ? *ids : std::vector<int32_t>{-1};
}

std::vector<std::string> tokens_of(const Tokenizer& tokenizer, std::string_view text) {
  std::vector<std::string> tokens;
  for (int32_t id : encode(tokenizer, text)) tokens.push_back(tokenizer.token_text(id));
  return tokens;
}

std::string random_text(uint64_t seed, size_t characters) {
  // Letters of each category, digits, marks, every kind of white space, symbols, contractions, wide
  // characters.
  static const std::u32string kAlphabet =
      U"aabbcestz AABST   "
      U"'''..!,/-_019\n\r\t\v\f\u00A0\u0085\u2003\u2028\u3000éßſŠǅʰªñΣσжЖ١٢²½Ⅷ①中文日ｱ한\u0301\u0483\u20DD"
      U"\u200B\u200D\uFEFF\u00AD€∑😀👍🏽𐍈𝐀𝟙\U000E0100";
  const Random random(seed, RandomPurpose::test_data);
  std::string text;
  uint64_t draw = 0;
  for (size_t i = 0; i < characters;) {
    const char32_t character = kAlphabet[random.below(kAlphabet.size(), draw++)];
    const uint64_t kind = random.below(12, draw++);
    const uint64_t repeats = kind == 0 ? 1 + random.below(20, draw++) : 1;
    for (uint64_t r = 0; r < repeats; ++r, ++i) unicode::append(text, character);
    if (kind == 1) text += "'s", i += 2;
    if (kind == 2) text += "'LL", i += 3;
  }
  return text;
}

}  // namespace pare::test
