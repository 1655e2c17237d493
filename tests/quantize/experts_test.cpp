// Calibrated methods on a mixture of experts: all matrices, starved experts, what stays as it is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backends/cpu/cpu_backend.h"
#include "tests/quantize/tiny_job.h"

namespace pare {
namespace {

using test::checked;
using test::JobOutcome;
using testing::HasSubstr;

const std::string kRouter = "model.layers.1.block_sparse_moe.gate.weight";

std::string down_of(int expert) {
  return "model.layers.1.block_sparse_moe.experts." + std::to_string(expert) + ".w2.weight";
}

// Router rows of `expert` far below the others: no token chooses it, for inputs with a positive mean.
std::shared_ptr<test::MemorySource> model_without(int expert) {
  auto source = test::tiny_model(test::kTinyMixtral);
  if (expert < 0) return source;
  for (const char* name :
       {"model.layers.0.block_sparse_moe.gate.weight", "model.layers.1.block_sparse_moe.gate.weight"}) {
    Tensor router = checked(converted(source->dense(name), DType::f32));
    // The gain of the norm in front makes its first channel constant and large.
    for (int e = 0; e < 5; ++e) router.mutable_data<float>()[e * 24] = e == expert ? -5.0f : 0.0f;
    source->add(name, router);
  }
  for (const char* name : {"model.embed_tokens.weight"}) {
    Tensor table = checked(converted(source->dense(name), DType::f32));
    for (int64_t id = 0; id < 40; ++id) table.mutable_data<float>()[id * 24] = 0.4f;
    source->add(name, table);
  }
  return source;
}

// Root mean square of a - b over that of b.
double mean_error(const Tensor& a, const Tensor& b) {
  double error = 0.0, size = 0.0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double x = double(a.data<float>()[i]), y = double(b.data<float>()[i]);
    error += (x - y) * (x - y);
    size += y * y;
  }
  return std::sqrt(error / size);
}

class Experts : public ::testing::Test {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }
};

TEST_F(Experts, EveryMethodQuantizesEveryExpertAndNoRouter) {
  for (const char* method : {"rtn", "gptq", "awq", "awq+gptq", "smoothquant", "hqq", "rtn+importance"}) {
    const auto source = model_without(-1);
    QuantizeJob job = test::tiny_job(source, method, "int8-g8-asym");
    job.windows = test::tiny_windows(24, 32);
    const JobOutcome outcome = test::run_job(job);
    ASSERT_FALSE(outcome.error) << method << ": " << format_error(*outcome.error);
    for (const TensorSpec& spec : job.model.tensors) {
      const WeightData& weight = outcome.sink.weights.at(spec.name);
      EXPECT_EQ(weight.is_quantized(), spec.is_linear) << method << " " << spec.name;
      if (spec.role != Role::down) continue;
      const TensorRecord* record = outcome.record(spec.name);
      ASSERT_NE(record, nullptr);
      EXPECT_TRUE(record->fallback.empty()) << method;
      EXPECT_GE(record->extra.find("tokens")->as_int(), 64) << method;
      EXPECT_LT(record->extra.find("tokens")->as_int(), 24 * 32) << method;
    }
    // What was written computes nearly what the original does.
    auto written = std::make_shared<test::MemorySource>(test::kTinyMixtral);
    for (const auto& [name, weight] : outcome.sink.weights) {
      if (weight.is_quantized()) {
        written->add(name, QuantizedTensor(*weight.quantized()), weight.transposed);
      } else {
        written->add(name, weight.dense());
      }
    }
    auto before = checked(Model::open(source, Device::cpu()));
    auto after = checked(Model::open(written, Device::cpu()));
    const Batch batch{.sequences = 1, .tokens_per_sequence = 32};
    const Tensor ids = test::tensor_of(std::span(job.windows.ids).first(32), Device::cpu());
    // Over all logits: a token near the border between two experts may go to the other one.
    EXPECT_LE(mean_error(test::walk(*after, ids, batch).logits, test::walk(*before, ids, batch).logits), 0.1)
        << method;
  }
}

TEST_F(Experts, ScaledRoutersStayFloat) {
  const auto source = model_without(-1);
  source->add(kRouter, checked(converted(source->dense(kRouter), DType::bf16)));
  QuantizeJob job = test::tiny_job(source, "smoothquant", "int8");
  job.windows = test::tiny_windows(24, 32);
  const JobOutcome outcome = test::run_job(job);
  ASSERT_FALSE(outcome.error) << format_error(*outcome.error);
  const Tensor& router = outcome.sink.weights.at(kRouter).dense();
  EXPECT_EQ(router.dtype(), DType::f32);
  EXPECT_EQ(outcome.record(kRouter)->method_applied, "scale");
}

TEST_F(Experts, StarvedOnesAreAnErrorUnlessFallbackIsAllowed) {
  QuantizeJob job = test::tiny_job(model_without(3), "gptq", "int4-g8");
  job.windows = test::tiny_windows(24, 32);
  const JobOutcome refused = test::run_job(job);
  ASSERT_TRUE(refused.error);
  EXPECT_EQ(refused.error->exit, Exit::numeric);
  EXPECT_EQ(refused.error->rule, "NU10");
  EXPECT_THAT(refused.error->where, HasSubstr("mlp.act expert"));
  job.options.allow_fallback = true;
  const JobOutcome outcome = test::run_job(job);
  ASSERT_FALSE(outcome.error) << format_error(*outcome.error);
  int starved = 0;
  for (int expert = 0; expert < 5; ++expert) {
    const TensorRecord* record = outcome.record(down_of(expert));
    const bool is_starved = record->extra.find("tokens")->as_int() < 64;
    starved += is_starved ? 1 : 0;
    EXPECT_EQ(record->method_asked, "gptq");
    EXPECT_EQ(record->method_applied, is_starved ? "rtn" : "gptq") << expert;
    EXPECT_EQ(record->fallback.empty(), !is_starved) << expert;
  }
  EXPECT_GE(starved, 1);
  EXPECT_LE(starved, 3);
  // A method without data asks nothing of the tokens.
  QuantizeJob plain = test::tiny_job(model_without(3), "hqq", "int4-g8-asym");
  plain.windows = test::tiny_windows(24, 32);
  EXPECT_FALSE(test::run_job(plain).error);
}

TEST_F(Experts, SavedStatisticsAndTheOriginalStreamAreRefused) {
  QuantizeJob job = test::tiny_job(model_without(-1), "gptq", "int4-g8");
  job.saved_statistics = [](int, Site, StatisticSet) -> Result<SiteStatistics> { return SiteStatistics(); };
  const JobOutcome saved = test::run_job(job);
  ASSERT_TRUE(saved.error);
  EXPECT_EQ(saved.error->exit, Exit::unsupported);
  EXPECT_THAT(format_error(*saved.error), HasSubstr("give --data"));
  job.saved_statistics = {};
  job.options.match_original = true;
  const JobOutcome both = test::run_job(job);
  ASSERT_TRUE(both.error);
  EXPECT_EQ(both.error->exit, Exit::unsupported);
}

}  // namespace
}  // namespace pare
