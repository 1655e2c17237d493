#include "engine/core/manifest.h"

#include <gtest/gtest.h>

namespace pare {
namespace {

Manifest sample() {
  Manifest manifest;
  manifest.program_version = "0.1.0";
  manifest.command = "quantize";
  manifest.options["scheme"] = "int4-g128";
  manifest.seed = 18446744073709551615ull;
  manifest.arithmetic = "avx2";
  TensorRecord a;
  a.name = "a.weight", a.kind = "quantized", a.scheme = "int4-g128", a.shape = {8, 128};
  a.method_asked = a.method_applied = "gptq";
  a.relative_error = 0.25, a.max_error = 0.5, a.bits_per_weight = 4.0, a.clipped_share = 0.0;
  TensorRecord b = a;
  b.name = "b.weight", b.shape = {8, 384}, b.method_applied = "rtn", b.bits_per_weight = 8.0,
  b.relative_error = 0.125;
  b.fallback = "hessian not positive definite";
  b.extra["damping"] = 0.1;
  TensorRecord c;
  c.name = "norm", c.kind = "dense", c.shape = {8}, c.method_asked = c.method_applied = "copy";
  manifest.tensors = {a, b, c};
  return manifest;
}

TEST(Manifest, RoundTrip) {
  const Manifest manifest = sample();
  const Json json = manifest.to_json();
  const auto text = parse_json(json.dump(2), "pare_manifest.json", {.max_bytes = 1 << 20});
  ASSERT_TRUE(text);
  const auto again = Manifest::from_json(*text, "pare_manifest.json");
  ASSERT_TRUE(again) << format_error(again.error());
  EXPECT_EQ(again->to_json(), json);
  EXPECT_EQ(again->seed, manifest.seed);
  EXPECT_EQ(again->tensors[1].fallback, "hessian not positive definite");
  EXPECT_EQ(again->tensors[2].relative_error, std::nullopt);
  EXPECT_EQ(json.find("files"), nullptr);
}

TEST(Manifest, Totals) {
  const Json json = sample().to_json();
  EXPECT_EQ(json.members().back().first, "totals");
  const Json& totals = *json.find("totals");
  EXPECT_EQ(totals.find("tensors")->as_int(), 3);
  EXPECT_EQ(totals.find("fallbacks")->as_int(), 1);
  EXPECT_EQ(totals.find("bits_per_weight")->as_double(), (1024 * 4.0 + 3072 * 8.0) / 4096);
  EXPECT_EQ(totals.find("worst_relative_error")->as_double(), 0.25);
  EXPECT_EQ(totals.find("methods")->dump(), "{\"gptq\":1,\"rtn\":1,\"copy\":1}");
}

TEST(Manifest, RefusesWhatDoesNotFit) {
  const Json good = sample().to_json();
  for (const char* key : {"schema_version", "program_version", "command", "options", "recipe", "seed",
                          "inputs", "arithmetic", "history", "tensors"}) {
    Json missing = good;
    missing.erase(key);
    const auto result = Manifest::from_json(missing, "m");
    ASSERT_FALSE(result) << key;
    EXPECT_EQ(result.error().exit, Exit::malformed);
    EXPECT_EQ(result.error().where, std::string("manifest.") + key);
  }
  Json newer = good;
  newer["schema_version"] = 2;
  EXPECT_EQ(Manifest::from_json(newer, "m").error().exit, Exit::unsupported);
  Json negative = good;
  negative["seed"] = -1;
  EXPECT_FALSE(Manifest::from_json(negative, "m"));
  Json record = good;
  record["tensors"].items()[1]["shape"] = Json(Json::Array{Json(-4)});
  EXPECT_EQ(Manifest::from_json(record, "m").error().where, "tensors[1].shape");
  record["tensors"].items()[1] = Json("x");
  EXPECT_EQ(Manifest::from_json(record, "m").error().where, "tensors[1]");
  EXPECT_FALSE(Manifest::from_json(Json(1), "m"));
}

}  // namespace
}  // namespace pare
