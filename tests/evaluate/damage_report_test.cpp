// The damage report against the plain ways to the same numbers: evaluate() and a walk over whole models.
#include "evaluate/damage_report.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/core/parallel.h"
#include "engine/tokenizer/token_windows.h"
#include "evaluate/damage_json.h"
#include "evaluate/evaluate.h"
#include "tests/support/backends.h"
#include "tests/support/tiny_model.h"
#include "tests/support/walk.h"

namespace pare::test {
namespace {

constexpr int64_t kContext = 12, kWindows = 9;

class DamageReportTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    use(arithmetics_of_this_host().back());  // the fastest of the cpu backend
    original_ = tiny_model(GetParam());
    compressed_ = tiny_model(GetParam());
    const ModelDescription model = checked(describe_model(*original_));
    for (const TensorSpec& spec : model.tensors) {
      if (!spec.is_linear) continue;
      const Tensor& dense = original_->dense(spec.name);
      compressed_->add(spec.name, int8_of(spec.transposed ? checked(transposed(dense)) : dense),
                       spec.transposed);
      ++linears_;
    }
    for (int64_t i = 0; i < kContext * kWindows + 5; ++i) ids_.push_back(int32_t((i * i + 3 * i) % 40));
    tokens_ = damage_tokens(ids_, kContext, 100, "numbers");
  }

  Result<DamageReport> report(const DamageOptions& options = {}) {
    rows_ = 0;
    return damage_report(original_, compressed_, tokens_, nullptr, options, [this](int64_t rows) {
      rows_ += rows;
      return Status();
    });
  }

  std::shared_ptr<MemorySource> original_, compressed_;
  std::vector<int32_t> ids_;
  DamageTokens tokens_;
  int64_t rows_ = 0;
  size_t linears_ = 0;
};

TEST_P(DamageReportTest, AgreesWithEvaluate) {
  ASSERT_EQ(int64_t(tokens_.windows.size()), kWindows);
  // Batches of two windows and logits of five rows, so that every seam is crossed; the same in both, since
  // kernels for few rows round differently.
  const DamageReport got = checked(report({.batch_tokens = 2 * kContext, .logit_rows = 5}));
  auto model = checked(Model::open(compressed_, Device::cpu()));
  auto reference = checked(Model::open(original_, Device::cpu()));
  const EvaluateResult expected =
      checked(evaluate(*model, reference.get(), ids_, tokens_.windows,
                       {.batch_tokens = 2 * kContext, .logit_rows = 5}, [](int64_t) {}));
  EXPECT_EQ(got.scored_tokens, kWindows * (kContext - 1));
  EXPECT_EQ(got.input_tokens, kWindows * kContext);
  EXPECT_EQ(rows_, 2 * got.input_tokens * int64_t(model->config().block_count()));
  EXPECT_DOUBLE_EQ(got.compressed.value, expected.perplexity.value);
  EXPECT_DOUBLE_EQ(got.compressed.window_error, expected.perplexity.window_error);
  EXPECT_DOUBLE_EQ(got.original.value, expected.reference->value);
  EXPECT_DOUBLE_EQ(got.damage.kl.value, expected.damage->kl.value);
  EXPECT_DOUBLE_EQ(got.damage.delta_perplexity_error, expected.damage->delta_perplexity_error);
  EXPECT_DOUBLE_EQ(got.damage.top1_agreement.value, expected.damage->top1_agreement.value);
  EXPECT_GT(got.damage.kl.value, 0.0);
  ASSERT_EQ(got.worst.size(), 20u);
  for (size_t i = 0; i < got.worst.size(); ++i) {
    const WorstToken& worst = got.worst[i];
    EXPECT_EQ(worst.position, expected.worst[i].position);
    EXPECT_DOUBLE_EQ(worst.kl, expected.worst[i].kl);
    EXPECT_EQ(worst.window, worst.position / kContext);
    EXPECT_EQ(worst.position_in_window, worst.position % kContext);
    EXPECT_EQ(worst.id, ids_[size_t(worst.position)]);
  }
}

TEST_P(DamageReportTest, BlockErrorsAreThoseOfWholeModels) {
  const DamageReport got = checked(report());
  Trace traces[2];
  const Batch batch{.sequences = kWindows, .tokens_per_sequence = kContext};
  const Tensor ids = tensor_of(tokens_.ids, Device::cpu());
  const std::shared_ptr<MemorySource> sources[] = {original_, compressed_};
  for (int i = 0; i < 2; ++i) traces[i] = walk(*checked(Model::open(sources[i], Device::cpu())), ids, batch);
  ASSERT_EQ(got.blocks.size() + 1, traces[0].hidden.size());
  for (const BlockDamage& block : got.blocks) {
    const Tensor &o = traces[0].hidden[size_t(block.block) + 1],
                 &c = traces[1].hidden[size_t(block.block) + 1];
    double difference = 0.0, norm = 0.0;
    for (int64_t i = 0; i < o.numel(); ++i) {
      const double a = o.data<float>()[i], b = c.data<float>()[i];
      difference += (a - b) * (a - b), norm += a * a;
    }
    EXPECT_NEAR(block.relative_error, std::sqrt(difference / norm), 1e-9) << block.block;
    EXPECT_GT(block.relative_error, 0.0);
  }
}

