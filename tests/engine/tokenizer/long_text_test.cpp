// TK10: a million characters of one class, through every kind of pipeline. A pass that is not nearly linear
// would not come back within the time of the whole run; recursion would overflow the stack.
#include <gtest/gtest.h>

#include "engine/tokenizer/unicode.h"
#include "tests/engine/tokenizer/tokenizer_fixtures.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

constexpr int kCharacters = 1'000'000;

const std::vector<char32_t> kClasses = {U'a',  U'A', U' ',  U'\t',     U'\n',    U'.',
                                        U'\'', U'1', U'中', U'\u0301', U'\u02b0'};

std::string run_of(char32_t character) {
  std::string text;
  for (int i = 0; i < kCharacters; ++i) unicode::append(text, character);
  return text;
}

class LongTextTest : public testing::TestWithParam<std::string> {};

TEST_P(LongTextTest, OneCharacterAMillionTimes) {
  PARE_SHARED_OR_SKIP(folder, "tokenizer-cases");
  const auto tokenizer = load_shared(GetParam());
  ASSERT_NE(tokenizer, nullptr);
  for (char32_t character : kClasses) {
    const std::string text = run_of(character);
    for (const std::string tail : {"", "b"}) {
      const auto ids = tokenizer->encode(text + tail, {});
      ASSERT_TRUE(ids) << format_error(ids.error());
      if (GetParam() == "tokenizer-cases/gpt2") {
        ASSERT_EQ(tokenizer->decode(*ids, false), text + tail);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, LongTextTest,
                         testing::Values("tokenizer-cases/gpt2", "tokenizer-cases/llama3",
                                         "tokenizer-cases/qwen2", "tokenizer-cases/unigram",
                                         "tokenizer-cases/bert", "stories260K-hf"),
                         [](const auto& info) {
                           std::string name = info.param.substr(info.param.find('/') + 1);
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name == info.param ? "stories260K" : name;
                         });

// The Llama-3 pattern written a little otherwise, so that PCRE2 runs it: legal text must stay within the
// limits.
TEST(LongText, ForeignPatternStaysWithinItsLimits) {
  const std::string pattern =
      R"((?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const auto tokenizer = load_text(byte_level_json(
      {}, {},
      R"("pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","behavior":"Isolated","pattern":{"Regex":)" +
          Json(pattern).dump() + R"(}},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]})"));
  ASSERT_TRUE(tokenizer) << format_error(tokenizer.error());
  for (char32_t character : {U'a', U' ', U'\t', U'.', U'1', U'中'}) {
    const std::string text = run_of(character);
    for (const std::string tail : {"", "b"}) {
      const auto ids = (*tokenizer)->encode(text + tail, {});
      ASSERT_TRUE(ids) << format_error(ids.error());
      EXPECT_EQ(ids->size(), text.size() + tail.size());
    }
  }
}

}  // namespace
}  // namespace pare::test
