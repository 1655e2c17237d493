#include "quantize/gptq.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "calibrate/output_error.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/parallel.h"
#include "quantize/round_to_nearest.h"
#include "tests/quantize/problem.h"

namespace pare::test {
namespace {

class Gptq : public testing::Test {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }
  void TearDown() override { set_thread_count(0); }
};
class GptqSchemes : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }
};

struct Settings {
  HessianOptions hessian{};
  QuantizeOptions quantize{};
  GptqOptions gptq{};
};

HessianFactor factor_of(const Tensor& moment, const HessianOptions& options = {}) {
  return factor_hessian(moment, options, "w").value();
}

GptqOutput run(const Tensor& weight, const Tensor& moment, const char* scheme,
               const Settings& settings = {}) {
  auto output = gptq(weight, moment, factor_of(moment, settings.hessian), QuantScheme::parse(scheme).value(),
                     settings.quantize, settings.gptq, "w");
  EXPECT_TRUE(output.has_value()) << (output ? "" : format_error(output.error()));
  return *std::move(output);
}

QuantizedTensor rtn(const Tensor& weight, const char* scheme, const QuantizeOptions& options = {}) {
  return round_to_nearest(weight, QuantScheme::parse(scheme).value(), options, "w")->tensor;
}

constexpr Settings kRaw{.gptq = {.keep_better = false}};

double mean_live_diagonal(const Tensor& moment) {
  double sum = 0.0;
  int64_t live = 0;
  for (int64_t i = 0; i < moment.size(0); ++i) {
    const double entry = double(moment.data<float>()[i * moment.size(0) + i]);
    sum += entry;
    live += entry > 0.0;
  }
  return sum / double(live);
}

// The optimal brain surgeon in double, written from its definition: round a column, spread its error over the
// columns that are left by the inverse of the Hessian, take the column out of the inverse. Static grids.
// Returns codes in natural order and 1/2 sum e^2.
std::vector<uint8_t> surgeon(const Tensor& weight, const Tensor& moment, const HessianFactor& factor,
                             const QuantScheme& scheme, double& loss) {
  const int64_t out = weight.size(0), in = weight.size(1);
  const double mean = mean_live_diagonal(moment);
  std::vector<double> inverse(size_t(in * in), 0.0), a(size_t(in * in));
  for (int64_t i = 0; i < in; ++i) {
    inverse[i * in + i] = 1.0;
    for (int64_t j = 0; j < in; ++j) a[i * in + j] = double(moment.data<float>()[i * in + j]);
    if (a[i * in + i] == 0.0) a[i * in + i] = mean;
    a[i * in + i] += factor.damping() * mean;
  }
  for (int64_t k = 0; k < in; ++k) {  // Gauss-Jordan; positive definite, so no row exchanges
    const double pivot = a[k * in + k];
    for (int64_t c = 0; c < in; ++c) a[k * in + c] /= pivot, inverse[k * in + c] /= pivot;
    for (int64_t r = 0; r < in; ++r) {
      const double f = r == k ? 0.0 : a[r * in + k];
      for (int64_t c = 0; f != 0.0 && c < in; ++c) {
        a[r * in + c] -= f * a[k * in + c];
        inverse[r * in + c] -= f * inverse[k * in + c];
      }
    }
  }
  const int64_t width = scheme.group_width(in);
  std::vector<double> w(size_t(out * in));
  for (size_t i = 0; i < w.size(); ++i) w[i] = double(weight.data<float>()[i]);
  std::vector<uint8_t> codes(size_t(out * in));
  loss = 0.0;
  for (int64_t i = 0; i < in; ++i) {
    const int64_t column = factor.order[i];
    const double pivot = inverse[column * in + column];
    for (int64_t r = 0; r < out; ++r) {
      const int64_t first = column / width * width, count = std::min(width, in - first);
      const Grid grid =
          fit_min_max(scheme, std::span(weight.data<float>() + r * in + first, size_t(count))).grid;
      const float value = float(w[r * in + column]);
      float restored = 0.0f;
      encode(scheme, grid, std::span(&value, 1), &codes[r * in + column]);
      decode(scheme, grid, std::span(&codes[r * in + column], 1), &restored);
      const double error = (w[r * in + column] - double(restored)) / pivot;
      loss += 0.5 * error * error * pivot;
      for (int64_t j = i + 1; j < in; ++j)
        w[r * in + factor.order[j]] -= error * inverse[column * in + factor.order[j]];
    }
    const std::vector<double> row(inverse.begin() + column * in, inverse.begin() + (column + 1) * in);
    for (int64_t r = 0; r < in; ++r) {
      const double f = inverse[r * in + column] / pivot;
      for (int64_t c = 0; c < in; ++c) inverse[r * in + c] -= f * row[c];
    }
  }
  return codes;
}

