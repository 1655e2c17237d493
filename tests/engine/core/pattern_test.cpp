#include <gtest/gtest.h>

#include <string>

#include "engine/core/text.h"

namespace pare {
namespace {

constexpr const char* kName = "model.layers.3.mlp.down_proj.weight";

TEST(Pattern, Matches) {
  for (const char* pattern :
       {"layers.*.down_proj", "model.layers.3.mlp.down_proj.weight", "*", "down_proj", "down_proj.weight",
        "*down*", "layers.3.*", "layers.?.mlp.*", "layers.{1,3}.mlp.{up,down}_proj", "{attn,mlp}.*_proj",
        "weight", "mlp.{{a,b},down}_proj", "mlp.down_proj{,_x}", "**down_proj**"}) {
    EXPECT_TRUE(matches_pattern(pattern, kName)) << pattern;
  }
}

TEST(Pattern, DoesNotMatch) {
  for (const char* pattern :
       {"", "own_proj", "layers.*.up_proj", "layers.??.mlp.*", "model.layers", "mlp.down_proj.bias",
        "layers.{1,2}.*", "layers.{3.mlp", "down_proj}", "MLP.down_proj", "down_proj.", "mlp.{}"}) {
    EXPECT_FALSE(matches_pattern(pattern, kName)) << pattern;
  }
}

TEST(Pattern, UnbalancedBracesAndCommasAreLiteral) {
  EXPECT_TRUE(matches_pattern("a{b", "a{b"));
  EXPECT_TRUE(matches_pattern("a,b", "a,b"));
  EXPECT_FALSE(matches_pattern("{a,b}", "{a,b}"));
}

TEST(Pattern, OnlyOneWeightSuffixIsOptional) {
  EXPECT_TRUE(matches_pattern("a", "a.weight"));
  EXPECT_FALSE(matches_pattern("a", "a.weight.weight"));
  EXPECT_FALSE(matches_pattern("a", "a.bias"));
}

// Backtracking or expanding the alternatives would not come back from these.
TEST(Pattern, HostilePatternsStayLinear) {
  std::string stars, braces;
  for (int i = 0; i < 200; ++i) stars += "*a", braces += "{a,aa,aaa}";
  EXPECT_FALSE(matches_pattern(stars + "b", std::string(500, 'a')));
  EXPECT_FALSE(matches_pattern(braces + "b", std::string(500, 'a')));
  EXPECT_TRUE(matches_pattern(braces, std::string(500, 'a')));
  EXPECT_FALSE(matches_pattern(std::string(5000, '{') + std::string(5000, '}'), "a"));
}

}  // namespace
}  // namespace pare
