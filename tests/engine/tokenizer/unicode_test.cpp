#include "engine/tokenizer/unicode.h"

#include <gtest/gtest.h>

#include "engine/tokenizer/byte_level.h"
#include "engine/tokenizer/decoders.h"

namespace pare {
namespace {

TEST(Unicode, WritesAndReadsEveryCodePoint) {
  for (uint32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    const std::string text = unicode::encode(code);
    const unicode::Character read = unicode::decode_at(text.data());
    ASSERT_EQ(read.code, code);
    ASSERT_EQ(read.bytes, text.size());
    ASSERT_EQ(unicode::decode_before(text.data(), text.data() + text.size()).code, code);
  }
}

TEST(Unicode, WhiteSpaceIsTheUnicodeProperty) {
  std::vector<uint32_t> spaces;
  for (uint32_t code = 0; code < 0x110000; ++code) {
    if (unicode::is_space(code)) spaces.push_back(code);
  }
  // PropList.txt, White_Space.
  EXPECT_EQ(spaces,
            (std::vector<uint32_t>{9,      10,     11,     12,     13,     0x20,   0x85,   0xA0,   0x1680,
                                   0x2000, 0x2001, 0x2002, 0x2003, 0x2004, 0x2005, 0x2006, 0x2007, 0x2008,
                                   0x2009, 0x200A, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}));
}

TEST(Unicode, NormalForms) {
  using unicode::Form;
  EXPECT_EQ(unicode::normalize("cafe\u0301", Form::nfc), "caf\u00e9");
  EXPECT_EQ(unicode::normalize("caf\u00e9", Form::nfd), "cafe\u0301");
  EXPECT_EQ(unicode::normalize("\ufb01 \u2460", Form::nfkc), "fi 1");
  EXPECT_EQ(unicode::normalize("\u1e9b\u0323", Form::nfc), "\u1e9b\u0323");  // UAX #15, figure 6
  EXPECT_EQ(unicode::normalize("\u1e9b\u0323", Form::nfd), "\u017f\u0323\u0307");
  EXPECT_EQ(unicode::normalize("\u1e9b\u0323", Form::nfkc), "\u1e69");
  EXPECT_EQ(unicode::normalize("\u1e9b\u0323", Form::nfkd), "s\u0323\u0307");
  EXPECT_EQ(unicode::normalize("\u1112\u1161\u11ab", Form::nfc), "\ud55c");
  EXPECT_EQ(unicode::normalize("\u0301a", Form::nfc), "\u0301a");
  EXPECT_EQ(unicode::normalize("", Form::nfc), "");
  EXPECT_EQ(unicode::normalize("plain", Form::nfkd), "plain");
}

TEST(Unicode, SegmentsMakeNoDifference) {
  // Only text from the first unstable character on goes to the library; a run of stable text around must not
  // matter.
  for (auto form : {unicode::Form::nfc, unicode::Form::nfd, unicode::Form::nfkc, unicode::Form::nfkd}) {
    std::string text, expected;
    for (const char* part : {"e\u0301", "x", "q\u0323\u0307", " ", "\u212b", "ab", "\u00a0", "\ufb03"}) {
      text += part;
      expected += unicode::normalize(part, form);
    }
    EXPECT_EQ(unicode::normalize(text, form), expected);
  }
}

TEST(Unicode, LowerCase) {
  std::string out;
  for (uint32_t code : {0x41u, 0x130u, 0x3A3u, 0x1E9Eu, 0x416u, 0x10400u, 0x4E2Du})
    unicode::append_lower(out, code);
  EXPECT_EQ(out, "ai\u0307\u03c3\u00df\u0436\U00010428\u4e2d");
}

TEST(Unicode, GraphemeClusters) {
  EXPECT_EQ(unicode::first_grapheme("ab"), 1u);
  EXPECT_EQ(unicode::first_grapheme("e\u0301x"), 3u);
  EXPECT_EQ(unicode::first_grapheme("\r\nx"), 2u);
  EXPECT_EQ(unicode::first_grapheme("\U0001F468\u200d\U0001F469x"), 11u);
}

TEST(ByteLevel, TheTableIsTheOneOfGpt2) {
  EXPECT_EQ(byte_level::map(" \n!"), "\u0120\u010a!");
  EXPECT_EQ(byte_level::character_of(0xAD), 0x143u);  // the last of the 68
  for (int byte = 0; byte < 256; ++byte) {
    const std::string one(1, static_cast<char>(byte));
    EXPECT_EQ(byte_level::unmap(byte_level::map(one)), one);
  }
  EXPECT_EQ(byte_level::unmap("a b"), std::nullopt);
}

TEST(LossyUtf8, OneMarkPerMaximalPart) {
  const auto decode = [](std::string_view bytes, size_t step) {
    LossyUtf8 utf8;
    std::string out;
    for (size_t i = 0; i < bytes.size(); i += step) utf8.push(bytes.substr(i, step), out);
    utf8.finish(out);
    return out;
  };
  // Unicode 15, table 3-8: F1 | 80 80 make one part each as shown there.
  const std::string_view text = "\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64";
  for (size_t step : std::initializer_list<size_t>{1, 2, 3, 100}) {
    EXPECT_EQ(decode(text, step), "a\uFFFD\uFFFD\uFFFDb\uFFFDc\uFFFD\uFFFDd");
    EXPECT_EQ(decode("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41", step),
              "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDA");
    EXPECT_EQ(decode("\xED\xA0\x80\xF4\x91", step), "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFD");
    EXPECT_EQ(decode("\xE4\xB8", step), "\uFFFD");
  }
}

}  // namespace
}  // namespace pare
