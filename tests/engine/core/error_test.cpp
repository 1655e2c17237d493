#include "engine/core/error.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "engine/core/assert.h"
#include "engine/core/json.h"
#include "engine/core/limits.h"

namespace pare {
namespace {

// The examples of the contract, without the prefix that main adds.
TEST(FormatError, LabelsAndParts) {
  Error error{
      Exit::malformed, "ST19",    "m/model.safetensors", "\"w\".data_offsets", "size does not match", "8192",
      "16384",         "expected"};
  EXPECT_EQ(format_error(error),
            "m/model.safetensors: \"w\".data_offsets: size does not match (got 8192, expected 16384)");
  error.limit.clear();
  EXPECT_EQ(format_error(error), "m/model.safetensors: \"w\".data_offsets: size does not match (got 8192)");
  error.got.clear();
  error.where.clear();
  EXPECT_EQ(format_error(error), "m/model.safetensors: size does not match");
  error.limit = "64";
  error.limit_label = "limit";
  EXPECT_EQ(format_error(error), "m/model.safetensors: size does not match (limit 64)");
}

TEST(FormatError, IsOneLineWithoutControls) {
  const Error error{Exit::malformed, "", "a\nb", "w\x1b[2J", "bad", "\xe2\x80\xae", ""};
  EXPECT_EQ(format_error(error), "a\\x0ab: w\\x1b[2J: bad (got \\xe2\\x80\\xae)");
}

TEST(FormatError, KeepsEscapesOfQuotedNames) {
  const Error error{Exit::malformed, "", "f", "\"a\\\\b\\x1b\"", "bad", "", ""};
  EXPECT_EQ(format_error(error), "f: \"a\\\\b\\x1b\": bad");
}

TEST(FormatError, CutsLongLines) {
  const Error error{Exit::malformed, "", std::string(10'000, 'p'), "", "bad", "", ""};
  const std::string line = "pare: error: " + format_error(error) + "\n";
  EXPECT_LE(line.size(), limits::kErrorLineBytes);
  EXPECT_GT(line.size(), limits::kErrorLineBytes - 8);
  EXPECT_TRUE(line.ends_with("\xe2\x80\xa6\n"));
}

TEST(FormatError, Json) {
  const Error error{Exit::unsupported, "ST14", "m", "w", "unknown dtype", "\"F2\"", "x"};
  const auto json = parse_json(format_error_json(error), "line", {.max_bytes = 10'000});
  ASSERT_TRUE(json);
  EXPECT_EQ(json->find("exit")->as_int(), 4);
  EXPECT_EQ(json->find("level")->as_string(), "error");
  EXPECT_EQ(json->find("rule")->as_string(), "ST14");
  EXPECT_EQ(json->find("got")->as_string(), "\"F2\"");
}

TEST(Assert, ThrowsWithPlaceAndMessage) {
  try {
    PARE_ASSERT(1 + 1 == 3, "one and one is {}", 2);
    FAIL() << "no exception";
  } catch (const InternalError& error) {
    const std::string text = error.what();
    EXPECT_TRUE(text.starts_with("core/error_test.cpp:")) << text;
    EXPECT_TRUE(text.ends_with("one and one is 2")) << text;
  }
}

TEST(Limits, TableNamesEveryCapOnce) {
  std::set<std::string> names;
  for (const limits::Limit& limit : limits::all()) {
    EXPECT_GT(limit.value, 0u);
    EXPECT_TRUE(names.insert(limit.name).second) << limit.name;
  }
  EXPECT_GE(names.size(), 30u);
}

}  // namespace
}  // namespace pare
