#include <gtest/gtest.h>

#include "engine/core/random.h"
#include "engine/core/text.h"
#include "tests/engine/tokenizer/tokenizer_fixtures.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

// Feeds the ids one by one; checks that each part is whole characters and that the parts make up decode().
void expect_streams(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip_special) {
  StreamDecoder stream(tokenizer, skip_special);
  std::string joined;
  for (int32_t id : ids) {
    const std::string part = stream.push(id);
    EXPECT_TRUE(is_valid_utf8(part)) << "id " << id;
    joined += part;
  }
  joined += stream.flush();
  EXPECT_EQ(joined, tokenizer.decode(ids, skip_special));
}

class StreamDecoderTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!shared_data("tokenizer-cases/gpt2")) GTEST_SKIP() << "without shared data";
    tokenizer_ =
        load_shared(GetParam() == "stories260K" ? "stories260K-hf" : "tokenizer-cases/" + GetParam());
    ASSERT_NE(tokenizer_, nullptr);
  }
  std::shared_ptr<const Tokenizer> tokenizer_;
};

TEST_P(StreamDecoderTest, EqualsDecodeOnEveryCase) {
  for (const std::string file : {"cases.jsonl", "decode.jsonl"}) {
    for (const Json& row : read_json_lines(*shared_data("tokenizer-cases/" + GetParam() + "/" + file))) {
      const std::vector<int32_t> ids = ids_of(*row.find("ids"));
      if (ids.size() > 2000) continue;
      SCOPED_TRACE(row.find("ids")->dump().substr(0, 200));
      expect_streams(*tokenizer_, ids, false);
      expect_streams(*tokenizer_, ids, true);
    }
  }
}

TEST_P(StreamDecoderTest, EqualsDecodeOnRandomIds) {
  const Random random(3, RandomPurpose::test_data);
  const auto size = static_cast<uint64_t>(tokenizer_->vocabulary_size());
  for (uint64_t trial = 0; trial < 500; ++trial) {
    std::vector<int32_t> ids;
    for (uint64_t i = 0; i < 1 + trial % 24; ++i)
      ids.push_back(static_cast<int32_t>(random.below(size, trial * 64 + i)));
    expect_streams(*tokenizer_, ids, trial % 2 == 0);
  }
}

TEST_P(StreamDecoderTest, StartsAfreshAfterFlush) {
  const std::vector<int32_t> ids = encode(*tokenizer_, "caf\u00e9 \U0001F600!");
  StreamDecoder stream(*tokenizer_, false);
  for (int round = 0; round < 2; ++round) {
    std::string joined;
    for (int32_t id : ids) joined += stream.push(id);
    EXPECT_EQ(joined + stream.flush(), tokenizer_->decode(ids, false));
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, StreamDecoderTest,
                         testing::Values("stories260K", "gpt2", "llama3", "qwen2", "unigram", "bert"),
                         [](const auto& info) { return info.param; });

TEST(StreamDecoder, KeepsSplitCharactersTogether) {
  const auto tokenizer = load_text(byte_level_json({}, {}));
  ASSERT_TRUE(tokenizer);
  const std::string text = "a\u00e9\u4e2d\U0001F600z";  // one to four bytes, one token per byte
  const std::vector<int32_t> ids = encode(**tokenizer, text);
  ASSERT_EQ(ids.size(), text.size());
  StreamDecoder stream(**tokenizer, false);
  std::vector<std::string> parts;
  for (int32_t id : ids) parts.push_back(stream.push(id));
  EXPECT_EQ(parts,
            (std::vector<std::string>{"a", "", "\u00e9", "", "", "\u4e2d", "", "", "", "\U0001F600", "z"}));
  EXPECT_EQ(stream.flush(), "");
}

TEST(StreamDecoder, ReplacesWhatNeverBecomesACharacter) {
  const auto tokenizer = load_text(byte_level_json({}, {}));
  ASSERT_TRUE(tokenizer);
  StreamDecoder stream(**tokenizer, false);
  EXPECT_EQ(stream.push(0xF0), "");
  EXPECT_EQ(stream.push(0x9F), "");
  EXPECT_EQ(stream.push('a'), "\uFFFDa");  // one mark for the maximal part
  EXPECT_EQ(stream.push(0xE4), "");
  EXPECT_EQ(stream.flush(), "\uFFFD");
}

}  // namespace
}  // namespace pare::test
