// Costs of formats: zero where nothing is lost, falling with bits; what is chosen stays within its budget.
#include "quantize/sensitivity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "calibrate/divergence_probe.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "tests/quantize/tiny_job.h"

namespace pare {
namespace {

using test::checked;

class Sensitivities : public ::testing::Test {
 protected:
  void SetUp() override {
    install_backend(make_cpu_backend());
    source_ = test::tiny_model(test::kTinyLlama);
    for (const char* text : {"int2-g32", "int3-g32", "int4-g32", "int5-g32", "int6-g32", "int8"})
      options_.candidates.push_back(checked(QuantScheme::parse(text)));
    options_.probe = options_.candidates[1];
    options_.memory_limit = uint64_t(1) << 40;
    pipeline_.spill_folder = test::memory_folder();
    pipeline_.memory_limit = uint64_t(1) << 40;
  }
  std::vector<UnitSensitivity> measure() {
    return checked(measure_sensitivity(
        source_, test::tiny_windows(4, 16), [](const TensorSpec&) { return true; }, options_, pipeline_));
  }
  std::shared_ptr<test::MemorySource> source_;
  SensitivityOptions options_;
  PipelineOptions pipeline_;
};

TEST_F(Sensitivities, CostsFallWithBits) {
  for (const bool divergence : {false, true}) {
    options_.measure_divergence = divergence;
    const auto units = measure();
    ASSERT_EQ(units.size(), 12u) << "four sites in three blocks";
    EXPECT_EQ(units[0].name, "block 0 attn.in");
    EXPECT_EQ(units[0].tensors.size(), 3u);
    for (const UnitSensitivity& unit : units) {
      const auto& choices = unit.choices.choices;
      ASSERT_EQ(choices.size(), options_.candidates.size() + 1);
      for (size_t i = 0; i + 1 < choices.size(); ++i) {
        EXPECT_GT(choices[i].cost, choices[i + 1].cost) << unit.name << " " << i;
        EXPECT_LT(choices[i].bytes, choices[i + 1].bytes);
      }
      EXPECT_EQ(choices.back().cost, 0.0) << "kept";
      EXPECT_EQ(choices.back().scheme, std::nullopt);
      EXPECT_EQ(unit.divergence > 0.0, divergence);
      if (divergence) {
        EXPECT_NEAR(choices[1].cost, unit.divergence, 1e-12) << "the probe costs what it measured";
      }
    }
  }
}

TEST_F(Sensitivities, APartWithoutErrorCostsNothing) {
  Tensor zeros = source_->dense("model.layers.1.mlp.down_proj.weight");
  std::fill_n(zeros.mutable_data<float>(), zeros.numel(), 0.0f);
  for (const UnitSensitivity& unit : measure()) {
    if (unit.name != "block 1 mlp.act") continue;
    for (const AllocationChoice& choice : unit.choices.choices) EXPECT_EQ(choice.cost, 0.0);
    EXPECT_EQ(unit.divergence, 0.0);
  }
}

// The divergence against its definition: full forward passes of both models, softmax in double.
TEST_F(Sensitivities, DivergenceIsThatOfTheWholeModel) {
  const CalibrationWindows windows = test::tiny_windows(2, 12);
  const ModelDescription model = checked(describe_model(*source_));
  const QuantizeMethod* rtn = checked(find_quantize_method("rtn"));
  QuantizeOptions quantize;
  quantize.clip_search = true;
  quantize.clip.power = 2.0;
  const auto round = [&](const TensorSpec& spec, const Tensor& weight) -> Result<WeightData> {
    return WeightData{.form = std::make_shared<const QuantizedTensor>(
                          checked(rtn->quantize(weight, options_.probe, quantize, spec.name)).tensor)};
  };
  const auto probe = checked(DivergenceProbe::create(source_, windows, 2, 24, uint64_t(1) << 40));
  EXPECT_EQ(checked(probe->divergence(0, {}, round)), 0.0) << "nothing was changed";
  const TensorSpec* up = model.find(Role::up, 1);
  const double got = checked(probe->divergence(1, {up}, round));
  EXPECT_EQ(checked(probe->divergence(1, {}, round)), 0.0) << "put back";

  const auto edited = std::make_shared<EditedSource>(source_);
  edited->set(
      up->name,
      WeightData{
          .form = std::make_shared<const QuantizedTensor>(
              checked(rtn->quantize(source_->dense(up->name), options_.probe, quantize, up->name)).tensor)});
  auto before = checked(Model::open(source_, Device::cpu())),
       after = checked(Model::open(edited, Device::cpu()));
  const Batch batch{.sequences = 2, .tokens_per_sequence = 12};
  const Tensor ids = test::tensor_of(windows.ids, Device::cpu());
  const Tensor a = test::walk(*before, ids, batch).logits, b = test::walk(*after, ids, batch).logits;
  const int64_t vocabulary = a.size(1);
  const auto log_sum = [&](const float* row) {
    double sum = 0.0;
    for (int64_t i = 0; i < vocabulary; ++i) sum += std::exp(double(row[i]));
    return std::log(sum);
  };
  double total = 0.0;
  for (int64_t t = 0; t < a.size(0); ++t) {
    const float *x = a.data<float>() + t * vocabulary, *y = b.data<float>() + t * vocabulary;
    const double first = log_sum(x), second = log_sum(y);
    for (int64_t i = 0; i < vocabulary; ++i) {
      const double p = double(x[i]) - first;
      total += std::exp(p) * (p - (double(y[i]) - second));
    }
  }
  EXPECT_NEAR(got, total / double(a.size(0)), 1e-3 * got + 1e-9);
  EXPECT_GT(got, 0.0);
}

TEST_F(Sensitivities, ProbeBeyondTheCeilingIsRefused) {
  const auto probe = DivergenceProbe::create(source_, test::tiny_windows(2, 12), 2, 24, 1 << 16);
  ASSERT_FALSE(probe);
  EXPECT_EQ(probe.error().exit, Exit::resource);
}

TEST_F(Sensitivities, WeightsAreCheckedFirst) {
  source_->dense("model.layers.2.mlp.down_proj.weight").mutable_data<float>()[3] = NAN;
  const auto units = measure_sensitivity(
      source_, test::tiny_windows(4, 16), [](const TensorSpec&) { return true; }, options_, pipeline_);
  ASSERT_FALSE(units);
  EXPECT_EQ(units.error().rule, "NU01");
}

TEST_F(Sensitivities, ChosenFormatsKeepTheBudget) {
  const auto units = measure();
  std::vector<AllocationUnit> choices;
  uint64_t smallest = 0, largest = 0;
  for (const UnitSensitivity& unit : units) {
    choices.push_back(unit.choices);
    smallest += unit.choices.choices.front().bytes;
    largest += unit.choices.choices.back().bytes;
  }
  double last_cost = INFINITY;
  for (const double share : {0.0, 0.1, 0.3, 0.6, 1.0}) {
    const auto budget = uint64_t(double(smallest) + share * double(largest - smallest));
    const Allocation allocation = checked(allocate_bits(choices, budget));
    uint64_t bytes = 0;
    double cost = 0.0;
    const auto schemes = chosen_schemes(units, allocation);
    for (const UnitSensitivity& unit : units)
      for (const std::string& name : unit.tensors) {
        const StoredTensor* stored = source_->find(name);
        const auto& scheme = schemes.at(name);
        bytes += scheme ? scheme->stored_bytes(stored->shape[0], stored->shape[1]) : stored->bytes;
      }
    for (size_t i = 0; i < units.size(); ++i) cost += units[i].choices.choices[allocation.choice[i]].cost;
    EXPECT_LE(bytes, budget);
    EXPECT_LE(cost, last_cost) << "a larger budget never costs more";
    last_cost = cost;
  }
  EXPECT_EQ(last_cost, 0.0) << "room for everything: nothing is changed";
}

}  // namespace
}  // namespace pare
