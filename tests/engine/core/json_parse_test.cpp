// What parse_json takes and what it refuses; rules ST07 to ST16 and CF01 to CF06 rest on it.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/core/json.h"
#include "engine/core/limits.h"

namespace pare {
namespace {

constexpr JsonLimits kAnyRoot{.max_bytes = 1ull << 30, .want_object = false};

Result<Json> parse(std::string_view text) {
  return parse_json(text, "m/config.json", kAnyRoot, "CF01");
}

struct Refused {
  std::string text;
  std::string where;
  std::string what;
  std::string got = {};
};

TEST(ParseJson, RefusesWithPlaceAndCause) {
  const std::vector<Refused> table = {
      {"", "1:1", "text ends too early"},
      {"  ", "1:3", "text ends too early"},
      {"[1,", "1:4", "text ends too early"},
      {"{\"a\"", "1:5", "text ends too early"},
      {"\"abc", "1:5", "text ends too early"},
      {"[1,]", "1:4", "not valid JSON", "\"]\""},
      {"{,}", "1:2", "not valid JSON"},
      {"{\"a\":1,}", "1:8", "not valid JSON"},
      {"{a:1}", "1:2", "not valid JSON"},
      {"{'a':1}", "1:2", "not valid JSON"},
      {"[1 2]", "1:4", "not valid JSON"},
      {"// c\n1", "1:1", "not valid JSON"},
      {"[\n\n  tru]", "3:6", "not valid JSON"},
      {"01", "1:2", "text continues after the value"},
      {"[01]", "1:3", "not valid JSON"},
      {"+1", "1:1", "not valid JSON"},
      {".5", "1:1", "not valid JSON"},
      {"[1.]", "1:4", "not valid JSON"},
      {"[1e]", "1:4", "not valid JSON"},
      {"[-]", "1:3", "not valid JSON"},
      {"{} x", "1:4", "text continues after the value", "\"x\""},
      {"{}{}", "1:3", "text continues after the value"},
      {"[\"a\nb\"]", "1:4", "unescaped control character in a string"},
      {"[\"\\x\"]", "1:4", "not valid JSON"},
      {"[\"\\u12\"]", "1:7", "not valid JSON"},
      {"{\"a\":1,\n \"a\":2}", "2:2", "duplicate key", "\"a\""},
      {"{\"a\":1,\"\\u0061\":2}", "1:8", "duplicate key", "\"a\""},
      {"[[{\"k\":{},\"k\":1}]]", "1:11", "duplicate key"},
      {"NaN", "1:1", "number is out of range", "\"NaN\""},
      {"{\"x\":\n Infinity}", "2:2: \"x\"", "number is out of range"},
      {"[-Infinity]", "1:2", "number is out of range"},
      {"{\"x\": 1e400}", "1:7: \"x\"", "number is out of range", "\"1e400\""},
      {"[-1e999]", "1:2", "number is out of range"},
      {"\xef\xbb\xbf{}", "byte 0", "byte order mark before the text"},
      {"[\"ab\xff\"]", "byte 4", "invalid UTF-8"},
      {"[\"\xc0\xaf\"]", "byte 2", "invalid UTF-8"},
      {"[\"\xed\xa0\x80\"]", "byte 2", "invalid UTF-8"},
      {"[\"\\ud800\"]", "byte 8", "lone surrogate in a string"},
      {"[\"\\udc00\"]", "byte 7", "lone surrogate in a string"},
      {"[\"\\ud800\\u0041\"]", "byte 13", "lone surrogate in a string"},
      {std::string("{}\0junk", 7), "byte 2", "NUL byte in the text"},
      {std::string("[\"a\0\"]", 6), "byte 3", "NUL byte in the text"},
  };
  for (const Refused& row : table) {
    const auto json = parse(row.text);
    ASSERT_FALSE(json) << row.text;
    const Error& error = json.error();
    EXPECT_EQ(error.exit, Exit::malformed) << row.text;
    EXPECT_EQ(error.path, "m/config.json");
    EXPECT_EQ(error.rule, "CF01");
    EXPECT_EQ(error.where, row.where) << row.text;
    EXPECT_EQ(error.what, row.what) << row.text;
    EXPECT_TRUE(row.got.empty() || error.got == row.got) << row.text << ": " << error.got;
  }
}

TEST(ParseJson, AcceptsAndKeepsKinds) {
  using Kind = Json::Kind;
  const std::vector<std::pair<std::string, Kind>> table = {
      {" null ", Kind::null},
      {"true", Kind::boolean},
      {"0", Kind::integer},
      {"-0", Kind::integer},
      {"9223372036854775807", Kind::integer},
      {"-9223372036854775808", Kind::integer},
      {"9223372036854775808", Kind::unsigned_integer},
      {"18446744073709551615", Kind::unsigned_integer},
      {"18446744073709551616", Kind::real},
      {"-9223372036854775809", Kind::real},
      {"1e3", Kind::real},
      {"1.0", Kind::real},
      {"1e-400", Kind::real},
      {"\"\\u0000\\n\\ud83d\\ude00\"", Kind::string},
      {"[]", Kind::array},
      {"\n{\t}\r\n", Kind::object},
  };
  for (const auto& [text, kind] : table) {
    const auto json = parse(text);
    ASSERT_TRUE(json) << text << ": " << format_error(json.error());
    EXPECT_EQ(json->kind(), kind) << text;
  }
  EXPECT_EQ(parse("18446744073709551615")->as_uint(), 18446744073709551615ull);
  EXPECT_EQ(parse("-9223372036854775808")->as_int(), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(parse("0.1")->as_double(), 0.1);
  EXPECT_EQ(parse("2.2250738585072011e-308")->as_double(), 2.2250738585072011e-308);
  EXPECT_EQ(parse("1e-400")->as_double(), 0.0);
  EXPECT_EQ(parse("\"\\u0000\\n\\ud83d\\ude00\"")->as_string(), std::string("\0\n\xf0\x9f\x98\x80", 6));
}

TEST(ParseJson, PositionsOfValues) {
  const auto json = parse("{\n  \"a\": 1,\n  \"b\" : [ 10,20\n,-3 , {\"c\":\"x\"}, true],\"d\":null}");
  ASSERT_TRUE(json) << format_error(json.error());
  const auto place = [](const Json& value) { return std::pair(value.line(), value.column()); };
  using Place = std::pair<uint32_t, uint32_t>;
  EXPECT_EQ(place(*json), Place(1, 1));
  EXPECT_EQ(place(*json->find("a")), Place(2, 8));
  const Json& b = *json->find("b");
  EXPECT_EQ(place(b), Place(3, 9));
  EXPECT_EQ(place(b[0]), Place(3, 11));
  EXPECT_EQ(place(b[1]), Place(3, 14));
  EXPECT_EQ(place(b[2]), Place(4, 2));
  EXPECT_EQ(place(b[3]), Place(4, 7));
  EXPECT_EQ(place(*b[3].find("c")), Place(4, 12));
  EXPECT_EQ(place(b[4]), Place(4, 18));
  EXPECT_EQ(place(*json->find("d")), Place(4, 28));
}

TEST(ParseJson, Depth) {
  const auto nested = [](size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_TRUE(parse(nested(64)));
  const auto refused = parse(nested(65));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::malformed);
  EXPECT_NE(refused.error().what.find("depth"), std::string::npos);
  EXPECT_EQ(refused.error().limit, "64");
  EXPECT_FALSE(parse(std::string(100'000, '[')));
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  EXPECT_FALSE(parse(objects));
}

TEST(ParseJson, Caps) {
  const std::string text = "[1,2,3,4]";
  const auto nodes = parse_json(text, "f", {.max_bytes = 100, .max_nodes = 4, .want_object = false});
  ASSERT_FALSE(nodes);
  EXPECT_EQ(nodes.error().exit, Exit::resource);
  EXPECT_EQ(nodes.error().limit, "4");
  EXPECT_TRUE(parse_json(text, "f", {.max_bytes = 100, .max_nodes = 5, .want_object = false}));

  const auto bytes = parse_json(text, "f", {.max_bytes = 8, .want_object = false});
  ASSERT_FALSE(bytes);
  EXPECT_EQ(bytes.error().exit, Exit::resource);

  const std::string cap(limits::kJsonStringBytes, 'x');
  EXPECT_TRUE(parse("\"" + cap + "\""));
  for (const std::string& bad : {"[\"" + cap + "x\"]", "{\"" + cap + "x\":1}"}) {
    const auto refused = parse(bad);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().exit, Exit::resource);
  }
}

TEST(ParseJson, RootAndOffsets) {
  const auto list = parse_json(" [1]", "f", {.max_bytes = 100});
  ASSERT_FALSE(list);
  EXPECT_EQ(list.error().what, "not an object");
  EXPECT_EQ(list.error().where, "1:2");
  EXPECT_EQ(list.error().got, "array");

  const JsonLimits offsets{.max_bytes = 100, .offsets = true, .offset_base = 8};
  const auto cut = parse_json("{\"a\":", "f", offsets, "ST09");
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().where, "byte 13");
  const auto twice = parse_json("{\"a\":1,\"a\":1}", "f", offsets, "ST11");
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().where, "byte 15");
  EXPECT_EQ(parse_json("{\"\xff\":1}", "f", offsets).error().where, "byte 10");
}

// The table of a large object is built at 17 members and grows; duplicates are found at every distance.
TEST(ParseJson, DuplicatesInLargeObjects) {
  for (const int count : {1, 15, 16, 17, 18, 31, 32, 33, 64, 65, 1000}) {
    std::string text = "{";
    for (int i = 0; i < count; ++i)
      text += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":" + std::to_string(i);
    const auto good = parse(text + "}");
    ASSERT_TRUE(good) << count;
    EXPECT_EQ(good->size(), static_cast<size_t>(count));
    for (const int repeated : {0, count / 2, count - 1}) {
      const auto bad = parse(text + ",\"" + std::to_string(repeated) + "\":0}");
      ASSERT_FALSE(bad) << count << " " << repeated;
      EXPECT_EQ(bad.error().got, "\"" + std::to_string(repeated) + "\"");
    }
  }
}

TEST(ParseJson, EveryPrefixIsRefused) {
  const std::string text = "{\"a\":[1,-2.5e3,\"\\u00e9\\n\",true,null,{\"b\":{}}],\"c\":\"d\"}";
  ASSERT_TRUE(parse(text));
  for (size_t length = 0; length < text.size(); ++length) {
    const auto json = parse(text.substr(0, length));
    ASSERT_FALSE(json) << length;
    EXPECT_EQ(json.error().exit, Exit::malformed);
  }
}

// Flipped bits may give other JSON, never a crash; what is accepted can be written and read back unchanged.
TEST(ParseJson, BitFlips) {
  const std::string text = "{\"a\":[1,-2.5e3,\"\\u00e9\\n\",true,null,{\"b\":{}}],\"c\":\"d\"}";
  for (size_t bit = 0; bit < text.size() * 8; ++bit) {
    std::string flipped = text;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    const auto json = parse(flipped);
    if (!json) continue;
    const auto again = parse(json->dump());
    ASSERT_TRUE(again) << flipped;
    EXPECT_EQ(*again, *json) << flipped;
  }
}

}  // namespace
}  // namespace pare