TEST_F(Gptq, SameCodesAsTheDefinition) {
  for (const char* text :
       {"int4-g16", "int3-g32-asym", "int4-ch", "int2-g8-asymf", "int8-ch", "nf4-g16", "fp8-e4m3-ch"})
    for (const bool act_order : {false, true})
      for (const int64_t in : {24, 50}) {
        const Tensor weight = random_weight(6, in, 5), moment = correlated_moment(in, 6);
        Settings settings = kRaw;
        settings.hessian = {.damping = 0.05, .act_order = act_order};
        settings.gptq.block = 16;
        const GptqOutput output = run(weight, moment, text, settings);
        double loss = 0.0;
        const std::vector<uint8_t> expected = surgeon(weight, moment, factor_of(moment, settings.hessian),
                                                      QuantScheme::parse(text).value(), loss);
        for (int64_t r = 0; r < 6; ++r)
          EXPECT_EQ(codes_of(output.result.tensor, r),
                    std::vector<uint8_t>(expected.begin() + r * in, expected.begin() + (r + 1) * in))
              << text << " row " << r << " of " << in << (act_order ? " act order" : "");
        EXPECT_NEAR(output.loss, loss, 1e-4 * loss) << text;
      }
}

// tr(D (H + d m I) D^T) = sum e^2 = 2 loss; without d m |D|^2 it is the energy of the output.
TEST_F(Gptq, LossIsTheQuadraticForm) {
  const int64_t in = 96;
  const Tensor weight = random_weight(20, in), moment = correlated_moment(in);
  for (const bool act_order : {false, true}) {
    Settings settings = kRaw;
    settings.hessian.act_order = act_order;
    const GptqOutput output = run(weight, moment, "int4-g32", settings);
    const Tensor restored = output.result.tensor.dequantize().value();
    const double damped = energy_of(weight, &restored, moment, 0.01 * mean_live_diagonal(moment));
    EXPECT_NEAR(2.0 * output.loss, damped, 2e-5 * damped);
    const double plain = energy_of(weight, &restored, moment), total = energy_of(weight, nullptr, moment);
    EXPECT_NEAR(output.output_error, std::sqrt(plain / total), 1e-4 * output.output_error);
    const Tensor rounded = rtn(weight, "int4-g32").dequantize().value();
    EXPECT_NEAR(output.rtn_output_error, std::sqrt(energy_of(weight, &rounded, moment) / total),
                1e-4 * output.rtn_output_error);
    double error = 0.0, norm = 0.0, largest = 0.0;
    for (int64_t i = 0; i < weight.numel(); ++i) {
      const double d = double(weight.data<float>()[i]) - double(restored.data<float>()[i]);
      error += d * d;
      norm += double(weight.data<float>()[i]) * double(weight.data<float>()[i]);
      largest = std::max(largest, std::abs(d));
    }
    EXPECT_NEAR(output.result.relative_error, std::sqrt(error / norm), 1e-9);
    EXPECT_EQ(output.result.max_error, largest);
  }
}

constexpr const char* kSchemes[] = {
    "int2-g32",          "int3-g32",       "int4-g32",           "int5-g64-asym",   "int6-g64",
    "int7-ch",           "int8-ch",        "int4-ch-asym",       "int3-g16-asymf",  "int4-g48",
    "int2-g32-asym",     "int8-g32-asymf", "int4-g32-sf32",      "int4-g32-narrow", "fp8-e4m3-ch",
    "fp8-e5m2-g32-sf32", "nf4-g64",        "int4-g64-asym-sbf16"};

