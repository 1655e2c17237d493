#include "engine/tokenizer/tokenizer.h"

#include <gtest/gtest.h>

#include <thread>

#include "engine/core/file.h"
#include "engine/core/limits.h"
#include "tests/engine/tokenizer/tokenizer_fixtures.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using Ids = std::vector<int32_t>;
using Tokens = std::vector<std::string>;

std::shared_ptr<const Tokenizer> load_or_die(const std::string& json,
                                             std::optional<std::string> config = std::nullopt) {
  auto loaded = load_text(json, std::move(config));
  EXPECT_TRUE(loaded) << (loaded ? "" : format_error(loaded.error()));
  return loaded ? *loaded : nullptr;
}

const std::string kSpecials =
    R"("added_tokens":[{"id":256,"content":"<s>","special":true},{"id":257,"content":"</s>","special":true}])";
const std::string kTemplate =
    R"("post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],)"
    R"("pair":[],"special_tokens":{"<s>":{"id":"<s>","ids":[256],"tokens":["<s>"]}}})";

TEST(Tokenizer, FramingFollowsTheOrderOfTruth) {
  const auto framed = [](const std::string& tail, std::optional<std::string> config) {
    return encode(*load_or_die(byte_level_json({}, {}, tail), std::move(config)), "a", {.add_special = true});
  };
  const std::string both = kSpecials + "," + kTemplate;
  EXPECT_EQ(framed(both, std::nullopt), (Ids{256, 'a'}));
  EXPECT_EQ(framed(both, R"({"bos_token":"<s>","add_bos_token":true})"), (Ids{256, 'a'}));  // not twice
  EXPECT_EQ(framed(both, R"({"bos_token":"<s>","add_bos_token":false})"), (Ids{'a'}));
  EXPECT_EQ(framed(kSpecials, std::nullopt), (Ids{'a'}));
  EXPECT_EQ(framed(kSpecials, R"({"bos_token":"<s>","eos_token":"</s>"})"), (Ids{'a'}));
  EXPECT_EQ(
      framed(
          kSpecials,
          R"({"bos_token":{"content":"<s>"},"eos_token":"</s>","add_bos_token":true,"add_eos_token":true})"),
      (Ids{256, 'a', 257}));
  EXPECT_EQ(framed(kSpecials, R"({"bos_token":"<s>","tokenizer_class":"LlamaTokenizer"})"), (Ids{256, 'a'}));
  EXPECT_EQ(
      framed(kSpecials, R"({"bos_token":"<s>","tokenizer_class":"LlamaTokenizer","add_bos_token":false})"),
      (Ids{'a'}));
  EXPECT_EQ(
      framed(kSpecials +
                 R"(,"post_processor":{"type":"RobertaProcessing","cls":["<s>",256],"sep":["</s>",257]})",
             std::nullopt),
      (Ids{256, 'a', 257}));
}

TEST(Tokenizer, DescribesItself) {
  const auto tokenizer = load_or_die(byte_level_json({}, {}, kSpecials + "," + kTemplate));
  EXPECT_EQ(tokenizer->description(), "byte-level BPE, 258 tokens, adds <s>");
  EXPECT_EQ(tokenizer->vocabulary_size(), 258);
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->bos_id(), 256);
  EXPECT_EQ(tokenizer->eos_id(), std::nullopt);
  EXPECT_EQ(tokenizer->token_id("<s>"), 256);
  EXPECT_EQ(tokenizer->token_id("nothing"), std::nullopt);
  EXPECT_EQ(tokenizer->token_text(256), "<s>");
  EXPECT_EQ(tokenizer->token_text(32), "\u0120");
  EXPECT_EQ(tokenizer->token_text(-1), "");
  EXPECT_EQ(tokenizer->token_text(258), "");
  EXPECT_TRUE(tokenizer->is_special(257));
  EXPECT_FALSE(tokenizer->is_special('a'));
  EXPECT_EQ(tokenizer->decode(Ids{-5, 'a', 256, 9999, 'b'}, false), "a<s>b");
  EXPECT_EQ(tokenizer->decode(Ids{'a', 256, 'b'}, true), "ab");
}

TEST(Tokenizer, TheHashIsOfTheDefinitionNotOfItsText) {
  const std::string specials = R"("added_tokens":[{"id":257,"content":"<s>","special":true}])";
  const std::string json = byte_level_json({"ab"}, {"a b"}, specials);
  const Hash128 hash = load_or_die(json)->hash();
  std::string spaced = json;
  for (size_t at = spaced.find("},"); at != std::string::npos; at = spaced.find("},", at + 4))
    spaced.insert(at + 2, "\n  ");
  EXPECT_EQ(load_or_die(spaced)->hash(), hash);
  std::string pairs = json;
  pairs.replace(pairs.find("[\"a b\"]"), 7, "[[\"a\",\"b\"]]");
  EXPECT_EQ(load_or_die(pairs)->hash(), hash);
  EXPECT_EQ(
      load_or_die(byte_level_json({"ab"}, {"a b"}, specials + ",\"truncation\":{\"max_length\":5}"))->hash(),
      hash);
  EXPECT_NE(load_or_die(byte_level_json({"ab"}, {}, specials))->hash(), hash);
  EXPECT_NE(load_or_die(byte_level_json({"ab"}, {"a b"}))->hash(), hash);
  EXPECT_NE(
      load_or_die(byte_level_json({"ab"}, {"a b"}, specials + R"(,"normalizer":{"type":"NFC"})"))->hash(),
      hash);
}

