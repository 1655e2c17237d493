// How inputs of linears are rounded: ranges, text, JSON, and the rounding itself.
#include "engine/tensor/activation_quant.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "engine/tensor/integer_product.h"

namespace pare {
namespace {

using Mode = ActivationQuant::Mode;

ActivationQuant fixed(float scale, bool symmetric = true, int zero_point = 0) {
  return {.mode = Mode::static_tensor, .symmetric = symmetric, .scale = scale, .zero_point = zero_point};
}

TEST(ActivationQuantTest, JsonGivesBackWhatWasWritten) {
  for (const ActivationQuant& quant :
       {ActivationQuant{}, ActivationQuant{.symmetric = false}, fixed(0.0123f), fixed(3e-5f, false, -128),
        fixed(1e30f, false, 127), ActivationQuant{.bits = 4}}) {
    const auto back = ActivationQuant::from_json(quant.to_json(), "m.pare", "activation");
    ASSERT_TRUE(back) << format_error(back.error());
    EXPECT_EQ(*back, quant);
  }
  EXPECT_EQ(ActivationQuant{}.text(), "int8 activations per token");
  EXPECT_EQ(fixed(1.0f, false, 3).text(), "int8 activations per tensor, asymmetric");
}

TEST(ActivationQuantTest, MalformedJsonIsRefused) {
  const auto exit_of = [](const std::function<void(Json&)>& change, const ActivationQuant& quant) {
    Json json = quant.to_json();
    change(json);
    const auto back = ActivationQuant::from_json(json, "m.pare", "activation");
    return back ? Exit::ok : back.error().exit;
  };
  const ActivationQuant moving, still = fixed(0.5f, false, 1);
  const std::pair<const ActivationQuant*, std::function<void(Json&)>> malformed[] = {
      {&moving, [](Json& j) { j.erase("mode"); }},        {&moving, [](Json& j) { j["mode"] = 1; }},
      {&moving, [](Json& j) { j["bits"] = 9; }},          {&moving, [](Json& j) { j["bits"] = 8.0; }},
      {&moving, [](Json& j) { j["symmetric"] = "yes"; }}, {&moving, [](Json& j) { j["scale"] = 1.0; }},
      {&moving, [](Json& j) { j["zero_point"] = 0; }},    {&still, [](Json& j) { j.erase("scale"); }},
      {&still, [](Json& j) { j["scale"] = 0.0; }},        {&still, [](Json& j) { j["scale"] = -1.0; }},
      {&still, [](Json& j) { j["scale"] = 1e300; }},      {&still, [](Json& j) { j["scale"] = 1e-60; }},
      {&still, [](Json& j) { j["scale"] = "0.5"; }},      {&still, [](Json& j) { j["zero_point"] = 128; }},
      {&still, [](Json& j) { j["zero_point"] = -129; }},  {&still, [](Json& j) { j.erase("zero_point"); }},
      {&still, [](Json& j) { j["symmetric"] = true; }},
  };
  int index = 0;
  for (const auto& [quant, change] : malformed)
    EXPECT_EQ(exit_of(change, *quant), Exit::malformed) << index++;
  EXPECT_EQ(exit_of([](Json& j) { j["mode"] = "per_channel"; }, moving), Exit::unsupported);
  EXPECT_EQ(exit_of([](Json& j) { j["group"] = 1; }, moving), Exit::unsupported);
  EXPECT_FALSE(ActivationQuant::from_json(Json(3), "m.pare", "activation"));
}

std::vector<int> codes_of(const ActivationQuant& quant, const std::vector<float>& x,
                          RoundedRow* row = nullptr) {
  std::vector<int8_t> codes(x.size());
  const RoundedRow found = round_activations(quant, x.data(), int64_t(x.size()), codes.data());
  if (row != nullptr) *row = found;
  return {codes.begin(), codes.end()};
}

TEST(ActivationQuantTest, RoundingByHand) {
  RoundedRow row;
  EXPECT_EQ(codes_of({}, {127.0f, -63.5f, 0.5f, 1.5f, -2.5f, 0.0f}, &row),
            (std::vector<int>{127, -64, 0, 2, -2, 0}));  // ties to even
  EXPECT_EQ(row.scale, 1.0f);
  EXPECT_EQ(codes_of({}, {0.0f, -0.0f}, &row), (std::vector<int>{0, 0}));
  EXPECT_EQ(row.scale, 1.0f);
  EXPECT_EQ(codes_of(fixed(0.5f), {1e30f, -1e30f, 0.26f}, &row), (std::vector<int>{127, -127, 1}));
  EXPECT_EQ(codes_of(fixed(1.0f, false, -100), {-40.0f, 300.0f, 0.0f}, &row),
            (std::vector<int>{-128, 127, -100}));
  // 255 steps over [-51, 204]: scale 1, zero 51 steps above -128
  EXPECT_EQ(codes_of({.symmetric = false}, {-51.0f, 204.0f, 0.0f}, &row), (std::vector<int>{-128, 127, -77}));
  EXPECT_EQ(row.zero_point, -77);
  EXPECT_EQ(codes_of({}, {1.0f, std::numeric_limits<float>::infinity()}, &row), (std::vector<int>{0, 0}));
  EXPECT_TRUE(std::isnan(row.scale));
}

}  // namespace
}  // namespace pare
