#include "evaluate/gate.h"

#include <gtest/gtest.h>

namespace pare {
namespace {

const std::vector<std::string> kMetrics = {"kl", "perplexity"};

TEST(Gate, ParsesAndCompares) {
  const Gate gate = parse_gate("kl > 0.05", kMetrics).value();
  EXPECT_TRUE(gate.fails(0.051));
  EXPECT_FALSE(gate.fails(0.05));
  EXPECT_TRUE(parse_gate("perplexity>=30", kMetrics).value().fails(30.0));
  EXPECT_TRUE(parse_gate("perplexity<10", kMetrics).value().fails(9.0));
  EXPECT_FALSE(parse_gate("perplexity<=10", kMetrics).value().fails(10.5));
}

TEST(Gate, RefusesWhatItDoesNotKnow) {
  for (const char* text : {"", "kl", "kl=3", "kl>", "kl>x", "kl>nan", "speed>1", ">1"}) {
    const auto gate = parse_gate(text, kMetrics);
    ASSERT_FALSE(gate.has_value()) << text;
    EXPECT_EQ(gate.error().exit, Exit::usage) << text;
    EXPECT_EQ(gate.error().rule, "CL12") << text;
  }
}

}  // namespace
}  // namespace pare
