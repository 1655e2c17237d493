// What is measured on a whole model, on a device against the same on the CPU: divergences, gradients of the
// loss, losses without layers, damage.
#include <gtest/gtest.h>

#include <cmath>

#include "calibrate/divergence_probe.h"
#include "calibrate/loss_gradients.h"
#include "calibrate/weight_gradients.h"
#include "engine/models/edited_source.h"
#include "engine/tensor/sparse_tensor.h"
#include "evaluate/damage_report.h"
#include "prune/structured/layer_choice.h"
#include "tests/calibrate/device/device.h"
#include "tests/quantize/tiny_job.h"

namespace pare::test {
namespace {

constexpr uint64_t kEnough = uint64_t(1) << 30;

class DeviceMeasure : public DeviceTest {
 protected:
  std::shared_ptr<MemorySource> source_ = tiny_model(kTinyLlama);
  ModelDescription model_ = checked(describe_model(*source_));
  CalibrationWindows windows_ = tiny_windows(2, 12);

  BlockJob job_on(Device device) const {
    BlockJob job;
    job.source = source_;
    job.model = model_;
    job.windows = windows_;
    job.memory_limit = uint64_t(1) << 34;
    job.device = device;
    job.device_limit = kEnough;
    return job;
  }
  std::vector<std::string> linears() const {
    std::vector<std::string> names;
    for (const TensorSpec& spec : model_.tensors)
      if (spec.is_linear) names.push_back(spec.name);
    return names;
  }
};

// A matrix with its small weights left out, or on a coarse grid.
Result<WeightData> coarse(const TensorSpec&, const Tensor& weight) {
  PARE_TRY(Tensor copy, Tensor::allocate(DType::f32, weight.shape()));
  for (int64_t i = 0; i < copy.numel(); ++i)
    copy.mutable_data<float>()[i] = std::round(weight.data<float>()[i] * 8.0f) / 8.0f;
  return WeightData{.form = std::move(copy)};
}

TEST_F(DeviceMeasure, DivergencesAreThoseOfTheHost) {
  const auto device = checked(DivergenceProbe::create(source_, windows_, 2, 9, kEnough, kGpu));
  const auto host = checked(DivergenceProbe::create(source_, windows_, 2, 9, uint64_t(1) << 34));
  for (int block = 0; block < 3; ++block) {
    for (const Role role : {Role::query, Role::up, Role::down}) {
      const TensorSpec* spec = model_.find(role, block);
      // a small difference of large sums of floats
      const double want = checked(host->divergence(block, {spec}, coarse));
      EXPECT_GT(want, 0.0);
      EXPECT_NEAR(checked(device->divergence(block, {spec}, coarse)), want, 1e-3 * want + 1e-7) << spec->name;
    }
    EXPECT_EQ(checked(device->divergence(block, {}, coarse)), 0.0) << "put back";
  }
}

TEST_F(DeviceMeasure, ProbesBeyondTheCeilingAreRefused) {
  const auto probe = DivergenceProbe::create(source_, windows_, 2, 9, 1 << 14, kGpu);
  ASSERT_FALSE(probe);
  EXPECT_EQ(probe.error().exit, Exit::resource);
  EXPECT_NE(probe.error().what.find("--max-vram"), std::string::npos);
  EXPECT_EQ(cuda::memory_use(backend_for(kGpu)).held_bytes, 0u);
}

TEST_F(DeviceMeasure, GradientsOfTheLossAreThoseOfTheHost) {
  const std::vector<GradientMoment> moments = {GradientMoment::mean, GradientMoment::square};
  std::vector<WeightGradients> sums(2, WeightGradients(model_, linears(), moments));
  std::vector<LossGradients> values;
  std::vector<JobFolder> folders;
  for (const Device device : {Device::cpu(), kGpu}) {
    folders.push_back(
        checked(JobFolder::open(memory_folder() + "/" + device.name(), Json::object(), JobMode::fresh)));
    WeightGradients running = sums[values.size()];
    values.push_back(checked(measure_loss_gradients(job_on(device), {}, running, folders.back())));
  }
  EXPECT_NEAR(values[1].loss, values[0].loss, 1e-5 * values[0].loss);
  for (const std::string& name : linears()) {
    for (const GradientMoment moment : moments) {
      const Tensor want = checked(sums[0].read(values[0], name, moment)),
                   got = checked(sums[1].read(values[1], name, moment));
      double largest = 0.0;
      for (int64_t i = 0; i < want.numel(); ++i)
        largest = std::max(largest, std::abs(double(want.data<float>()[i])));
      ASSERT_GT(largest, 0.0) << name;
      for (int64_t i = 0; i < want.numel(); ++i)
        ASSERT_NEAR(got.data<float>()[i], want.data<float>()[i], 1e-4 * largest) << name << " " << i;
    }
  }
  for (JobFolder& folder : folders) checked(folder.remove());
}

TEST_F(DeviceMeasure, GradientsBeyondTheCeilingAreRefused) {
  WeightGradients sums(model_, linears(), {GradientMoment::mean});
  JobFolder folder = checked(JobFolder::open(memory_folder() + "/small", Json::object(), JobMode::fresh));
  BlockJob job = job_on(kGpu);
  job.device_limit = 1 << 14;
  const auto refused = measure_loss_gradients(job, {}, sums, folder);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::resource);
  EXPECT_NE(refused.error().what.find("--max-vram"), std::string::npos);
  checked(folder.remove());
}

TEST_F(DeviceMeasure, LayersGoInTheHostsOrder) {
  const auto advance = [](int64_t) { return Status(); };
  const LossRemoval want = checked(remove_layers_by_loss(source_, windows_, {0, 1, 2}, 1, advance)),
                    got = checked(remove_layers_by_loss(source_, windows_, {0, 1, 2}, 1, advance, kGpu));
  EXPECT_EQ(got.kept, want.kept);
  EXPECT_NEAR(got.loss_before, want.loss_before, 1e-5 * want.loss_before);
  ASSERT_EQ(got.removed.size(), want.removed.size());
  for (size_t i = 0; i < want.removed.size(); ++i) {
    EXPECT_EQ(got.removed[i].first, want.removed[i].first);
    EXPECT_NEAR(got.removed[i].second, want.removed[i].second, 1e-5 * want.removed[i].second);
  }
}

// Forms of weights that differ from block to block; none is loaded when the walk is planned. Few tokens at a
// time, so that products with low-bit weights do not expand them.
TEST_F(DeviceMeasure, DamageIsThatOfTheHost) {
  const auto edited = std::make_shared<EditedSource>(source_);
  for (const auto& [role, block] : {std::pair(Role::up, 0), std::pair(Role::query, 1)}) {
    const TensorSpec* spec = model_.find(role, block);
    edited->set(spec->name,
                {.form = std::make_shared<const QuantizedTensor>(int8_of(source_->dense(spec->name)))});
  }
  const TensorSpec* down = model_.find(Role::down, 2);
  const Tensor& whole = source_->dense(down->name);
  Tensor bits = checked(Tensor::allocate(DType::u8, {whole.size(0), (whole.size(1) + 7) / 8}));
  Mask mask(std::move(bits), whole.size(0), whole.size(1));
  for (int64_t row = 0; row < whole.size(0); ++row)
    for (int64_t column = 0; column < whole.size(1); ++column) mask.set(row, column, (row + column) % 3 != 0);
  edited->set(down->name, {.form = std::make_shared<const SparseTensor>(checked(SparseTensor::from_dense(
                               whole, mask, checked(SparsityPattern::parse("unstructured")))))});
  const DamageTokens tokens = damage_tokens(windows_.ids, 12, 2, "test");
  std::vector<DamageReport> reports;
  for (const Device device : {Device::cpu(), kGpu}) {
    DamageOptions options;
    options.device = device;
    options.batch_tokens = 12;
    reports.push_back(
        checked(damage_report(source_, edited, tokens, nullptr, options, [](int64_t) { return Status(); })));
  }
  const DamageReport &want = reports[0], &got = reports[1];
  EXPECT_GT(want.damage.kl.value, 0.0);
  EXPECT_NEAR(got.damage.kl.value, want.damage.kl.value, 1e-3 * want.damage.kl.value);
  EXPECT_NEAR(got.compressed.value, want.compressed.value, 1e-5 * want.compressed.value);
  ASSERT_EQ(got.blocks.size(), want.blocks.size());
  for (size_t i = 0; i < want.blocks.size(); ++i)
    EXPECT_NEAR(got.blocks[i].relative_error, want.blocks[i].relative_error,
                1e-3 * want.blocks[i].relative_error);
  EXPECT_EQ(got.sites.size(), want.sites.size());
}

}  // namespace
}  // namespace pare::test
