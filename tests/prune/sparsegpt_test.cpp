#include "prune/sparsegpt.h"

#include <gtest/gtest.h>

#include <cmath>

#include "calibrate/output_error.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "prune/scores.h"
#include "quantize/joint_rounder.h"
#include "tests/quantize/problem.h"

namespace pare {
namespace {

using test::correlated_moment;
using test::random_weight;
using test::scaled_identity;

HessianFactor factor_of(const Tensor& moment, double damping = 0.01, bool act_order = false) {
  return factor_hessian(moment, {.damping = damping, .max_retries = 5, .act_order = act_order}, "h").value();
}

PruneTarget target_of(const char* text) {
  return PruneTarget::parse(text).value();
}

SparseGptOutput pruned(const Tensor& weight, const Tensor& moment, const char* target,
                       const SparseGptOptions& options = {}) {
  return sparsegpt(weight, factor_of(moment), target_of(target), options, nullptr, nullptr, "w").value();
}

double error_of(const Tensor& weight, const Tensor& result, const Tensor& moment) {
  return relative_output_error(weight, result, moment).value();
}

class SparseGpt : public ::testing::Test {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }
};

// Zeros of the result are those of the mask, and the mask has its pattern and its count.
TEST_F(SparseGpt, CountsAndPatternsAreExact) {
  const Tensor weight = random_weight(40, 96), moment = correlated_moment(96);
  for (const char* text : {"0.5", "0.3", "0.777", "2:4", "4:8", "1:3", "0.5:block-4x8", "0.25:block-1x8"})
    for (const Scope scope : {Scope::layer, Scope::row}) {
      const SparseGptOutput output = pruned(weight, moment, text, {.block = 32, .scope = scope});
      const PruneTarget target = target_of(text);
      EXPECT_TRUE(output.mask.verify(target.pattern, "w")) << text;
      for (int64_t i = 0; i < weight.numel(); ++i)
        EXPECT_EQ(output.weight.data<float>()[i] == 0.0f, !output.mask.kept(i / 96, i % 96)) << text;
      const int64_t removed = weight.numel() - output.mask.kept_count();
      if (target.pattern.kind == SparsityPattern::Kind::n_of_m) {
        EXPECT_EQ(removed, target.removed(40, 96)) << text;
      } else if (target.pattern.kind == SparsityPattern::Kind::unstructured) {
        EXPECT_EQ(removed,
                  scope == Scope::layer ? target.sparsity.count(40 * 96) : 40 * target.sparsity.count(96))
            << text;
      }
    }
}

TEST_F(SparseGpt, NothingRemovedIsTheWeightBitForBit) {
  const Tensor weight = random_weight(24, 64), moment = correlated_moment(64);
  const SparseGptOutput output = pruned(weight, moment, "0");
  for (int64_t i = 0; i < weight.numel(); ++i)
    ASSERT_EQ(output.weight.data<float>()[i], weight.data<float>()[i]);
  EXPECT_EQ(output.loss, 0.0);
}

// With H = c I there is nothing to make up for: the smallest magnitudes of each block of columns go.
TEST_F(SparseGpt, WhiteInputsGiveMagnitudePerBlock) {
  const Tensor weight = random_weight(20, 64), moment = scaled_identity(64, 3.0f);
  const SparseGptOutput output = pruned(weight, moment, "0.5", {.block = 16});
  for (int64_t begin = 0; begin < 64; begin += 16) {
    Tensor part = Tensor::allocate(DType::f32, {20, 16}).value();
    for (int64_t r = 0; r < 20; ++r)
      for (int64_t c = 0; c < 16; ++c)
        part.mutable_data<float>()[r * 16 + c] = std::abs(weight.data<float>()[r * 64 + begin + c]);
    const Mask expected = select_matrix(part, 160).value();
    for (int64_t r = 0; r < 20; ++r)
      for (int64_t c = 0; c < 16; ++c) {
        ASSERT_EQ(output.mask.kept(r, begin + c), expected.kept(r, c)) << begin;
        if (!expected.kept(r, c)) continue;
        ASSERT_EQ(output.weight.data<float>()[r * 64 + begin + c], weight.data<float>()[r * 64 + begin + c]);
      }
  }
}

TEST_F(SparseGpt, BeatsWandaWithoutUpdate) {
  for (uint32_t stream = 1; stream <= 4; ++stream) {
    const Tensor weight = random_weight(48, 128, stream), moment = correlated_moment(128, stream);
    std::vector<float> norms;
    for (int64_t j = 0; j < 128; ++j) norms.push_back(std::sqrt(moment.data<float>()[j * 128 + j]));
    for (const char* text : {"0.5", "2:4"}) {
      const Tensor scores = wanda_scores(weight, norms).value();
      const Mask mask = select_weights(scores, target_of(text), Scope::row, "w").value();
      Tensor wanda = test::times(weight, 1.0f);
      mask.apply(wanda);
      EXPECT_LT(error_of(weight, pruned(weight, moment, text).weight, moment),
                0.9 * error_of(weight, wanda, moment))
          << text;
    }
  }
}

// The reported loss is 1/2 tr(D (H + damping) D^T), the identity of the sweep.
TEST_F(SparseGpt, LossIsTheErrorItMade) {
  const Tensor weight = random_weight(32, 80), moment = correlated_moment(80);
  const HessianFactor factor = factor_of(moment);
  double mean = 0.0;
  for (int64_t j = 0; j < 80; ++j) mean += double(moment.data<float>()[j * 80 + j]) / 80.0;
  Tensor damped = test::times(moment, 1.0f);
  for (int64_t j = 0; j < 80; ++j) damped.mutable_data<float>()[j * 80 + j] += float(factor.damping() * mean);
  for (const char* text : {"0.5", "2:4"}) {
    const SparseGptOutput output =
        sparsegpt(weight, factor, target_of(text), {}, nullptr, nullptr, "w").value();
    const double expected = 0.5 * error_energy(weight, output.weight, damped).value();
    EXPECT_NEAR(output.loss, expected, 2e-3 * expected) << text;
  }
}

TEST_F(SparseGpt, HeldZerosStayAndCount) {
  Tensor weight = random_weight(32, 64);
  const Tensor moment = correlated_moment(64);
  Mask held = Mask::all_kept(32, 64).value();
  for (int64_t r = 0; r < 32; ++r)
    for (int64_t c = r % 3; c < 64; c += 3) {
      weight.mutable_data<float>()[r * 64 + c] = 0.0f;
      held.set(r, c, false);
    }
  const SparseGptOutput output =
      sparsegpt(weight, factor_of(moment), target_of("0.5"), {}, &held, nullptr, "w").value();
  EXPECT_EQ(output.mask.kept_count(), 32 * 32);
  for (int64_t r = 0; r < 32; ++r)
    for (int64_t c = r % 3; c < 64; c += 3) EXPECT_EQ(output.weight.data<float>()[r * 64 + c], 0.0f);
}

TEST_F(SparseGpt, LevelsAndOrderGiveTheSameBytesAndCounts) {
  const Tensor weight = random_weight(37, 96), moment = correlated_moment(96);
  const SparseGptOutput first = pruned(weight, moment, "0.6", {.level = VectorLevel::generic});
  for (const VectorLevel level : {VectorLevel::avx2, VectorLevel::avx512}) {
    if (level > host_vector_level()) continue;
    const SparseGptOutput other = pruned(weight, moment, "0.6", {.level = level});
    for (int64_t i = 0; i < weight.numel(); ++i)
      ASSERT_EQ(first.weight.data<float>()[i], other.weight.data<float>()[i]);
  }
  const SparseGptOutput ordered = sparsegpt(weight, factor_of(moment, 0.01, /*act_order=*/true),
                                            target_of("0.6"), {}, nullptr, nullptr, "w")
                                      .value();
  EXPECT_EQ(ordered.mask.kept_count(), first.mask.kept_count());
}

// Pruning and rounding in one sweep: what is kept is on its grid, zeros are zeros, and the error is below
// that of rounding the pruned weights afterwards without making up for it.
TEST_F(SparseGpt, RoundsWhatIsKeptInTheSameSweep) {
  const Tensor weight = random_weight(48, 128), moment = correlated_moment(128);
  const HessianFactor factor = factor_of(moment);
  for (const char* text : {"0.5", "2:4"})
    for (const char* scheme_text : {"int4-g32", "int4-g64-asym", "int8-ch", "int3-g32"}) {
      const QuantScheme scheme = QuantScheme::parse(scheme_text).value();
      const RounderFactory factory = joint_rounder(scheme, false).value();
      const SparseGptOutput floats =
          sparsegpt(weight, factor, target_of(text), {}, nullptr, nullptr, "w").value();
      const auto rounder = factory(floats.weight, factor, moment, "w").value();
      const SparseGptOutput joint =
          sparsegpt(weight, factor, target_of(text), {}, nullptr, rounder.get(), "w").value();
      ASSERT_TRUE(joint.codes.has_value());
      const Tensor restored = joint.codes->dequantize().value();
      for (int64_t i = 0; i < weight.numel(); ++i) {
        const bool is_kept = joint.mask.kept(i / 128, i % 128);
        ASSERT_EQ(joint.weight.data<float>()[i], is_kept ? restored.data<float>()[i] : 0.0f) << scheme_text;
      }
      QuantizeOptions options;
      const Tensor rounded = find_quantize_method("rtn")
                                 .value()
                                 ->quantize(floats.weight, scheme, options, "w")
                                 .value()
                                 .tensor.dequantize()
                                 .value();
      // At 8 bits there is next to nothing to make up for, and the masks differ by chance.
      const double slack = scheme.bits < 8 ? 1.0 : 1.02;
      EXPECT_LT(error_of(weight, joint.weight, moment), slack * error_of(weight, rounded, moment))
          << text << " " << scheme_text;
    }
  EXPECT_EQ(joint_rounder(QuantScheme::parse("int4-g32-asymf").value(), false).error().exit,
            Exit::unsupported);
}

}  // namespace
}  // namespace pare
