// The rows TK01 to TK19 of docs/bad-input.md: exit code and the terms that the line must name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/core/limits.h"
#include "tests/engine/tokenizer/tokenizer_fixtures.h"

namespace pare::test {
namespace {

struct Row {
  std::string name;
  std::string json;
  Exit exit;
  std::string rule;
  std::vector<std::string> terms;
};

void expect_refused(const Row& row) {
  SCOPED_TRACE(row.name);
  const auto loaded = load_text(row.json);
  ASSERT_FALSE(loaded) << "loads";
  EXPECT_EQ(loaded.error().exit, row.exit) << format_error(loaded.error());
  EXPECT_EQ(loaded.error().rule, row.rule) << format_error(loaded.error());
  const std::string line = format_error(loaded.error());
  EXPECT_THAT(line, testing::HasSubstr("m/tokenizer.json"));
  for (const std::string& term : row.terms) EXPECT_THAT(line, testing::HasSubstr(term));
}

const std::string kWords = R"({"type":"WordLevel","unk_token":"<unk>","vocab":{"<unk>":0,"a":1}})";

std::string words(const std::string& vocab, const std::string& tail = {}) {
  return document(R"({"type":"WordLevel","unk_token":"<unk>","vocab":)" + vocab + "}", tail);
}
std::string bpe(const std::string& vocab, const std::string& merges, const std::string& more = {}) {
  return document(R"({"type":"BPE",)" + more + R"("vocab":)" + vocab + R"(,"merges":)" + merges + "}");
}
std::string unigram(const std::string& vocab, const std::string& unk_id) {
  return document(R"({"type":"Unigram","unk_id":)" + unk_id + R"(,"vocab":)" + vocab + "}");
}
std::string split(const std::string& pattern) {
  return document(kWords, R"("pre_tokenizer":{"type":"Split","behavior":"Isolated","pattern":{"Regex":)" +
                              Json(pattern).dump() + "}}");
}
std::string normalizer(const std::string& step) {
  return document(kWords, "\"normalizer\":" + step);
}

TEST(TokenizerBadInput, Vocabulary) {
  const std::string long_token(limits::kTokenBytes + 1, 'x');
  for (const Row& row : std::vector<Row>{
           {"not json", "{\"version\": ", Exit::malformed, "TK01", {}},
           {"duplicate key", words(R"({"<unk>":0,"a":1,"a":2})"), Exit::malformed, "TK01", {"\"a\""}},
           {"depth", document(std::string(80, '[') + std::string(80, ']')), Exit::malformed, "TK01", {}},
           {"vocab not an object", words("[1]"), Exit::malformed, "TK01", {"model.vocab"}},
           {"negative id", words(R"({"<unk>":0,"a":-1})"), Exit::malformed, "TK02", {"\"a\"", "-1", "limit"}},
           {"id of 2^31",
            words(R"({"<unk>":0,"a":2147483648})"),
            Exit::malformed,
            "TK02",
            {"\"a\"", "2147483648", "limit"}},
           {"id of 2^64 - 1",
            words(R"({"<unk>":0,"a":18446744073709551615})"),
            Exit::malformed,
            "TK02",
            {"\"a\""}},
           {"sparse id",
            words(R"({"<unk>":0,"a":900000})"),
            Exit::malformed,
            "TK02",
            {"\"a\"", "900000", "65540"}},
           {"id is a fraction", words(R"({"<unk>":0,"a":1.5})"), Exit::malformed, "TK02", {"\"a\""}},
           {"shared id",
            words(R"({"<unk>":0,"first":1,"second":1})"),
            Exit::malformed,
            "TK03",
            {"\"first\"", "\"second\""}},
           {"empty token", words(R"({"<unk>":0,"":1})"), Exit::malformed, "TK07", {"model.vocab[1]"}},
           {"long token",
            words("{\"<unk>\":0,\"" + long_token + "\":1}"),
            Exit::malformed,
            "TK07",
            {"model.vocab[1]", "4 KiB"}},
           {"unknown token absent", words(R"({"a":0})"), Exit::malformed, "TK15", {"<unk>"}},
       }) {
    expect_refused(row);
  }
}

TEST(TokenizerBadInput, Merges) {
  const std::string vocab = R"({"a":0,"b":1,"ab":2})";
  for (const Row& row : std::vector<Row>{
           {"unknown token",
            bpe(vocab, R"(["a b","a z"])"),
            Exit::malformed,
            "TK04",
            {"model.merges[1]", "\"z\""}},
           {"result absent",
            bpe(vocab, R"(["b a"])"),
            Exit::malformed,
            "TK04",
            {"model.merges[0]", "\"ba\""}},
           {"no space", bpe(vocab, R"(["ab"])"), Exit::malformed, "TK04", {"model.merges[0]"}},
           {"two spaces", bpe(vocab, R"(["a  b"])"), Exit::malformed, "TK04", {"model.merges[0]"}},
           {"triple", bpe(vocab, R"([["a","b","a"]])"), Exit::malformed, "TK04", {"model.merges[0]"}},
           {"number", bpe(vocab, R"([["a",1]])"), Exit::malformed, "TK04", {"model.merges[0]"}},
           {"mixed kinds", bpe(vocab, R"(["a b",["a","b"]])"), Exit::malformed, "TK04", {"model.merges[1]"}},
           {"control characters", bpe(vocab, R"(["a \u001b[2J"])"), Exit::malformed, "TK04", {"\\x1b"}},
           {"dropout", bpe(vocab, "[]", "\"dropout\":0.1,"), Exit::unsupported, "TK12", {"model.dropout"}},
           {"unknown unk_token",
            bpe(vocab, "[]", "\"unk_token\":\"<u>\","),
            Exit::malformed,
            "TK15",
            {"<u>"}},
       }) {
    expect_refused(row);
  }
}

TEST(TokenizerBadInput, ManyMerges) {  // TK05
  std::string merges = "[";
  merges.reserve((limits::kMerges + 2) * 6);
  for (uint64_t i = 0; i <= limits::kMerges; ++i) merges += i == 0 ? "\"a b\"" : ",\"a b\"";
  expect_refused({"8,000,001 merges",
                  bpe(R"({"a":0,"b":1,"ab":2})", merges + "]"),
                  Exit::resource,
                  "TK05",
                  {"8000001", "8000000"}});
}

TEST(TokenizerBadInput, AddedTokens) {
  const auto added = [](const std::string& list) {
    return words(R"({"<unk>":0,"a":1})", "\"added_tokens\":" + list);
  };
  for (const Row& row : std::vector<Row>{
           {"id beyond", added(R"([{"id":3,"content":"<x>"}])"), Exit::malformed, "TK06", {"<x>", "3"}},
           {"id of another",
            added(R"([{"id":1,"content":"<x>"}])"),
            Exit::malformed,
            "TK06",
            {"<x>", "1", "\"a\""}},
           {"other id than vocabulary",
            added(R"([{"id":2,"content":"a"}])"),
            Exit::malformed,
            "TK06",
            {"\"a\"", "2"}},
           {"twice",
            added(R"([{"id":2,"content":"<x>"},{"id":2,"content":"<y>"}])"),
            Exit::malformed,
            "TK06",
            {"<y>", "2"}},
           {"negative", added(R"([{"id":-1,"content":"<x>"}])"), Exit::malformed, "TK06", {"<x>", "-1"}},
           {"no id", added(R"([{"content":"<x>"}])"), Exit::malformed, "TK06", {"<x>"}},
           {"empty", added(R"([{"id":2,"content":""}])"), Exit::malformed, "TK07", {"added_tokens[0]"}},
           {"not objects", added("[5]"), Exit::malformed, "TK01", {"added_tokens[0]"}},
       }) {
    expect_refused(row);
  }
}

TEST(TokenizerBadInput, Patterns) {
  std::string nested;
  for (int i = 0; i < 70; ++i) nested += "(";
  nested += "a" + std::string(70, ')');
  for (const Row& row : std::vector<Row>{
           {"unbalanced", split("ab(cd"), Exit::malformed, "TK08", {"pattern offset"}},
           {"nothing to repeat", split("a|*b"), Exit::malformed, "TK08", {"pattern offset"}},
           {"empty", split(""), Exit::malformed, "TK08", {"pattern offset"}},
           {"\\C", split("ab\\C"), Exit::unsupported, "TK11", {"\\\\C", "offset 2"}},
           {"callout", split("a(?C1)b"), Exit::unsupported, "TK11", {"callout", "offset 1"}},
           {"recursion", split("a(?R)?b"), Exit::unsupported, "TK11", {"recursion", "offset 1"}},
           {"subroutine", split("(a)(?1)"), Exit::unsupported, "TK11", {"recursion", "offset 3"}},
           {"back-reference", split("(a)\\1"), Exit::unsupported, "TK11", {"back-reference", "offset 3"}},
           {"named back-reference", split("(a)\\k<n>"), Exit::unsupported, "TK11", {"back-reference"}},
           {"verb", split("a(*SKIP)b"), Exit::unsupported, "TK11", {"verb", "offset 1"}},
           {"start verb", split("(*NO_JIT)b"), Exit::unsupported, "TK11", {"verb", "offset 0"}},
           {"conditional", split("(a)?(?(1)b|c)"), Exit::unsupported, "TK11", {"conditional"}},
           {"too long",
            split(std::string(limits::kRegexPatternBytes + 1, 'a')),
            Exit::unsupported,
            "TK11",
            {"16384"}},
           {"repeat",
            split("(((a{65535}){65535}){65535})"),
            Exit::unsupported,
            "TK11",
            {"65535", "offset 4", "1000"}},
           {"nesting", split(nested), Exit::unsupported, "TK11", {"offset 64", "64"}},
           {"set intersection", split("[a-z&&[^b]]"), Exit::unsupported, "TK11", {"&&"}},
           {"unknown property", split("\\p{Nonsense}"), Exit::unsupported, "TK11", {"property"}},
       }) {
    expect_refused(row);
  }
}

TEST(TokenizerBadInput, CatastrophicPattern) {  // TK09
  const auto loaded = load_text(split("(a+)+[bc]"));
  ASSERT_TRUE(loaded) << format_error(loaded.error());
  const auto ids = (*loaded)->encode(std::string(40, 'a'), {});
  ASSERT_FALSE(ids);
  EXPECT_EQ(ids.error().exit, Exit::resource);
  EXPECT_EQ(ids.error().rule, "TK09");
  EXPECT_THAT(format_error(ids.error()),
              testing::AllOf(testing::HasSubstr("(a+)+[bc]"), testing::HasSubstr("match limit"),
                             testing::HasSubstr("text offset 0")));
}

TEST(TokenizerBadInput, StepsAreCountedOverAllStartPositions) {  // each start stays below the match limit
  const auto loaded = load_text(split("(?:a?){16}a{16}[bc]"));
  ASSERT_TRUE(loaded) << format_error(loaded.error());
  std::string text;
  for (int i = 0; i < 4000; ++i) text += std::string(17, 'a') + " ";
  const auto ids = (*loaded)->encode(text, {});
  ASSERT_FALSE(ids);
  EXPECT_EQ(ids.error().rule, "TK09");
  EXPECT_EQ(ids.error().exit, Exit::resource);
}

TEST(TokenizerBadInput, UnknownTypes) {
  for (const Row& row : std::vector<Row>{
           {"model", document(R"({"type":"Sorcery","vocab":{}})"), Exit::unsupported, "TK12", {"Sorcery"}},
           {"normalizer",
            normalizer(R"({"type":"Sorcery"})"),
            Exit::unsupported,
            "TK12",
            {"Sorcery", "normalizer"}},
           {"nested normalizer",
            normalizer(R"({"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Sorcery"}]})"),
            Exit::unsupported,
            "TK12",
            {"Sorcery", "normalizer.normalizers[1]"}},
           {"pre-tokenizer",
            document(kWords, R"("pre_tokenizer":{"type":"UnicodeScripts"})"),
            Exit::unsupported,
            "TK12",
            {"UnicodeScripts"}},
           {"decoder",
            document(kWords, R"("decoder":{"type":"Sorcery"})"),
            Exit::unsupported,
            "TK12",
            {"Sorcery"}},
           {"post-processor",
            document(kWords, R"("post_processor":{"type":"Sorcery"})"),
            Exit::unsupported,
            "TK12",
            {"Sorcery"}},
           {"behaviour",
            document(kWords, R"("pre_tokenizer":{"type":"Punctuation","behavior":"Sorcery"})"),
            Exit::unsupported,
            "TK12",
            {"Sorcery"}},
           {"no type", normalizer("{}"), Exit::malformed, "TK01", {"normalizer.type"}},
           {"not an object", normalizer("7"), Exit::malformed, "TK01", {"normalizer"}},
       }) {
    expect_refused(row);
  }
  std::string steps;
  for (int i = 0; i < 100; ++i) steps += i == 0 ? R"({"type":"NFC"})" : R"(,{"type":"NFC"})";
  expect_refused({"many steps",
                  normalizer(R"({"type":"Sequence","normalizers":[)" + steps + "]}"),
                  Exit::unsupported,
                  "TK12",
                  {"64"}});
  const std::string twice = R"({"type":"Replace","pattern":{"String":"a"},"content":"aaaa"})";
  expect_refused({"growth",
                  normalizer(R"({"type":"Sequence","normalizers":[)" + twice + "," + twice + "," + twice +
                             "," + twice + "," + twice + "]}"),
                  Exit::unsupported,
                  "TK12",
                  {"1024", "256"}});
}

TEST(TokenizerBadInput, Unigram) {
  for (const Row& row : std::vector<Row>{
           {"no score", unigram(R"([["<unk>",0],["a"]])", "0"), Exit::malformed, "TK13", {"model.vocab[1]"}},
           {"score is text",
            unigram(R"([["<unk>",0],["a","x"]])", "0"),
            Exit::malformed,
            "TK13",
            {"model.vocab[1]"}},
           {"not a pair", unigram(R"([["<unk>",0],7])", "0"), Exit::malformed, "TK13", {"model.vocab[1]"}},
           {"infinite score", unigram(R"([["<unk>",0],["a",1e999]])", "0"), Exit::malformed, "TK01", {}},
           {"unk_id out of range", unigram(R"([["<unk>",0],["a",-1]])", "2"), Exit::malformed, "TK15", {"2"}},
           {"unk_id negative", unigram(R"([["<unk>",0]])", "-1"), Exit::malformed, "TK15", {"-1"}},
           {"unk_id absent", unigram(R"([["<unk>",0]])", "null"), Exit::malformed, "TK15", {"unk_id"}},
           {"no pieces", unigram("[]", "0"), Exit::malformed, "TK15", {"unk_id"}},
           {"same piece twice",
            unigram(R"([["<unk>",0],["a",-1],["a",-2]])", "0"),
            Exit::malformed,
            "TK03",
            {"\"a\""}},
       }) {
    expect_refused(row);
  }
}

TEST(TokenizerBadInput, ByteTokens) {  // TK14
  const auto with = [](int missing, const std::string& extra) {
    Json vocab = Json::object();
    for (int byte = 0; byte < 256; ++byte) {
      char name[8];
      std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(byte));
      if (byte != missing) vocab[name] = Json(byte);
    }
    if (!extra.empty()) vocab[extra] = Json(256);
    return bpe(vocab.dump(), "[]", "\"byte_fallback\":true,");
  };
  EXPECT_TRUE(load_text(with(-1, "")));
  EXPECT_TRUE(load_text(bpe(R"({"<0x100>":0})", "[]")));  // without fallback it is a token like others
  expect_refused({"missing", with(0x41, ""), Exit::malformed, "TK14", {"<0x41>"}});
  for (const std::string token : {"<0x-1>", "<0xZZ>", "<0x100>"}) {
    expect_refused({token, with(-1, token), Exit::malformed, "TK14", {token}});
  }
}

TEST(TokenizerBadInput, Charsmap) {  // TK16; the map itself is tested in charsmap_test.cpp
  const auto precompiled = [](const std::string& text) {
    return normalizer(R"({"type":"Precompiled","precompiled_charsmap":)" + text + "}");
  };
  for (const Row& row : std::vector<Row>{
           {"base64", precompiled("\"a*==\""), Exit::malformed, "TK16", {"precompiled_charsmap", "base64"}},
           {"short", precompiled("\"AAA=\""), Exit::malformed, "TK16", {"precompiled_charsmap", "offset"}},
           {"size above the map", precompiled("\"/wAAAAAA\""), Exit::malformed, "TK16", {"255"}},
           {"missing", precompiled("null"), Exit::malformed, "TK16", {"precompiled_charsmap"}},
       }) {
    expect_refused(row);
  }
}

TEST(TokenizerBadInput, SpecialTokensInPlainText) {  // TK17
  const auto loaded = load_text(byte_level_json(
      {}, {},
      R"("added_tokens":[{"id":256,"content":"<|end|>","special":true},{"id":257,"content":"<tool>","special":false}])"));
  ASSERT_TRUE(loaded) << format_error(loaded.error());
  EXPECT_EQ(encode(**loaded, "a<|end|>"), (std::vector<int32_t>{'a', 256}));
  const std::vector<int32_t> plain = encode(**loaded, "a<|end|><tool>", {.parse_special = false});
  EXPECT_EQ(plain, (std::vector<int32_t>{'a', '<', '|', 'e', 'n', 'd', '|', '>', 257}));
}

TEST(TokenizerBadInput, ChatTemplates) {  // TK18
  const std::string hostile = R"({"chat_template":"{{ ''.__class__.__mro__ }}{% include chat_template %}"})";
  EXPECT_TRUE(load_text(document(kWords), hostile));
  const std::string large(limits::kTemplateBytes + 1, 'x');
  for (const std::string& config :
       {"{\"chat_template\":\"" + large + "\"}",
        "{\"chat_template\":[{\"name\":\"n\",\"template\":\"" + large + "\"}]}"}) {
    const auto loaded = load_text(document(kWords), config);
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error().exit, Exit::resource);
    EXPECT_EQ(loaded.error().rule, "TK18");
    EXPECT_THAT(format_error(loaded.error()),
                testing::AllOf(testing::HasSubstr("chat_template"), testing::HasSubstr("1048577")));
  }
}

TEST(TokenizerBadInput, Version) {  // TK19
  expect_refused(
      {"2.0", R"({"version":"2.0","model":)" + kWords + "}", Exit::unsupported, "TK19", {"version", "2.0"}});
  EXPECT_TRUE(load_text("{\"model\":" + kWords + "}"));
}

TEST(TokenizerBadInput, PostProcessors) {
  const auto processor = [](const std::string& text) {
    return document(kWords, "\"post_processor\":" + text);
  };
  for (
      const Row& row : std::vector<Row>{
          {"id out of range",
           processor(R"({"type":"BertProcessing","sep":["a",1],"cls":["b",2]})"),
           Exit::malformed,
           "TK06",
           {"2"}},
          {"special unknown",
           processor(
               R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"<s>"}},{"Sequence":{"id":"A"}}]})"),
           Exit::malformed,
           "TK06",
           {"<s>"}},
          {"no sequence",
           processor(R"({"type":"TemplateProcessing","single":[]})"),
           Exit::malformed,
           "TK01",
           {"single"}},
          {"two sequences",
           processor(
               R"({"type":"TemplateProcessing","single":[{"Sequence":{"id":"A"}},{"Sequence":{"id":"A"}}]})"),
           Exit::unsupported,
           "TK12",
           {"single[1]"}},
      }) {
    expect_refused(row);
  }
}

TEST(TokenizerBadInput, TextThatIsNotUtf8) {
  const auto loaded = load_text(document(kWords));
  ASSERT_TRUE(loaded);
  const auto ids = (*loaded)->encode("ab\xFF", {});
  ASSERT_FALSE(ids);
  EXPECT_EQ(ids.error().exit, Exit::malformed);
  EXPECT_THAT(format_error(ids.error()), testing::HasSubstr("byte 2"));
}

}  // namespace
}  // namespace pare::test