TEST_P(GptqSchemes, UncorrelatedInputsGivePlainRounding) {
  const Tensor weight = random_weight(19, 200);
  for (const bool act_order : {false, true}) {
    Settings settings = kRaw;
    settings.hessian.act_order = act_order;
    const GptqOutput output = run(weight, scaled_identity(200, 3.5f), GetParam(), settings);
    EXPECT_TRUE(same_matrix(output.result.tensor, rtn(weight, GetParam())));
    EXPECT_EQ(output.output_error, output.rtn_output_error);
    settings.quantize.clip_search = true;
    EXPECT_TRUE(same_matrix(run(weight, scaled_identity(200, 3.5f), GetParam(), settings).result.tensor,
                            rtn(weight, GetParam(), settings.quantize)));
  }
}

// Correlated inputs, ragged groups, rows that are no multiple of anything.
TEST_P(GptqSchemes, BeatsPlainRoundingOnCorrelatedInputs) {
  const Tensor weight = random_weight(35, 200), moment = correlated_moment(200);
  for (const bool act_order : {false, true})
    for (const bool static_groups : {false, true}) {
      Settings settings = kRaw;
      settings.hessian.act_order = act_order;
      settings.gptq.static_groups = static_groups;
      const GptqOutput output = run(weight, moment, GetParam(), settings);
      ASSERT_TRUE(output.result.tensor.validate("test", "w").has_value());
      EXPECT_LT(output.output_error, output.rtn_output_error)
          << (act_order ? "act order " : "") << (static_groups ? "static" : "dynamic");
      EXPECT_FALSE(output.kept_rtn);
      settings.gptq.keep_better = true;
      EXPECT_TRUE(same_matrix(run(weight, moment, GetParam(), settings).result.tensor, output.result.tensor));
    }
}

TEST_P(GptqSchemes, SameBytesForAnyThreadCount) {
  const Tensor weight = random_weight(70, 130), moment = correlated_moment(130);
  for (const bool static_groups : {false, true}) {
    Settings settings = kRaw;
    settings.gptq.static_groups = static_groups;
    set_thread_count(1);
    const GptqOutput one = run(weight, moment, GetParam(), settings);
    for (const int threads : {2, 5}) {
      set_thread_count(threads);
      const GptqOutput many = run(weight, moment, GetParam(), settings);
      EXPECT_TRUE(same_matrix(one.result.tensor, many.result.tensor));
      EXPECT_EQ(one.loss, many.loss);
      EXPECT_EQ(one.output_error, many.output_error);
    }
  }
  set_thread_count(0);
}

