// Stop strings never appear, not even in part, and the result does not depend on how the text was cut.
#include "engine/run/stop_filter.h"

#include <gtest/gtest.h>

#include "engine/core/text.h"

namespace pare {
namespace {

struct Case {
  const char* text;
  std::vector<std::string> stops;
  const char* want;
  bool stopped;
};

const Case kCases[] = {
    {"hello world", {}, "hello world", false},
    {"hello world", {"wor"}, "hello ", true},
    {"hello world", {"xyz", "o w"}, "hell", true},
    {"aaab", {"aab"}, "a", true},
    {"abcabd", {"abd"}, "abc", true},
    {"abababac", {"ababac"}, "ab", true},
    {"stop at once", {"s"}, "", true},
    {"ends with sto", {"stop"}, "ends with sto", false},  // held back, but not lost
    {"abcd", {"abcd", "bc"}, "a", true},                  // "bc" is complete first
    {"xabc", {"bc", "abc"}, "x", true},                   // both end together: the longer counts
    {"na\xc3\xafve caf\xc3\xa9", {"caf\xc3\xa9"}, "na\xc3\xafve ", true},
    {"line\n\nUser: hi", {"\nUser:"}, "line\n", true},
};

TEST(StopFilter, ResultDoesNotDependOnThePieces) {
  for (const Case& c : kCases) {
    const std::string text = c.text;
    for (size_t step = 1; step <= text.size(); ++step) {
      StopFilter filter(c.stops);
      std::string got;
      for (size_t begin = 0; begin < text.size(); begin += step) {
        got += filter.push(std::string_view(text).substr(begin, step));
        for (const std::string& stop : c.stops) EXPECT_EQ(got.find(stop), std::string::npos) << c.text;
        // never the beginning of the stop string that will end the text
        if (c.stopped) {
          EXPECT_LE(got.size(), std::string_view(c.want).size()) << c.text << ", pieces of " << step;
        }
      }
      EXPECT_EQ(filter.stopped(), c.stopped) << c.text;
      if (!filter.stopped()) got += filter.flush();
      EXPECT_EQ(got, c.want) << c.text << ", pieces of " << step;
    }
  }
}

TEST(StopFilter, HoldsBackOnlyWhatMayBecomeAStop) {
  StopFilter filter({"stop"});
  EXPECT_EQ(filter.push("go s"), "go ");
  EXPECT_EQ(filter.push("t"), "");
  EXPECT_EQ(filter.push("e"), "ste");
  EXPECT_EQ(filter.push("p sto"), "p ");
  EXPECT_EQ(filter.push("p"), "");
  EXPECT_TRUE(filter.stopped());
  EXPECT_EQ(filter.push("more"), "");
}

}  // namespace
}  // namespace pare
