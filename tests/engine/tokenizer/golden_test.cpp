// Exact comparison with the reference implementation on six tokenizers: every id, every byte of text.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/engine/tokenizer/tokenizer_fixtures.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

class GoldenTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    const std::string name = GetParam();
    if (!shared_data("tokenizer-cases/" + name)) GTEST_SKIP() << "without shared data";
    tokenizer_ = load_shared(name == "stories260K" ? "stories260K-hf" : "tokenizer-cases/" + name);
    ASSERT_NE(tokenizer_, nullptr);
  }
  std::vector<Json> rows(const std::string& file) const {
    return read_json_lines(*shared_data("tokenizer-cases/" + GetParam() + "/" + file));
  }
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_P(GoldenTest, EncodesAndDecodesEveryCase) {
  const std::vector<Json> cases = rows("cases.jsonl");
  for (const Json& row : cases) {
    const std::string& text = row.find("text")->as_string();
    const std::vector<int32_t> ids = ids_of(*row.find("ids"));
    SCOPED_TRACE(row.find("group")->as_string() + ": " + row.find("text")->dump().substr(0, 200));
    EXPECT_EQ(encode(*tokenizer_, text), ids);
    const Json* framed = row.find("ids_framed");
    EXPECT_EQ(encode(*tokenizer_, text, {.add_special = true}), framed == nullptr ? ids : ids_of(*framed));
    const std::string& decoded = row.find("decoded")->as_string();
    EXPECT_EQ(tokenizer_->decode(ids, /*skip_special=*/false), decoded);
    const Json* plain = row.find("decoded_plain");
    EXPECT_EQ(tokenizer_->decode(ids, /*skip_special=*/true),
              plain == nullptr ? decoded : plain->as_string());
  }
  std::printf("%s: %zu cases\n", GetParam().c_str(), cases.size());
  EXPECT_EQ(cases.size(), 185u);
}

TEST_P(GoldenTest, DecodesRandomIds) {
  const std::vector<Json> cases = rows("decode.jsonl");
  for (const Json& row : cases) {
    SCOPED_TRACE(row.find("ids")->dump());
    EXPECT_EQ(tokenizer_->decode(ids_of(*row.find("ids")), false), row.find("decoded")->as_string());
  }
  std::printf("%s: %zu decodings\n", GetParam().c_str(), cases.size());
  EXPECT_EQ(cases.size(), 40u);
}

TEST_P(GoldenTest, RemembersNothingBetweenTexts) {
  const std::vector<Json> cases = rows("cases.jsonl");
  for (size_t i = cases.size(); i-- > 0;) {  // backwards, with warm caches, twice
    const std::string& text = cases[i].find("text")->as_string();
    EXPECT_EQ(encode(*tokenizer_, text), ids_of(*cases[i].find("ids")));
    EXPECT_EQ(encode(*tokenizer_, text), ids_of(*cases[i].find("ids")));
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, GoldenTest,
                         testing::Values("stories260K", "gpt2", "llama3", "qwen2", "unigram", "bert"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace pare::test
