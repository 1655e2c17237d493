#include "distill/loss.h"

#include <gtest/gtest.h>

#include <limits>

#include "distill/loss_scale.h"

namespace pare {
namespace {

TEST(LossConfigTest, NamesGoBothWays) {
  for (const char* name : {"ce", "kl", "ce+kl", "reverse-kl", "jsd", "tvd"}) {
    const auto kind = loss_kind_from_name(name);
    ASSERT_TRUE(kind) << name;
    EXPECT_EQ(loss_kind_name(*kind), name);
    for (const bool is_cut : {false, true})
      EXPECT_TRUE(LossConfig::defaults(*kind, is_cut).validate()) << name;
  }
  for (const char* name : {"bucket", "zero", "topk"})
    EXPECT_EQ(teacher_tail_name(*teacher_tail_from_name(name)), name);
  const auto unknown = loss_kind_from_name("kld");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().exit, Exit::usage);
  EXPECT_EQ(unknown.error().got, "kld");
  EXPECT_FALSE(teacher_tail_from_name(""));
}

// docs/methods.md, training: alpha 0 and temperature 1 for a student cut out of its teacher, 0.5 and 2 for
// another one.
TEST(LossConfigTest, Defaults) {
  const LossConfig cut = LossConfig::defaults(LossKind::kl, true);
  EXPECT_EQ(cut.alpha, 0.0);
  EXPECT_EQ(cut.temperature, 1.0);
  const LossConfig fresh = LossConfig::defaults(LossKind::ce_kl, false);
  EXPECT_EQ(fresh.alpha, 0.5);
  EXPECT_EQ(fresh.temperature, 2.0);
  EXPECT_EQ(LossConfig::defaults(LossKind::ce, false).alpha, 1.0);
  EXPECT_FALSE(LossConfig::defaults(LossKind::ce, false).needs_teacher());
}

TEST(LossConfigTest, ContradictionsAreRefused) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const LossConfig& bad :
       {LossConfig{.kind = LossKind::kl, .alpha = 0.3}, LossConfig{.kind = LossKind::ce, .alpha = 0.9},
        LossConfig{.kind = LossKind::ce_kl, .alpha = 1.0}, LossConfig{.kind = LossKind::ce_kl, .alpha = -0.1},
        LossConfig{.kind = LossKind::ce_kl, .alpha = nan}, LossConfig{.temperature = 0.0},
        LossConfig{.temperature = std::numeric_limits<double>::infinity()},
        LossConfig{.kind = LossKind::jsd, .beta = 0.0}, LossConfig{.kind = LossKind::jsd, .beta = 1.0}}) {
    const Status status = bad.validate();
    ASSERT_FALSE(status) << bad.to_json().dump();
    EXPECT_EQ(status.error().exit, Exit::usage);
  }
}

TEST(LossScaleTest, HalvesOnOverflowAndDoublesAfter2000GoodSteps) {
  LossScale scale = LossScale::dynamic();
  EXPECT_EQ(scale.scale, 65536.0);
  for (int i = 0; i < 1999; ++i) scale.succeeded();
  EXPECT_EQ(scale.scale, 65536.0);
  scale.succeeded();
  EXPECT_EQ(scale.scale, 131072.0);
  ASSERT_TRUE(scale.overflowed(7));
  EXPECT_EQ(scale.scale, 65536.0);
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(scale.overflowed(8));
  EXPECT_EQ(scale.scale, 1.0);
  const Status last = scale.overflowed(9);
  ASSERT_FALSE(last);
  EXPECT_EQ(last.error().exit, Exit::numeric);
  EXPECT_EQ(last.error().rule, "NU11");
  EXPECT_EQ(last.error().where, "step 9");
}

TEST(LossScaleTest, WithoutScalingNothingChanges) {
  LossScale scale = LossScale::none();
  for (int i = 0; i < 3000; ++i) scale.succeeded();
  EXPECT_EQ(scale.scale, 1.0);
}

}  // namespace
}  // namespace pare