TEST_P(GptqSchemes, SameBytesOnEveryLevel) {
  const Tensor weight = random_weight(37, 90), moment = correlated_moment(90);
  for (const bool static_groups : {false, true}) {
    Settings settings = kRaw;
    settings.gptq.static_groups = static_groups;
    settings.gptq.level = VectorLevel::generic;
    const GptqOutput generic = run(weight, moment, GetParam(), settings);
    for (const VectorLevel level : {VectorLevel::avx2, VectorLevel::avx512}) {
      settings.gptq.level = level;
      const GptqOutput output = run(weight, moment, GetParam(), settings);
      EXPECT_TRUE(same_matrix(output.result.tensor, generic.result.tensor));
      EXPECT_EQ(output.loss, generic.loss);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GptqSchemes, testing::ValuesIn(kSchemes), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

// Only the rounding of sums depends on where blocks end.
TEST_F(Gptq, CodesHardlyDependOnTheBlock) {
  const int64_t out = 24, in = 160;
  const Tensor weight = random_weight(out, in), moment = correlated_moment(in);
  Settings settings = kRaw;
  settings.gptq.block = in;
  const GptqOutput whole = run(weight, moment, "int4-g32", settings);
  for (const int64_t block : {1, 16, 37, 128}) {
    settings.gptq.block = block;
    const GptqOutput output = run(weight, moment, "int4-g32", settings);
    EXPECT_NEAR(output.loss, whole.loss, 1e-3 * whole.loss);
    int64_t differing = 0;
    for (int64_t r = 0; r < out; ++r) {
      const auto a = codes_of(output.result.tensor, r), b = codes_of(whole.result.tensor, r);
      for (int64_t i = 0; i < in; ++i) differing += a[i] != b[i];
    }
    EXPECT_LE(differing, out * in / 200) << block;
  }
}

TEST_F(Gptq, AFactorOnTheMomentChangesNothing) {
  const Tensor weight = random_weight(24, 96), moment = correlated_moment(96);
  const GptqOutput once = run(weight, moment, "int3-g32", kRaw);
  for (const float factor : {4.0f, 0.0625f, 1048576.0f}) {  // powers of four are exact in square roots too
    const GptqOutput output = run(weight, times(moment, factor), "int3-g32", kRaw);
    EXPECT_TRUE(same_matrix(output.result.tensor, once.result.tensor)) << factor;
    EXPECT_EQ(output.loss, double(factor) * once.loss);
    EXPECT_EQ(output.output_error, once.output_error);
  }
}

TEST_F(Gptq, WeightsOnTheGridStay) {
  const int64_t out = 5, in = 64;
  Tensor weight = Tensor::allocate(DType::f32, {out, in}).value();
  for (int64_t i = 0; i < weight.numel(); ++i)
    weight.mutable_data<float>()[i] =
        0.0625f * float((i * 7 + i / in) % 16 - 6);  // every code in every group
  const GptqOutput output = run(weight, correlated_moment(in), "int4-g32-asym", kRaw);
  EXPECT_EQ(output.loss, 0.0);
  EXPECT_EQ(output.output_error, 0.0);
  EXPECT_EQ(output.result.max_error, 0.0);
  EXPECT_TRUE(same_bytes(output.result.tensor.dequantize().value(), weight));
}

TEST_F(Gptq, EqualRowsGetEqualCodes) {
  const int64_t out = 40, in = 96;
  Tensor weight = random_weight(out, in);
  for (int64_t r = 1; r < out; r += 2)
    std::memcpy(weight.mutable_data<float>() + r * in, weight.data<float>() + (r - 1) * in, size_t(in) * 4);
  const GptqOutput output = run(weight, correlated_moment(in), "int4-g32", kRaw);
  for (int64_t r = 1; r < out; r += 2)
    EXPECT_EQ(codes_of(output.result.tensor, r), codes_of(output.result.tensor, r - 1)) << r;
}

// Dead columns are rounded in place: they neither send nor receive errors.
TEST_F(Gptq, DeadColumnsAreRoundedInPlace) {
  const int64_t out = 12, in = 64;
  Tensor moment = correlated_moment(in);
  const std::set<int64_t> dead = {0, 13, 14, 40, 63};
  for (const int64_t d : dead)
    for (int64_t i = 0; i < in; ++i)
      moment.mutable_data<float>()[d * in + i] = moment.mutable_data<float>()[i * in + d] = 0.0f;
  Tensor weight = random_weight(out, in);
  const QuantizedTensor rounded = rtn(weight, "int4-ch");
  const GptqOutput output = run(weight, moment, "int4-ch", kRaw);
  int64_t changed = 0;
  for (int64_t r = 0; r < out; ++r) {
    const auto a = codes_of(output.result.tensor, r), b = codes_of(rounded, r);
    for (int64_t i = 0; i < in; ++i) {
      if (dead.contains(i)) {
        EXPECT_EQ(a[i], b[i]) << r << "," << i;
      } else {
        changed += a[i] != b[i];
      }
    }
  }
  EXPECT_GT(changed, 0);
  // Other weights in dead columns, within the range of their row: nothing else changes.
  Tensor other = times(weight, 1.0f);
  for (const int64_t d : dead)
    for (int64_t r = 0; r < out; ++r) other.mutable_data<float>()[r * in + d] *= 0.5f;
  const GptqOutput again = run(other, moment, "int4-ch-sf32", kRaw),
                   first = run(weight, moment, "int4-ch-sf32", kRaw);
  for (int64_t r = 0; r < out; ++r) {
    if (again.result.tensor.scales.data<float>()[r] != first.result.tensor.scales.data<float>()[r]) continue;
    const auto a = codes_of(again.result.tensor, r), b = codes_of(first.result.tensor, r);
    for (int64_t i = 0; i < in; ++i) {
      if (!dead.contains(i)) {
        EXPECT_EQ(a[i], b[i]) << r << "," << i;
      }
    }
  }
}

TEST_F(Gptq, NoDataGivesPlainRounding) {
  const Tensor weight = random_weight(9, 64);
  const GptqOutput output = run(weight, scaled_identity(64, 0.0f), "int4-g32");
  EXPECT_TRUE(same_matrix(output.result.tensor, rtn(weight, "int4-g32")));
  EXPECT_EQ(output.loss, 0.0);
}

// Groups by rank of their columns are written down; all other combinations keep groups of neighbours.
TEST_F(Gptq, GroupIndexOnlyForActOrderWithDynamicGroups) {
  const int64_t in = 100;
  const Tensor weight = random_weight(8, in), moment = correlated_moment(in);
  for (const bool act_order : {false, true})
    for (const bool static_groups : {false, true})
      for (const char* scheme : {"int4-g32", "int4-ch"}) {
        Settings settings = kRaw;
        settings.hessian.act_order = act_order;
        settings.gptq.static_groups = static_groups;
        const GptqOutput output = run(weight, moment, scheme, settings);
        const Tensor& index = output.result.tensor.group_index;
        ASSERT_EQ(index.defined(), act_order && !static_groups && std::string(scheme) == "int4-g32");
        if (!index.defined()) continue;
        const HessianFactor factor = factor_of(moment);
        for (int64_t rank = 0; rank < in; ++rank)
          EXPECT_EQ(index.data<int32_t>()[factor.order[rank]], rank / 32);
      }
}

// Each dynamic grid covers the weights of its group as they are when it begins. The first group of the
// natural order has seen no error yet, so its grid is that of plain rounding.
TEST_F(Gptq, DynamicGroupsSeeEarlierErrors) {
  const int64_t out = 16, in = 96;
  const Tensor weight = random_weight(out, in), moment = correlated_moment(in);
  Settings settings = kRaw;
  settings.hessian.act_order = false;
  settings.gptq.static_groups = false;
  const GptqOutput output = run(weight, moment, "int3-g32-sf32", settings);
  const QuantizedTensor rounded = rtn(weight, "int3-g32-sf32");
  int64_t changed = 0;
  for (int64_t r = 0; r < out; ++r) {
    EXPECT_EQ(output.result.tensor.scales.data<float>()[r * 3], rounded.scales.data<float>()[r * 3]);
    for (int64_t g = 1; g < 3; ++g)
      changed +=
          output.result.tensor.scales.data<float>()[r * 3 + g] != rounded.scales.data<float>()[r * 3 + g];
  }
  EXPECT_EQ(changed, 2 * out);
}

// A factor of other data may make matters worse for these.
TEST_F(Gptq, KeepsPlainRoundingWhereItIsBetter) {
  int64_t kept = 0;
  for (uint32_t stream = 0; stream < 60; ++stream) {
    const Tensor weight = random_weight(2, 6, stream), moment = correlated_moment(6, stream);
    const HessianFactor factor = factor_of(correlated_moment(6, stream + 1000));
    const QuantScheme scheme = QuantScheme::parse("int3-ch").value();
    const GptqOutput raw = gptq(weight, moment, factor, scheme, {}, {.keep_better = false}, "w").value();
    const GptqOutput better = gptq(weight, moment, factor, scheme, {}, {}, "w").value();
    const bool is_worse = raw.output_error > raw.rtn_output_error;
    EXPECT_FALSE(raw.kept_rtn);
    EXPECT_EQ(better.kept_rtn, is_worse);
    EXPECT_LE(better.output_error, better.rtn_output_error);
    if (is_worse) {
      ++kept;
      EXPECT_TRUE(same_matrix(better.result.tensor, rtn(weight, "int3-ch")));
    } else {
      EXPECT_TRUE(same_matrix(better.result.tensor, raw.result.tensor));
    }
  }
  EXPECT_GT(kept, 0);
  EXPECT_LT(kept, 60);
}

TEST_F(Gptq, ImportanceGoesWithItsColumns) {
  const int64_t in = 64;
  const Tensor weight = random_weight(8, in), moment = correlated_moment(in);
  std::vector<float> importance(in);
  for (int64_t i = 0; i < in; ++i) importance[i] = moment.data<float>()[i * in + i];
  Settings settings = kRaw;
  settings.quantize = {.clip_search = true, .clip = {.power = 2.0}, .importance = importance};
  const GptqOutput output = run(weight, moment, "int3-g32", settings);
  const QuantizedTensor rounded = rtn(weight, "int3-g32", settings.quantize);
  EXPECT_TRUE(same_bytes(output.result.tensor.scales, rounded.scales));
  settings.gptq.static_groups = false;
  EXPECT_TRUE(run(weight, moment, "int3-g32", settings).result.tensor.validate("test", "w").has_value());
}

TEST_F(Gptq, ZeroWeightsStayZero) {
  const Tensor weight = times(random_weight(4, 64), 0.0f);
  for (const char* scheme : {"int4-g32", "int4-g32-asym", "int8-ch", "nf4-g64"}) {
    const GptqOutput output = run(weight, correlated_moment(64), scheme);
    const Tensor restored = output.result.tensor.dequantize().value();
    for (int64_t i = 0; i < restored.numel(); ++i) ASSERT_EQ(restored.data<float>()[i], 0.0f) << scheme;
    EXPECT_EQ(output.loss, 0.0);
  }
}

TEST_F(Gptq, ScalesOutsideTheirTypeStopOrAreCounted) {
  const Tensor weight = times(random_weight(4, 64), 1e-7f), moment = correlated_moment(64);
  const auto refused =
      gptq(weight, moment, factor_of(moment), QuantScheme::parse("int4-g32").value(), {}, {}, "w");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().rule, "NU17");
  Settings settings = kRaw;
  settings.quantize.clamp_scales = true;
  EXPECT_EQ(run(weight, moment, "int4-g32", settings).result.clamped_scales, 8);
}

TEST_F(Gptq, WhatItCannotDoIsRefused) {
  const Tensor weight = random_weight(4, 32), moment = correlated_moment(32);
  for (const char* scheme : {"int8-tensor", "codebook4-g32"}) {
    const auto refused =
        gptq(weight, moment, factor_of(moment), QuantScheme::parse(scheme).value(), {}, {}, "w");
    ASSERT_FALSE(refused.has_value()) << scheme;
    EXPECT_EQ(refused.error().exit, Exit::unsupported);
  }
  Tensor bad = times(weight, 1.0f);
  bad.mutable_data<float>()[37] = INFINITY;
  const auto refused =
      gptq(bad, moment, factor_of(moment), QuantScheme::parse("int4-g32").value(), {}, {}, "w");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().exit, Exit::numeric);
  EXPECT_NE(format_error(refused.error()).find("[1,5]"), std::string::npos);
}

// Pruned weights stay exact zeros, and what they would have become goes into the columns behind them: better
// than rounding freely and putting the zeros back.
TEST_F(Gptq, HeldZerosStayAndAreMadeUpFor) {
  const Tensor moment = correlated_moment(96);
  Tensor weight = random_weight(32, 96);
  Mask keep = Mask::all_kept(32, 96).value();
  for (int64_t r = 0; r < 32; ++r)
    for (int64_t c = r % 2; c < 96; c += 2) {
      weight.mutable_data<float>()[r * 96 + c] = 0.0f;
      keep.set(r, c, false);
    }
  for (const char* scheme : {"int4-g32", "int3-g32-asym", "int8-ch"})
    for (const bool act_order : {false, true}) {
      Settings settings = kRaw;
      settings.hessian.act_order = act_order;
      const GptqOutput free = run(weight, moment, scheme, settings);
      settings.gptq.keep = &keep;
      const GptqOutput held = run(weight, moment, scheme, settings);
      const Tensor values = held.result.tensor.dequantize().value();
      for (int64_t i = 0; i < values.numel(); ++i) {
        if (keep.kept(i / 96, i % 96)) continue;
        ASSERT_EQ(values.data<float>()[i], 0.0f) << scheme << " " << i;
      }
      Tensor masked = free.result.tensor.dequantize().value();
      keep.apply(masked);
      EXPECT_LT(relative_output_error(weight, values, moment).value(),
                relative_output_error(weight, masked, moment).value())
          << scheme << act_order;
    }
}

}  // namespace
}  // namespace pare::test