TEST_P(DamageReportTest, HistogramsCountEveryValue) {
  const DamageReport got = checked(report());
  const ModelConfig config = checked(Model::open(original_, Device::cpu()))->config();
  ASSERT_EQ(got.sites.size(), 4 * config.blocks.size());
  for (const SiteDamage& site : got.sites) {
    const BlockConfig& block = config.blocks[size_t(site.block)];
    const int64_t channels = site.site == Site::attention_out ? block.heads * block.head_dim
                             : site.site == Site::mlp_out     ? block.intermediate_size
                                                              : config.hidden_size;
    for (const MagnitudeHistogram* histogram : {&site.original, &site.compressed}) {
      EXPECT_EQ(histogram->total(), uint64_t(channels * kWindows * kContext));
      EXPECT_GT(histogram->largest, 0.0);
      EXPECT_LE(histogram->square_sum, histogram->largest * histogram->largest * double(histogram->total()));
    }
  }
  ASSERT_EQ(got.weights.size(), linears_);
  for (const WeightDamage& weight : got.weights) {
    const uint64_t values = uint64_t(original_->find(weight.name)->shape.numel());
    EXPECT_EQ(weight.original.total(), values);
    EXPECT_EQ(weight.compressed.total(), values);
    EXPECT_EQ(weight.original.outside, 0u);
    EXPECT_EQ(weight.original.limit, weight.compressed.limit);
    EXPECT_NE(weight.original.counts, weight.compressed.counts) << weight.name;
  }
}

TEST_P(DamageReportTest, ModelAgainstItselfIsUndamaged) {
  compressed_ = original_;
  const DamageReport got = checked(report());
  EXPECT_EQ(got.damage.kl_max, 0.0);
  EXPECT_EQ(got.damage.delta_perplexity, 0.0);
  EXPECT_EQ(got.damage.delta_perplexity_error, 0.0);
  EXPECT_EQ(got.damage.top1_agreement.value, 1.0);
  for (const BlockDamage& block : got.blocks) EXPECT_EQ(block.relative_error, 0.0);
  EXPECT_TRUE(got.weights.empty());
}

TEST_P(DamageReportTest, SameBytesForAnyThreadsAndWithoutHistograms) {
  set_thread_count(1);
  const std::string one = to_json(checked(report())).dump();
  set_thread_count(3);
  EXPECT_TRUE(to_json(checked(report())).dump() == one);
  set_thread_count(0);
  // The staged walk and the plain one give the same hidden states.
  const DamageReport plain = checked(report({.activation_histograms = false, .weight_histograms = false}));
  const DamageReport whole = checked(report());
  EXPECT_EQ(plain.damage.kl.value, whole.damage.kl.value);
  EXPECT_TRUE(plain.sites.empty() && plain.weights.empty());
}

TEST_P(DamageReportTest, JsonAndBack) {
  const Json json = to_json(checked(report()));
  const DamageReport back = checked(damage_from_json(json, "r.json", "damage."));
  EXPECT_EQ(to_json(back).dump(), json.dump());
}

TEST_P(DamageReportTest, EstimateCoversWhatIsReserved) {
  const uint64_t bytes = checked(damage_report_bytes(*original_, *compressed_, tokens_, {}));
  const auto config = checked(Model::open(original_, Device::cpu()))->config();
  EXPECT_GT(bytes, uint64_t(2 * 4 * kWindows * kContext * config.hidden_size));
  EXPECT_LT(bytes, 16u << 20);
}

TEST_P(DamageReportTest, ErrorsOfTheCallerAndOfTheData) {
  const auto stopped = damage_report(original_, compressed_, tokens_, nullptr, {}, [](int64_t) -> Status {
    return Error{.exit = Exit::interrupted, .what = "stopped"};
  });
  ASSERT_FALSE(stopped.has_value());
  EXPECT_EQ(stopped.error().exit, Exit::interrupted);
  ids_[3] = 40;
  tokens_ = damage_tokens(ids_, kContext, 100, "numbers");
  EXPECT_EQ(report().error().rule, "TK20");
}

INSTANTIATE_TEST_SUITE_P(Families, DamageReportTest, testing::Values(kTinyLlama, kTinyGpt2));

TEST(DamageReport, OtherDepthIsComparedByWhatItSays) {
  use(arithmetics_of_this_host().back());
  const auto original = tiny_model(kTinyLlama);
  const auto other =
      tiny_model(R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40,
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "tie_word_embeddings": false})");
  const std::vector<int32_t> ids(24, 1);
  int64_t walked = 0;
  const auto report = damage_report(original, other, damage_tokens(ids, 12, 2, "ones"), nullptr, {},
                                    [&](int64_t tokens) { return walked += tokens, Status(); });
  ASSERT_TRUE(report.has_value()) << format_error(report.error());
  EXPECT_TRUE(report->blocks.empty());
  EXPECT_TRUE(report->sites.empty());
  EXPECT_TRUE(report->weights.empty());
  EXPECT_GT(report->damage.kl.value, 0.0);
  EXPECT_EQ(walked, 5 * 24);
}

}  // namespace
}  // namespace pare::test
