#include "engine/core/text.h"

#include <gtest/gtest.h>

#include <array>
#include <limits>

namespace pare {
namespace {

TEST(Text, SanitizeTable) {
  const std::array<std::pair<std::string, std::string>, 14> table{{
      {"plain \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "plain \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
      {"a\\b", "a\\\\b"},
      {"\x1b[2J", "\\x1b[2J"},
      {"\n\t\r", "\\x0a\\x09\\x0d"},
      {std::string("\0", 1), "\\x00"},
      {"\x7f", "\\x7f"},
      {"\xc2\x9b", "\\xc2\\x9b"},           // C1
      {"\xe2\x80\xa8", "\\xe2\\x80\\xa8"},  // line separator
      {"\xe2\x80\xae", "\\xe2\\x80\\xae"},  // right-to-left override
      {"\xe2\x81\xa6", "\\xe2\\x81\\xa6"},  // isolate
      {"\xd8\x9c", "\\xd8\\x9c"},           // Arabic letter mark
      {"\xff\xc0\x80", "\\xff\\xc0\\x80"},  // invalid, overlong
      {"\xed\xa0\x80", "\\xed\\xa0\\x80"},  // surrogate
      {"\xe2\x82", "\\xe2\\x82"},           // cut short
  }};
  for (const auto& [text, expected] : table) EXPECT_EQ(sanitize(text), expected);
}

TEST(Text, SanitizedBytesNeverSteer) {
  for (int a = 0; a < 256; ++a) {
    for (int b = 0; b < 256; ++b) {
      const std::string text{static_cast<char>(a), static_cast<char>(b)};
      const std::string out = sanitize(text);
      EXPECT_TRUE(is_valid_utf8(out));
      for (const char c : out) EXPECT_TRUE(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
    }
  }
}

TEST(Text, QuoteCutsBetweenCharacters) {
  EXPECT_EQ(quote("a"), "\"a\"");
  EXPECT_EQ(quote(std::string(120, 'x')), "\"" + std::string(120, 'x') + "\"");
  EXPECT_EQ(quote(std::string(121, 'x')), "\"" + std::string(120, 'x') + "\xe2\x80\xa6\"");
  EXPECT_EQ(quote(std::string(119, 'x') + "\xc3\xa9"), "\"" + std::string(119, 'x') + "\xe2\x80\xa6\"");
  EXPECT_EQ(quote(std::string(119, 'x') + "\n"), "\"" + std::string(119, 'x') + "\xe2\x80\xa6\"");
}

TEST(Text, ParseNumbers) {
  EXPECT_EQ(parse_int("-9223372036854775808"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(parse_int("42"), 42);
  EXPECT_EQ(parse_uint("18446744073709551615"), std::numeric_limits<uint64_t>::max());
  for (const char* bad : {"", " 1", "1 ", "+1", "1x", "0x1", "9223372036854775808", "1.0", "--1"}) {
    EXPECT_EQ(parse_int(bad), std::nullopt) << bad;
  }
  for (const char* bad : {"", "-1", "18446744073709551616"}) EXPECT_EQ(parse_uint(bad), std::nullopt) << bad;
  EXPECT_EQ(parse_double("0.5"), 0.5);
  EXPECT_EQ(parse_double("-1e-3"), -1e-3);
  for (const char* bad : {"", "nan", "inf", "1e400", "1,5", "4x", " 1", "0x1p3"}) {
    EXPECT_EQ(parse_double(bad), std::nullopt) << bad;
  }
}

TEST(Text, ParseBytes) {
  EXPECT_EQ(parse_bytes("4096"), 4096u);
  EXPECT_EQ(parse_bytes("80MB"), 80'000'000u);
  EXPECT_EQ(parse_bytes("1.5GiB"), 1'610'612'736u);
  EXPECT_EQ(parse_bytes("16 GB"), 16'000'000'000u);
  EXPECT_EQ(parse_bytes("2kib"), 2048u);
  EXPECT_EQ(parse_bytes("16777215TiB"), 16'777'215ull << 40);
  for (const char* bad : {"", "MB", "1.5", "-1MB", "1..5GB", ".5GB", "5.GB", "1XB", "16777216TiB",
                          "99999999999EB", "1 ", "nanMB"}) {
    EXPECT_EQ(parse_bytes(bad), std::nullopt) << bad;
  }
}

TEST(Text, Formats) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(269'060'552), "269.1 MB");
  EXPECT_EQ(format_bytes(999'950), "1.0 MB");
  EXPECT_EQ(format_bytes(std::numeric_limits<uint64_t>::max()), "18.4 EB");
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(134'515'008), "134,515,008");
  EXPECT_EQ(format_utc(0), "1970-01-01T00:00:00Z");
  EXPECT_EQ(format_utc(1709211909), "2024-02-29T13:05:09Z");
  EXPECT_EQ(format_utc(INT64_MAX), "");
  EXPECT_EQ(format_duration(0.42), "0.42 s");
  EXPECT_EQ(format_duration(59.94), "59.9 s");
  EXPECT_EQ(format_duration(59.96), "1 min 0 s");
  EXPECT_EQ(format_duration(192), "3 min 12 s");
  EXPECT_EQ(format_duration(7500), "2 h 5 min");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::quiet_NaN()), "unknown");
  EXPECT_EQ(format_double(0.1), "0.1");
  EXPECT_EQ(format_double(1e300), "1e+300");
}

TEST(Text, Utf8Offsets) {
  EXPECT_EQ(first_invalid_utf8(""), 0u);
  EXPECT_EQ(first_invalid_utf8("0123456789abcdef\xc3\xa9"), 0u);
  EXPECT_EQ(first_invalid_utf8("0123456789\x80"), 11u);
  EXPECT_EQ(first_invalid_utf8("\xc3"), 1u);
  EXPECT_EQ(first_invalid_utf8("a\xe0\x80\x80"), 2u);     // overlong
  EXPECT_EQ(first_invalid_utf8("ab\xed\xbf\xbf"), 3u);    // surrogate
  EXPECT_EQ(first_invalid_utf8("\xf4\x8f\xbf\xbf"), 0u);  // U+10FFFF
  EXPECT_EQ(first_invalid_utf8("\xf4\x90\x80\x80"), 1u);
  EXPECT_EQ(first_invalid_utf8("\xf8\x88\x80\x80\x80"), 1u);
}

TEST(Text, NearestWord) {
  const std::array<std::string, 4> words = {"--bits", "--scheme", "--method", "--output"};
  const auto nearest = [&](const char* word) {
    return nearest_word(word, words.data(), words.data() + words.size());
  };
  EXPECT_EQ(nearest("--bist"), "--bits");
  EXPECT_EQ(nearest("--shceme"), "--scheme");
  EXPECT_EQ(nearest("--metod"), "--method");
  EXPECT_EQ(nearest("--zzzzzzzz"), "");
  EXPECT_EQ(nearest(std::string(1'000'000, 'x').c_str()), "");
}

}  // namespace
}  // namespace pare
