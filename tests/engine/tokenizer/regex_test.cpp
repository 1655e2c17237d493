#include "engine/tokenizer/regex.h"

#include <gtest/gtest.h>

#include "engine/tokenizer/regex_syntax.h"

namespace pare {
namespace {

std::vector<std::string> find(std::string_view pattern, std::string_view text) {
  auto regex = Regex::compile(pattern, "m/tokenizer.json", "w");
  EXPECT_TRUE(regex) << pattern << ": " << (regex ? "" : format_error(regex.error()));
  std::vector<std::string> found;
  std::vector<Piece> matches;
  if (!regex || !(*regex)->find_all(text, matches)) return {"error"};
  for (const Piece& match : matches) found.emplace_back(match.of(text));
  return found;
}
using Found = std::vector<std::string>;

TEST(Regex, FindsAllMatches) {
  EXPECT_EQ(find("a+", "aab ba"), (Found{"aa", "a"}));
  EXPECT_EQ(find("(?<=b)a", "aba"), (Found{"a"}));
  EXPECT_EQ(find(" {2,}", "a  b c   "), (Found{"  ", "   "}));
  EXPECT_EQ(find("x", ""), Found{});
  EXPECT_EQ(find("[\xE4\xB8\x80-\xE9\xBE\xA5]+", "a\u4e2d\u6587b"), (Found{"\u4e2d\u6587"}));
}

TEST(Regex, PassesOverEmptyMatchesBehindAMatch) {
  EXPECT_EQ(find("a*", "baac"), (Found{"", "aa", ""}));
  EXPECT_EQ(find("", "\u00e9b"), (Found{"", "", ""}));
}

TEST(Regex, ClassesAreThoseOfUnicode) {
  EXPECT_EQ(find("\\s+", "a\u0085\u00a0\u2003b"), (Found{"\u0085\u00a0\u2003"}));
  EXPECT_EQ(find("\\s", "\u200b\u180e"), Found{});  // format characters, not white space
  EXPECT_EQ(find("[^\\s]", "\u180e\u00a0"), (Found{"\u180e"}));
  EXPECT_EQ(find("\\S+", "a b"), (Found{"a", "b"}));
  EXPECT_EQ(find("\\w+", "caf\u00e9 cafe\u0301 a_b a-b \u203f"),
            (Found{"caf\u00e9", "cafe\u0301", "a_b", "a", "b", "\u203f"}));
  EXPECT_EQ(find("[\\w-]+", "a-b c"), (Found{"a-b", "c"}));
  EXPECT_EQ(find("\\W", "a!\u0301"), (Found{"!"}));
  EXPECT_EQ(find("\\d+", "1\u0663x\u00b2"), (Found{"1\u0663"}));  // Nd only
  EXPECT_EQ(find("\\bcaf\\w+\\b", "xcafe cafe\u0301"), (Found{"cafe\u0301"}));
  EXPECT_EQ(find("(?i)'S", "'s 'S '\u017f"), (Found{"'s", "'S", "'\u017f"}));
}

TEST(Regex, ReadsRubySyntax) {
  EXPECT_EQ(find("^b$", "a\nb\nc"), (Found{"b"}));  // lines, always
  EXPECT_EQ(find("a.", "a\nab"), (Found{"ab"}));
  EXPECT_EQ(find("(?m:a.)", "a\nab"), (Found{"a\n", "ab"}));
  EXPECT_EQ(find("\\u4e2d|\\x41|\\x{1F600}", "A\u4e2d\U0001F600"), (Found{"A", "\u4e2d", "\U0001F600"}));
  EXPECT_EQ(find("a{,2}b", "aaab"), (Found{"aab"}));
  EXPECT_EQ(find("a{x}", "a{x}"), (Found{"a{x}"}));
  EXPECT_EQ(find("[[:alpha:]]+", "ab1"), (Found{"ab"}));
  EXPECT_EQ(find("[\\[\\]\\\\^_`{|}~]+", "a[]\\^b"), (Found{"[]\\^"}));
  EXPECT_EQ(find("\\p{^L}+|\\P{L}", "a1!"), (Found{"1!"}));
  EXPECT_EQ(find("(?>a+)b|a", "aac"), (Found{"a", "a"}));
}

TEST(Regex, RefusesWhatEnginesReadDifferently) {
  for (const char* pattern : {"\\h", "\\R", "\\X", "\\v", "\\K", "a{2}+", "[a[b]]", "(?s)a", "(?<n>a)",
                              "[\\W]", "\\012", "(?#c)", "(?x)a"}) {
    const auto regex = Regex::compile(pattern, "p", "w");
    ASSERT_FALSE(regex) << pattern;
    EXPECT_EQ(regex.error().exit, Exit::unsupported) << pattern;
    EXPECT_EQ(regex.error().rule, "TK11") << pattern;
  }
}

TEST(Regex, RepeatedGroupsEndAtTheDepthLimitNotInAWrongSplit) {
  auto regex = Regex::compile("(?:ab?)+", "p", "w");
  ASSERT_TRUE(regex);
  std::vector<Piece> matches;
  const Status found = (*regex)->find_all(std::string(100'000, 'a'), matches);
  if (found) {
    EXPECT_EQ(matches, (std::vector<Piece>{{0, 100'000}}));
  } else {
    EXPECT_EQ(found.error().exit, Exit::resource);
  }
}

}  // namespace
}  // namespace pare
