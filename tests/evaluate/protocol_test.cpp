#include "evaluate/protocol.h"

#include <gtest/gtest.h>

#include <map>

namespace pare {
namespace {

// How often each token of the stream is a target, and with how much context.
std::map<int64_t, std::vector<int64_t>> targets(int64_t tokens, const ProtocolOptions& options) {
  std::map<int64_t, std::vector<int64_t>> result;
  const auto windows = evaluation_windows(tokens, options);
  EXPECT_TRUE(windows.has_value());
  for (const EvaluationWindow& window : *windows) {
    EXPECT_GE(window.begin, 0);
    EXPECT_GE(window.score_begin, 0);
    EXPECT_LE(window.begin + window.length, tokens);
    EXPECT_LE(window.length, options.context);
    EXPECT_LE(window.score_end, window.length);
    for (int64_t row = window.score_begin; row < window.score_end; ++row) {
      const int64_t target = window.begin + row + 1;
      EXPECT_LT(target, tokens);
      result[target].push_back(row + 1);
    }
  }
  return result;
}

TEST(Protocol, DisjointScoresAllButTheFirstOfEachWindow) {
  const auto scored = targets(1000, {.protocol = Protocol::disjoint, .context = 256});
  EXPECT_EQ(scored.size(), 3u * 255u);  // the tail of 232 tokens is dropped
  EXPECT_FALSE(scored.contains(256));
  EXPECT_TRUE(scored.contains(257));
}

// The loop of the Hugging Face guide. Its model shifts the labels, so a window's first token is never a
// target.
TEST(Protocol, StrideEqualsTheGuide) {
  for (const auto& [tokens, context, stride] : {std::tuple{1000, 256, 64}, std::tuple{300, 256, 256},
                                                std::tuple{200, 256, 100}, std::tuple{513, 128, 1}}) {
    std::map<int64_t, std::vector<int64_t>> expected;
    int64_t previous_end = 0;
    for (int64_t begin = 0; begin < tokens; begin += stride) {
      const int64_t end = std::min<int64_t>(begin + context, tokens);
      for (int64_t target = std::max(previous_end, begin + 1); target < end; ++target)
        expected[target].push_back(target - begin);
      previous_end = end;
      if (end == tokens) break;
    }
    EXPECT_EQ(targets(tokens, {.protocol = Protocol::stride, .context = context, .stride = stride}),
              expected);
  }
}

TEST(Protocol, StrideScoresEveryTokenOnce) {
  const auto scored = targets(1001, {.protocol = Protocol::stride, .context = 128, .stride = 37});
  EXPECT_EQ(scored.size(), 1000u);
  for (const auto& [target, contexts] : scored) EXPECT_EQ(contexts.size(), 1u) << target;
}

TEST(Protocol, LlamaCppScores255Of512) {
  const auto windows = evaluation_windows(1300, {.protocol = Protocol::llamacpp, .context = 512}).value();
  ASSERT_EQ(windows.size(), 2u);
  for (const EvaluationWindow& window : windows) {
    EXPECT_EQ(window.score_end - window.score_begin, 255);
    EXPECT_EQ(window.score_begin + 1, 257);  // first target: position n/2 + 1
    EXPECT_TRUE(window.replace_first_with_bos);
  }
}

TEST(Protocol, WordScoresEveryTokenOnceWithFullContextLater) {
  for (int64_t tokens : {2, 100, 128, 129, 130, 500, 1025}) {
    const auto scored = targets(tokens, {.protocol = Protocol::word, .context = 128});
    EXPECT_EQ(scored.size(), size_t(tokens - 1)) << tokens;
    for (const auto& [target, contexts] : scored) EXPECT_EQ(contexts.size(), 1u);
  }
}

TEST(Protocol, TooFewTokensIsMalformedInput) {
  EXPECT_EQ(evaluation_windows(255, {.protocol = Protocol::disjoint, .context = 256}).error().rule, "DT07");
  EXPECT_EQ(evaluation_windows(1023, {.protocol = Protocol::llamacpp, .context = 512}).error().rule, "DT07");
  EXPECT_EQ(evaluation_windows(1, {.protocol = Protocol::stride, .context = 16, .stride = 4}).error().exit,
            Exit::malformed);
}

TEST(Protocol, NamesRoundTrip) {
  for (Protocol protocol : {Protocol::disjoint, Protocol::stride, Protocol::llamacpp, Protocol::word}) {
    EXPECT_EQ(parse_protocol(protocol_name(protocol)).value(), protocol);
  }
  EXPECT_EQ(parse_protocol("rolling").error().exit, Exit::usage);
}

// re.split(r"\s+", text) of the original harness counts empty pieces at the ends.
TEST(Protocol, WordsAsTheHarnessCountsThem) {
  EXPECT_EQ(count_words("a b  c"), 3);
  EXPECT_EQ(count_words(" a b\n"), 4);
  EXPECT_EQ(count_words(""), 1);
}

}  // namespace
}  // namespace pare