TEST(Tokenizer, BpeWithPrefixSuffixAndUnknowns) {
  const auto tokens = [](const std::string& options, std::string_view text) {
    return tokens_of(
        *load_or_die(
            document(R"({"type":"BPE","unk_token":"?",)" + options +
                     R"("vocab":{"?":0,"a":1,"b":2,"ab":3,"b/":4,"a/":5,"ab/":6},"merges":["a b","a b/"]})")),
        text);
  };
  EXPECT_EQ(tokens("", "abab"), (Tokens{"ab", "ab"}));
  EXPECT_EQ(tokens("", "axxb"), (Tokens{"a", "?", "?", "b"}));
  EXPECT_EQ(tokens("\"fuse_unk\":true,", "axxb"), (Tokens{"a", "?", "b"}));
  EXPECT_EQ(tokens("\"end_of_word_suffix\":\"/\",", "abab"), (Tokens{"ab", "ab/"}));
}

TEST(Tokenizer, BpeContinuingPrefix) {
  const auto tokenizer = load_or_die(document(
      R"({"type":"BPE","continuing_subword_prefix":"#","vocab":{"a":0,"#b":1,"ab":2,"#a":3,"#ab":4},"merges":["a #b","#a #b"]})"));
  EXPECT_EQ(tokens_of(*tokenizer, "ab"), (Tokens{"ab"}));
  EXPECT_EQ(tokens_of(*tokenizer, "aab"), (Tokens{"a", "#ab"}));
}

TEST(Tokenizer, ModelsWithoutTypeAreRecognised) {
  EXPECT_EQ(load_or_die(document(R"({"vocab":{"a":0},"merges":[]})"))->description(), "BPE, 1 tokens");
  EXPECT_EQ(load_or_die(document(R"({"vocab":[["a",0]],"unk_id":0})"))->description(), "Unigram, 1 tokens");
  EXPECT_EQ(load_or_die(document(R"({"unk_token":"a","max_input_chars_per_word":9,"vocab":{"a":0}})"))
                ->description(),
            "WordPiece, 1 tokens");
  EXPECT_EQ(load_or_die(document(R"({"unk_token":"a","vocab":{"a":0}})"))->description(),
            "WordLevel, 1 tokens");
}

TEST(Tokenizer, UnigramTakesTheBestPath) {
  // The example of the reference implementation's documentation.
  const auto tokenizer = load_or_die(document(
      R"({"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["a",0],["b",0],["c",0],["d",0],["cd",1],["ab",2],["abc",5],["abcd",10]]})"));
  EXPECT_EQ(tokens_of(*tokenizer, "abcdacdxx"), (Tokens{"abcd", "a", "cd", "<unk>"}));
}

TEST(Tokenizer, WordPieceIsGreedy) {
  const auto tokenizer = load_or_die(document(
      R"({"type":"WordPiece","unk_token":"[UNK]","max_input_chars_per_word":8,"vocab":{"[UNK]":0,"un":1,"##aff":2,"##able":3,"##a":4}})",
      R"("pre_tokenizer":{"type":"WhitespaceSplit"})"));
  EXPECT_EQ(tokens_of(*tokenizer, "unaffable unaffx un"),
            (Tokens{"[UNK]", "[UNK]", "un"}));  // nine characters; no cover
  EXPECT_EQ(tokens_of(*tokenizer, "unable unaffa"), (Tokens{"un", "##able", "un", "##aff", "##a"}));
}

TEST(Tokenizer, NormalizedAddedTokensAreFoundAfterNormalisation) {
  const auto tokenizer = load_or_die(document(
      R"({"type":"WordLevel","unk_token":"?","vocab":{"?":0,"a":1}})",
      R"("normalizer":{"type":"Lowercase"},"added_tokens":[{"id":2,"content":"Day","normalized":true},{"id":3,"content":"[X]","normalized":false}])"));
  EXPECT_EQ(encode(*tokenizer, "aDAYa"), (Ids{1, 2, 1}));
  EXPECT_EQ(encode(*tokenizer, "[X]a[x]"), (Ids{3, 0}));
}

TEST(Tokenizer, ManyThreadsShareOne) {
  PARE_SHARED_OR_SKIP(path, "tokenizer-cases/llama3/cases.jsonl");
  const auto tokenizer = load_shared("tokenizer-cases/llama3");
  ASSERT_NE(tokenizer, nullptr);
  const std::vector<Json> cases = read_json_lines(path);
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < cases.size(); ++i) {
        const Json& row = cases[(i * 7 + t * 31) % cases.size()];
        const auto ids = tokenizer->encode(row.find("text")->as_string(), {});
        if (!ids || *ids != ids_of(*row.find("ids"))) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(Tokenizer, TheSampleTokenizersGiveTextBack) {
  for (const std::string folder : {"books-3m", "stories260K-hf"}) {
    PARE_SHARED_OR_SKIP(path, folder);
    const auto tokenizer = load_shared(folder);
    ASSERT_NE(tokenizer, nullptr);
    const auto text = read_text_file(*shared_data("text/books-valid.txt"), limits::kTextLineBytes);
    ASSERT_TRUE(text);
    EXPECT_EQ(tokenizer->decode(encode(*tokenizer, *text), false), *text) << folder;
  }
}

}  // namespace
}  // namespace pare::test
