// SparseGPT with its factor on the device against the host's.
#include "prune/sparsegpt.h"

#include <gtest/gtest.h>

#include "calibrate/held_zeros.h"
#include "calibrate/output_error.h"
#include "tests/calibrate/device/device.h"
#include "tests/quantize/problem.h"

namespace pare::test {
namespace {

struct Pair {
  SparseGptOutput host, device;
};

Pair run(const Tensor& weight, const Tensor& moment, const char* target, const SparseGptOptions& options = {},
         const Mask* held = nullptr) {
  const HessianFactor factor =
      factor_hessian(moment, {.damping = 0.01, .max_retries = 5, .act_order = false}, "w").value();
  const PruneTarget parsed = PruneTarget::parse(target).value();
  return {.host = sparsegpt(weight, factor, parsed, options, held, nullptr, "w").value(),
          .device = sparsegpt(weight, there(factor), parsed, options, held, nullptr, "w").value()};
}

class DeviceSparseGpt : public DeviceTest {};

TEST_F(DeviceSparseGpt, OneBlockGivesTheBytesOfTheHost) {
  for (const int64_t out : {1, 33, 70})
    for (const int64_t in : {64, 100, 126})
      for (const char* target : {"0.5", "0.77", "0", "2:4", "4:8", "1:3"})
        for (const Scope scope : {Scope::layer, Scope::row}) {
          const Pair pair = run(random_weight(out, in), correlated_moment(in), target, {.scope = scope});
          const std::string name = std::to_string(out) + "x" + std::to_string(in) + " " + target;
          EXPECT_TRUE(same_bytes(pair.host.weight, pair.device.weight)) << name;
          EXPECT_TRUE(same_bytes(pair.host.mask.bits(), pair.device.mask.bits())) << name;
          EXPECT_EQ(pair.host.loss, pair.device.loss) << name;
        }
}

TEST_F(DeviceSparseGpt, SeveralBlocksAgree) {
  for (const char* target : {"0.5", "2:4", "1:3"})
    for (const Scope scope : {Scope::layer, Scope::row}) {
      const Tensor weight = random_weight(65, 300), moment = correlated_moment(300);
      const Pair pair = run(weight, moment, target, {.scope = scope});
      EXPECT_EQ(pair.host.mask.kept_count(), pair.device.mask.kept_count()) << target;
      int64_t differing = 0;
      for (int64_t i = 0; i < weight.numel(); ++i)
        differing += pair.host.mask.kept(i / 300, i % 300) != pair.device.mask.kept(i / 300, i % 300);
      EXPECT_LE(differing, weight.numel() / 200) << target;
      const double host = relative_output_error(weight, pair.host.weight, moment).value();
      const double device = relative_output_error(weight, pair.device.weight, there(moment)).value();
      EXPECT_NEAR(device, host, 1e-3 * host) << target;
    }
}

// Equal scores go in the order of rows and columns; zeros that may not come back are the first.
TEST_F(DeviceSparseGpt, TiesAndHeldZeros) {
  Tensor weight = random_weight(40, 96);
  for (int64_t i = 0; i < weight.numel(); ++i)
    weight.mutable_data<float>()[i] = i % 5 == 0 ? 0.0f : 0.25f * float(1 + i % 3);
  const Mask held = held_zeros(weight).value().value();
  for (const char* target : {"0.5", "2:4", "0.1"})
    for (const Scope scope : {Scope::layer, Scope::row})
      for (const Mask* zeros : {static_cast<const Mask*>(nullptr), &held}) {
        const Pair pair = run(weight, scaled_identity(96, 1.0f), target, {.scope = scope}, zeros);
        EXPECT_TRUE(same_bytes(pair.host.mask.bits(), pair.device.mask.bits())) << target;
        EXPECT_TRUE(same_bytes(pair.host.weight, pair.device.weight)) << target;
      }
}

TEST_F(DeviceSparseGpt, BlocksOfWeightsGoThroughTheHost) {
  const Pair pair = run(random_weight(16, 96), correlated_moment(96), "0.5:block-4x8");
  EXPECT_TRUE(same_bytes(pair.host.weight, pair.device.weight));
}

}  // namespace
}  // namespace pare::test
