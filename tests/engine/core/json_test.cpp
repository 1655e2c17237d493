#include "engine/core/json.h"

#include <gtest/gtest.h>

#include <limits>

#include "engine/core/assert.h"

namespace pare {
namespace {

Json sample() {
  Json json = Json::object();
  json["name"] = "x\"\\\n\x01\xc3\xa9";
  json["shape"] = Json(Json::Array{Json(2), Json(3)});
  json["big"] = std::numeric_limits<uint64_t>::max();
  json["half"] = 0.5;
  json["two"] = 2.0;
  json["none"] = Json();
  json["yes"] = true;
  json["inner"] = Json::object();
  json["inner"]["z"] = 1;
  json["inner"]["a"] = Json::array();
  return json;
}

TEST(Json, DumpIsStable) {
  EXPECT_EQ(
      sample().dump(),
      "{\"name\":\"x\\\"\\\\\\n\\u0001\xc3\xa9\",\"shape\":[2,3],\"big\":18446744073709551615,\"half\":0.5,"
      "\"two\":2.0,\"none\":null,\"yes\":true,\"inner\":{\"z\":1,\"a\":[]}}");
  Json small = Json::object();
  small["b"] = Json(Json::Array{Json(1), Json(2)});
  small["a"] = Json::object();
  small["a"]["d"] = Json::array();
  small["a"]["c"] = Json(Json::Array{Json::object()});
  EXPECT_EQ(small.dump(2),
            "{\n  \"b\": [1, 2],\n  \"a\": {\n    \"d\": [],\n    \"c\": [\n      {}\n    ]\n  }\n}");
  EXPECT_EQ(small.dump_sorted(), "{\"a\":{\"c\":[{}],\"d\":[]},\"b\":[1,2]}");
}

TEST(Json, DumpReadsBackAtEveryIndent) {
  for (const int indent : {-1, 0, 2}) {
    const auto again = parse_json(sample().dump(indent), "f", {.max_bytes = 10'000});
    ASSERT_TRUE(again);
    EXPECT_EQ(*again, sample());
  }
}

TEST(Json, NumbersReadBackExactly) {
  for (const double value :
       {0.1, -0.0, 1e22, 1e21, 123456789.125, 5e-324, std::numeric_limits<double>::max(), 1.0 / 3}) {
    const auto again = parse_json(Json(value).dump(), "f", {.max_bytes = 100, .want_object = false});
    ASSERT_TRUE(again);
    EXPECT_EQ(again->kind(), Json::Kind::real) << value;
    EXPECT_EQ(again->as_double(), value);
  }
  EXPECT_EQ(Json(std::numeric_limits<double>::infinity()).dump(), "null");
}

TEST(Json, CopiesAreDeepAndMovesLeaveNull) {
  Json a = sample();
  Json b = a;
  b["inner"]["z"] = 2;
  EXPECT_EQ(a["inner"]["z"].as_int(), 1);
  Json c = std::move(b);
  EXPECT_TRUE(b.is_null());  // NOLINT: the state after a move is part of the contract
  EXPECT_EQ(c["inner"]["z"].as_int(), 2);
  c = c["inner"];  // from inside itself
  EXPECT_EQ(c["z"].as_int(), 2);
  Json d = sample();
  d = std::move(d["inner"]);
  EXPECT_EQ(d["z"].as_int(), 1);
}

TEST(Json, FindEraseAndOrder) {
  Json json = sample();
  EXPECT_EQ(json.find("absent"), nullptr);
  EXPECT_EQ(Json(1).find("x"), nullptr);
  EXPECT_TRUE(json.erase("shape"));
  EXPECT_FALSE(json.erase("shape"));
  EXPECT_EQ(json.members()[1].first, "big");
  EXPECT_EQ(Json(uint64_t{5}).kind(), Json::Kind::integer);
  EXPECT_EQ(Json(5).as_uint(), 5u);
}

TEST(Json, WrongKindIsOurBug) {
  EXPECT_THROW((void)Json(1).as_string(), InternalError);
  EXPECT_THROW((void)Json(-1).as_uint(), InternalError);
  EXPECT_THROW((void)Json("x").as_double(), InternalError);
  const Json empty = Json::array();
  for (size_t i = 0; i < 2; ++i) EXPECT_THROW((void)empty[i], InternalError);
  EXPECT_THROW((void)Json(std::numeric_limits<uint64_t>::max()).as_int(), InternalError);
}

}  // namespace
}  // namespace pare
