// GPTQ with moment and factor on the device against the host's.
#include "quantize/gptq.h"

#include <gtest/gtest.h>

#include <cmath>

#include "calibrate/held_zeros.h"
#include "tests/calibrate/device/device.h"
#include "tests/quantize/problem.h"

namespace pare::test {
namespace {

struct Case {
  int64_t out, in;
  const char* scheme;
  bool act_order = true, static_groups = true, search = true;
};

std::string name_of(const Case& c) {
  return std::to_string(c.out) + "x" + std::to_string(c.in) + " " + c.scheme +
         (c.act_order ? " act-order" : "") + (c.static_groups ? "" : " dynamic") +
         (c.search ? " search" : "");
}

std::vector<float> diagonal_of(const Tensor& moment) {
  return moment_diagonal(moment).value();
}

struct Pair {
  GptqOutput host, device;
  double differing = 0.0;  // share of codes
};

Pair run(const Case& c, const Mask* keep = nullptr, const Tensor* given = nullptr) {
  const Tensor weight = given != nullptr ? *given : random_weight(c.out, c.in, uint32_t(c.out + c.in));
  const Tensor moment = correlated_moment(c.in, uint32_t(c.in));
  const HessianFactor factor =
      factor_hessian(moment, {.damping = 0.01, .max_retries = 5, .act_order = c.act_order}, "w").value();
  const std::vector<float> importance = diagonal_of(moment);
  QuantizeOptions options;
  options.clip_search = c.search;
  options.clip.power = 2.0;
  if (c.search) options.importance = importance;
  const GptqOptions sweep{.static_groups = c.static_groups, .keep_better = false, .keep = keep};
  const QuantScheme scheme = QuantScheme::parse(c.scheme).value();
  Pair pair{.host = gptq(weight, moment, factor, scheme, options, sweep, "w").value(),
            .device = gptq(weight, there(moment), there(factor), scheme, options, sweep, "w").value()};
  int64_t differing = 0;
  for (int64_t row = 0; row < c.out; ++row) {
    const auto a = codes_of(pair.host.result.tensor, row), b = codes_of(pair.device.result.tensor, row);
    for (size_t i = 0; i < a.size(); ++i) differing += a[i] != b[i];
  }
  pair.differing = double(differing) / double(c.out * c.in);
  return pair;
}

void expect_equal_reports(const Pair& pair, double tolerance, const std::string& name) {
  EXPECT_NEAR(pair.device.output_error, pair.host.output_error, tolerance * pair.host.output_error) << name;
  EXPECT_NEAR(pair.device.rtn_output_error, pair.host.rtn_output_error, 1e-5 * pair.host.rtn_output_error)
      << name;
  EXPECT_NEAR(pair.device.loss, pair.host.loss, tolerance * pair.host.loss) << name;
  EXPECT_NEAR(pair.device.result.relative_error, pair.host.result.relative_error,
              tolerance * pair.host.result.relative_error)
      << name;
  EXPECT_EQ(pair.device.result.clipped_weights > 0, pair.host.result.clipped_weights > 0) << name;
}

class DeviceGptq : public DeviceTest {};

// Within one block of columns nothing is summed in another order: grids, codes and groups are the same bytes.
TEST_F(DeviceGptq, OneBlockGivesTheBytesOfTheHost) {
  for (const Case& c :
       {Case{1, 64, "int4-g32-sym"}, Case{7, 100, "int4-g64-asym"}, Case{33, 128, "int4-g128-sym"},
        Case{32, 96, "int3-g32-asymf"}, Case{5, 127, "int8-ch-sym"}, Case{17, 64, "int2-ch-asym"},
        Case{65, 65, "int4-g32-asym-sf32", false}, Case{31, 128, "int4-g32-sym", true, false},
        Case{9, 100, "int4-g32-asym-sbf16", false, false}, Case{33, 96, "int4-g64-sym", true, true, false},
        Case{12, 80, "int5-ch-sym", true, false}}) {
    const Pair pair = run(c);
    EXPECT_TRUE(same_matrix(pair.host.result.tensor, pair.device.result.tensor)) << name_of(c);
    EXPECT_EQ(pair.host.result.clipped_weights, pair.device.result.clipped_weights) << name_of(c);
    EXPECT_EQ(pair.host.loss, pair.device.loss) << name_of(c);
    expect_equal_reports(pair, 1e-5, name_of(c));
  }
}

// With several, a value near the middle of two codes may take the other one, and what follows adapts: few
// codes differ, and the output is as good.
TEST_F(DeviceGptq, SeveralBlocksAgree) {
  double largest = 0.0;
  for (const Case& c : {Case{129, 300, "int4-g32-sym"}, Case{64, 256, "int4-g128-asym"},
                        Case{31, 257, "int3-g64-asym", false}, Case{33, 300, "int4-g128-sym", true, false},
                        Case{16, 200, "int4-g32-asymf", false, false}, Case{8, 300, "int8-ch-sym"}}) {
    const Pair pair = run(c);
    largest = std::max(largest, pair.differing);
    EXPECT_LE(pair.differing, 0.02) << name_of(c);
    expect_equal_reports(pair, 1e-3, name_of(c));
    if (c.static_groups) {
      EXPECT_TRUE(same_bytes(pair.host.result.tensor.scales, pair.device.result.tensor.scales)) << name_of(c);
      EXPECT_TRUE(same_bytes(pair.host.result.tensor.zero_points, pair.device.result.tensor.zero_points));
    }
    EXPECT_TRUE(same_bytes(pair.host.result.tensor.group_index, pair.device.result.tensor.group_index));
  }
  RecordProperty("largest_share_of_differing_codes", std::to_string(largest));
}

TEST_F(DeviceGptq, HeldZerosStayZero) {
  Tensor weight = random_weight(20, 100);
  for (int64_t i = 0; i < weight.numel(); i += 3) weight.mutable_data<float>()[i] = 0.0f;
  const Mask keep = held_zeros(weight).value().value();
  const Pair pair = run({20, 100, "int4-g32-asym"}, &keep, &weight);
  EXPECT_TRUE(same_matrix(pair.host.result.tensor, pair.device.result.tensor));
  const Tensor restored = pair.device.result.tensor.dequantize().value();
  for (int64_t i = 0; i < weight.numel(); i += 3) EXPECT_EQ(restored.data<float>()[i], 0.0f);
}

// Groups of zeros, subnormals, ranges beyond the type of the scales: the faults of the host.
TEST_F(DeviceGptq, FaultsOfScalesAreThoseOfTheHost) {
  Tensor weight = random_weight(6, 64);
  float* w = weight.mutable_data<float>();
  for (int64_t i = 0; i < 32; ++i) {
    w[i] = 0.0f;
    w[64 + i] = 1e-40f;
    w[2 * 64 + i] *= 1e-6f;
    w[3 * 64 + i] *= 1e8f;
    w[4 * 64 + i] = std::abs(w[4 * 64 + i]);
  }
  const Tensor moment = correlated_moment(64);
  const HessianFactor factor = factor_hessian(moment, {}, "w").value();
  for (const char* text : {"int4-g32-sym", "int4-g32-asym", "int4-g32-asymf", "int8-g32-sym"})
    for (const bool clamps : {false, true}) {
      const QuantScheme scheme = QuantScheme::parse(text).value();
      QuantizeOptions options;
      options.clamp_scales = clamps;
      const auto host = gptq(weight, moment, factor, scheme, options, {.keep_better = false}, "w");
      const auto device =
          gptq(weight, there(moment), there(factor), scheme, options, {.keep_better = false}, "w");
      ASSERT_EQ(host.has_value(), device.has_value()) << text;
      if (!host) {
        EXPECT_EQ(format_error(host.error()), format_error(device.error())) << text;
        continue;
      }
      EXPECT_TRUE(same_matrix(host->result.tensor, device->result.tensor)) << text;
      EXPECT_EQ(host->result.clamped_scales, device->result.clamped_scales) << text;
      EXPECT_EQ(host->result.raised_scales, device->result.raised_scales) << text;
    }
}

// Codes that the kernels do not know go through the host.
TEST_F(DeviceGptq, OtherCodesAreRoundedOnTheHost) {
  const Pair pair = run({9, 64, "nf4-g64"});
  EXPECT_TRUE(same_matrix(pair.host.result.tensor, pair.device.result.tensor));
  EXPECT_EQ(pair.host.output_error, pair.device.output_error);
}

}  // namespace
}  // namespace pare::test
