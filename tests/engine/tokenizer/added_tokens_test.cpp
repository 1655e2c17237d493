#include "engine/tokenizer/added_tokens.h"

#include <gtest/gtest.h>

#include <deque>

namespace pare {
namespace {

class AddedTokensTest : public testing::Test {
 protected:
  void add(const std::string& content, bool special, const std::string& flags = {}) {
    AddedToken token;
    token.id = static_cast<int32_t>(tokens_.size());
    token.content = token.pattern = content;
    token.special = special;
    token.single_word = flags.find('w') != std::string::npos;
    token.lstrip = flags.find('l') != std::string::npos;
    token.rstrip = flags.find('r') != std::string::npos;
    tokens_.push_back(token);
    matcher_.add(&tokens_.back());
  }
  // Tokens in brackets, text as it is.
  std::vector<std::string> split(std::string_view text, bool parse_special = true) const {
    std::vector<AddedTokenMatcher::Section> sections;
    matcher_.split(text, parse_special, sections);
    std::vector<std::string> shown;
    size_t covered = 0;
    for (const auto& section : sections) {
      EXPECT_EQ(section.range.begin, covered);
      covered = section.range.end;
      const std::string part(section.range.of(text));
      shown.push_back(section.token == nullptr ? part : "[" + part + "]");
    }
    EXPECT_EQ(covered, text.size());
    return shown;
  }
  std::deque<AddedToken> tokens_;
  AddedTokenMatcher matcher_;
};
using Sections = std::vector<std::string>;

TEST_F(AddedTokensTest, LeftmostThenLongest) {
  add("<a>", true);
  add("<a><b>", true);
  add("b>c", true);
  EXPECT_EQ(split("x<a><b>c"), (Sections{"x", "[<a><b>]", "c"}));
  EXPECT_EQ(split("<a><a>"), (Sections{"[<a>]", "[<a>]"}));
  EXPECT_EQ(split("<b>c<"), (Sections{"<", "[b>c]", "<"}));
  EXPECT_EQ(split(""), Sections{});
}

TEST_F(AddedTokensTest, StripsTakeWhiteSpace) {
  add("<l>", true, "l");
  add("<r>", true, "r");
  EXPECT_EQ(split("a \u00a0<l> b"), (Sections{"a", "[ \u00a0<l>]", " b"}));
  EXPECT_EQ(split("a <r> \n b"), (Sections{"a ", "[<r> \n ]", "b"}));
  EXPECT_EQ(split("<r>  <l>"), (Sections{"[<r>  ]", "[<l>]"}));  // not past the match before
}

TEST_F(AddedTokensTest, SingleWord) {
  add("day", false, "w");
  EXPECT_EQ(split("day today day."), (Sections{"[day]", " today ", "[day]", "."}));
  EXPECT_EQ(split("\u00e9day"), (Sections{"\u00e9day"}));
}

TEST_F(AddedTokensTest, SpecialTokensAsText) {
  add("<s>", true);
  add("<t>", false);
  EXPECT_EQ(split("<s><t>", false), (Sections{"<s>", "[<t>]"}));
}

}  // namespace
}  // namespace pare
