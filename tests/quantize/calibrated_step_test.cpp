// Calibrated methods over whole tiny models: what is recorded, and laws that tie methods to each other.
#include "quantize/calibrated_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/parallel.h"
#include "quantize/match_outputs.h"
#include "quantize/quantizer.h"
#include "tests/quantize/problem.h"
#include "tests/quantize/tiny_job.h"
#include "tests/support/compare.h"

namespace pare {
namespace {

using test::checked;
using test::JobOutcome;
using testing::HasSubstr;

class Calibrated : public ::testing::Test {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }
  void TearDown() override { set_thread_count(0); }
};

const QuantizedTensor& matrix(const JobOutcome& outcome, const std::string& name) {
  return *outcome.sink.weights.at(name).quantized();
}

JobOutcome done(const QuantizeJob& job) {
  JobOutcome outcome = test::run_job(job);
  PARE_ASSERT(!outcome.error, "{}", format_error(*outcome.error));
  return outcome;
}

const Json* extra(const JobOutcome& outcome, const std::string& name, const char* key) {
  return outcome.record(name)->extra.find(key);
}

const std::string kUp = "model.layers.1.mlp.up_proj.weight";
const std::string kDown = "model.layers.1.mlp.down_proj.weight";

// Identity moments: nothing to propagate, so GPTQ is plain rounding, in every scheme.
TEST_F(Calibrated, GptqOnIndependentInputsIsPlainRounding) {
  for (const char* scheme : {"int4-g32-sf32", "int8", "int3-g32-asym", "nf4-g32"}) {
    const auto source = test::tiny_model(test::kTinyLlama);
    std::map<std::string, JobOutcome> outcomes;
    for (const char* method : {"gptq+minmax", "rtn+minmax"}) {
      QuantizeJob job = test::tiny_job(source, method, scheme);
      const BlockConfig shape = job.model.config.blocks.front();
      job.saved_statistics = [shape](int, Site site, StatisticSet) -> Result<SiteStatistics> {
        SiteStatistics statistics;
        statistics.channels = site == Site::attention_out ? shape.heads * shape.head_dim
                              : site == Site::mlp_out     ? shape.intermediate_size
                                                          : 24;
        statistics.tokens = 100, statistics.samples = 1;
        statistics.second_moment = test::scaled_identity(statistics.channels, 100.0f);
        return statistics;
      };
      outcomes.emplace(method, done(job));
    }
    for (const auto& [name, weight] : outcomes.at("gptq+minmax").sink.weights) {
      if (!weight.is_quantized()) continue;
      EXPECT_TRUE(test::same_matrix(*weight.quantized(), matrix(outcomes.at("rtn+minmax"), name)))
          << name << " " << scheme;
    }
  }
}

TEST_F(Calibrated, RecordsSayWhatWasDone) {
  QuantizeJob job = test::tiny_job(test::tiny_model(test::kTinyLlama), "awq+gptq", "int3-g32-asym");
  job.options.activations = ActivationQuant::Mode::dynamic_token;
  const JobOutcome outcome = done(job);
  int scaled = 0;
  for (const TensorSpec& spec : job.model.tensors) {
    const TensorRecord* record = outcome.record(spec.name);
    ASSERT_NE(record, nullptr) << spec.name;
    if (!spec.is_linear) {
      EXPECT_EQ(record->kind, "dense");
      scaled += record->method_applied == "scale";
      continue;
    }
    EXPECT_EQ(record->kind, "quantized");
    EXPECT_EQ(record->scheme, job.schemes[0] ? "" : checked(QuantScheme::parse("int3-g32-asym")).text());
    EXPECT_EQ(record->shape, (std::vector<int64_t>{spec.out(), spec.in()}));
    EXPECT_EQ(record->method_asked, "awq+gptq");
    EXPECT_EQ(record->method_applied, "awq+gptq");
    EXPECT_EQ(record->fallback, "");
    EXPECT_GT(*record->relative_error, 0.0);
    EXPECT_GT(*record->max_error, 0.0);
    EXPECT_GT(*record->bits_per_weight, 3.0);
    ASSERT_TRUE(record->clipped_share);
    EXPECT_GE(*record->clipped_share, 0.0);
    EXPECT_LT(*record->clipped_share, 0.5);
    EXPECT_EQ(extra(outcome, spec.name, "tokens")->as_int(), 128);
    EXPECT_GT(extra(outcome, spec.name, "output_error")->as_double(), 0.0);
    EXPECT_LE(extra(outcome, spec.name, "output_error")->as_double(),
              extra(outcome, spec.name, "rtn_output_error")->as_double() * (1.0 + 1e-9));
    EXPECT_EQ(extra(outcome, spec.name, "damping")->as_double(), 0.01);
    EXPECT_EQ(extra(outcome, spec.name, "damping_retries")->as_int(), 0);
    EXPECT_EQ(extra(outcome, spec.name, "dead_columns")->as_int(), 0);
    EXPECT_GT(extra(outcome, spec.name, "loss")->as_double(), 0.0);
    const Json* search = extra(outcome, spec.name, "scale_search");
    ASSERT_NE(search, nullptr);
    EXPECT_EQ(search->find("kind")->as_string(), "awq");
    EXPECT_LE(search->find("loss_ratio")->as_double(), 1.0);
    EXPECT_THAT(extra(outcome, spec.name, "activation")->as_string(), HasSubstr("per token"));
    EXPECT_EQ(matrix(outcome, spec.name).activation->mode, ActivationQuant::Mode::dynamic_token);
  }
  EXPECT_GT(scaled, 0) << "norms that carry scales";
}

TEST_F(Calibrated, SmoothingRecordsItsAlphaAndWhatItSkips) {
  QuantizeJob job = test::tiny_job(test::tiny_model(test::kTinyGpt2), "smoothquant+rtn", "int8");
  job.options.smooth_alpha = 0.6;
  const JobOutcome outcome = done(job);
  const Json* search = extra(outcome, "transformer.h.0.attn.c_attn.weight", "scale_search");
  EXPECT_EQ(search->find("kind")->as_string(), "smoothquant");
  EXPECT_EQ(search->find("alpha")->as_double(), 0.6);
  EXPECT_THAT(
      extra(outcome, "transformer.h.0.mlp.c_proj.weight", "scale_search")->find("skipped")->as_string(),
      HasSubstr("homogeneous"));
}

// A scale search followed by rounding so fine that nothing else shows: the model is the one it was.
TEST_F(Calibrated, ScalesAloneKeepTheModel) {
  for (const char* config : {test::kTinyLlama, test::kTinyGpt2}) {
    for (const char* method : {"awq", "smoothquant"}) {
      const auto source = test::tiny_model(config);
      QuantizeJob job = test::tiny_job(source, method, "int8-sf32");
      const auto edited = std::make_shared<EditedSource>(source);
      auto model = checked(Model::open(edited, Device::cpu()));
      CalibratedStep step(job.model, job.schemes, job.options);
      // Surveys that favour some channels strongly.
      for (int block = 0; block < int(model->config().block_count()); ++block) {
        checked(model->load_block(block));
        BlockEdit edit(*model, *edited, block);
        std::map<Site, SiteStatistics> survey;
        for (const Site site : {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out}) {
          SiteStatistics& s = survey[site];
          s.channels = model->site_channels(block, site), s.tokens = 100, s.samples = 1;
          s.second_moment = test::scaled_identity(s.channels, 100.0f);
          for (int64_t j = 0; j < s.channels; ++j) {
            const float loud = j % 5 == 0 ? 16.0f : 1.0f;
            s.second_moment.mutable_data<float>()[j * s.channels + j] *= loud * loud;
            s.abs_max.push_back(3.0f * loud);
            s.abs_sum.push_back(80.0 * double(loud));
          }
        }
        checked(step.edit(edit, survey));
      }
      std::vector<int32_t> ids;
      for (int32_t i = 0; i < 20; ++i) ids.push_back(i * 7 % 40);
      const Tensor tokens = test::tensor_of(ids, Device::cpu());
      auto before = checked(Model::open(source, Device::cpu())),
           after = checked(Model::open(edited, Device::cpu()));
      int changed = 0;
      for (const TensorSpec& spec : job.model.tensors) changed += edited->is_edited(spec.name);
      EXPECT_GT(changed, 8) << method;
      EXPECT_LE(test::relative_error(test::walk(*after, tokens, {.tokens_per_sequence = 20}).logits,
                                     test::walk(*before, tokens, {.tokens_per_sequence = 20}).logits),
                1e-5)
          << method;
    }
  }
}

// Static scales are those of the observer on what the compressed model feeds each site.
TEST_F(Calibrated, StaticActivationsUseTheObserver) {
  for (const RangeObserver observer :
       {RangeObserver::min_max, RangeObserver::percentile, RangeObserver::mse}) {
    QuantizeJob job = test::tiny_job(test::tiny_model(test::kTinyLlama), "rtn", "int8");
    job.options.activations = ActivationQuant::Mode::static_tensor;
    job.options.activation_range.observer = observer;
    const JobOutcome outcome = done(job);
    // Block 0 attn.in sees the original model.
    PipelineOptions options;
    options.spill_folder = test::memory_folder();
    const auto pipeline = checked(
        BlockPipeline::create(std::make_shared<EditedSource>(job.source), job.source, job.windows, options));
    checked(pipeline->embed());
    std::map<Site, SiteStatistics> seen;
    checked(pipeline->observe_block(
        0, [&](Site) { return statistics_needed(observer); }, seen));
    const ActivationRange range =
        checked(activation_range(seen.at(Site::attention_in), job.options.activation_range));
    for (const char* part : {"q_proj", "k_proj", "v_proj"}) {
      const auto& activation =
          matrix(outcome, std::string("model.layers.0.self_attn.") + part + ".weight").activation;
      ASSERT_TRUE(activation);
      EXPECT_EQ(activation->mode, ActivationQuant::Mode::static_tensor);
      EXPECT_EQ(activation->scale, fit_activation_grid(range, 8, true).scale);
    }
    if (observer == RangeObserver::min_max) {
      EXPECT_EQ(
          matrix(outcome, "model.layers.0.self_attn.q_proj.weight").activation->scale,
          float(std::max(-double(seen.at(Site::attention_in).low), double(seen.at(Site::attention_in).high)) /
                127.0));
    }
  }
}

TEST_F(Calibrated, ImportanceLowersTheErrorOfWhatIsSeen) {
  const auto source = test::tiny_model(test::kTinyLlama);
  // Channels of different loudness, so that weights matter differently.
  Tensor norm = source->dense("model.layers.1.post_attention_layernorm.weight");
  for (int64_t j = 0; j < 24; ++j) norm.mutable_data<float>()[j] = j % 3 == 0 ? 8.0f : 0.2f;
  const JobOutcome plain = done(test::tiny_job(source, "rtn", "int3-g32")),
                   weighted = done(test::tiny_job(source, "rtn+importance", "int3-g32")),
                   gptq = done(test::tiny_job(source, "gptq", "int3-g32"));
  const auto error = [&](const JobOutcome& outcome) {
    return extra(outcome, kUp, "output_error")->as_double();
  };
  EXPECT_LT(error(weighted), 0.9 * error(plain));
  EXPECT_LT(error(gptq), error(weighted));
  EXPECT_EQ(weighted.record(kUp)->method_applied, "rtn+importance");
}

TEST_F(Calibrated, SameBytesForThreadsAndCeilings) {
  std::vector<JobOutcome> outcomes;
  for (const auto& [threads, limit] :
       {std::pair<int, uint64_t>{1, uint64_t(1) << 40}, {2, uint64_t(1) << 40}, {2, 0}}) {
    set_thread_count(threads);
    QuantizeJob job = test::tiny_job(test::tiny_model(test::kTinyLlama), "awq+gptq", "int4-g32");
    job.options.match_original = true;
    job.memory_limit = limit;
    outcomes.push_back(done(job));
  }
  for (const auto& [name, weight] : outcomes[0].sink.weights)
    for (const JobOutcome& other : outcomes) {
      if (weight.is_quantized()) {
        EXPECT_TRUE(test::same_matrix(*weight.quantized(), matrix(other, name))) << name;
      } else {
        EXPECT_TRUE(test::same_bytes(weight.dense(), other.sink.weights.at(name).dense())) << name;
      }
    }
}

// --- matched weights
// -------------------------------------------------------------------------------------------

// sum over tokens of a b^T for inputs [tokens, n].
Tensor products(const std::vector<double>& a, const std::vector<double>& b, int64_t n) {
  Tensor result = test::scaled_identity(n, 0.0f);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0.0;
      for (size_t t = 0; t < a.size() / size_t(n); ++t)
        sum += a[t * size_t(n) + size_t(i)] * b[t * size_t(n) + size_t(j)];
      result.mutable_data<float>()[i * n + j] = float(sum);
    }
  return result;
}

double output_distance(const std::vector<double>& xo, const Tensor& w, const std::vector<double>& x,
                       const Tensor& v) {
  const int64_t out = w.size(0), in = w.size(1);
  double total = 0.0;
  for (size_t t = 0; t < x.size() / size_t(in); ++t)
    for (int64_t r = 0; r < out; ++r) {
      double difference = 0.0;
      for (int64_t j = 0; j < in; ++j)
        difference += xo[t * size_t(in) + size_t(j)] * double(w.data<float>()[r * in + j]) -
                      x[t * size_t(in) + size_t(j)] * double(v.data<float>()[r * in + j]);
      total += difference * difference;
    }
  return total;
}

TEST_F(Calibrated, MatchedWeightsBringOutputsCloser) {
  constexpr int64_t kIn = 16, kTokens = 200;
  const Random random(12, RandomPurpose::test_data, "match");
  std::vector<double> original, compressed;
  for (uint64_t i = 0; i < uint64_t(kIn * kTokens); ++i) {
    original.push_back(double(random.normal(i)));
    compressed.push_back(0.5 * original.back() + 0.3 * double(random.normal(i, 1)));
  }
  const Tensor weight = test::random_weight(8, kIn, 9);
  const Tensor moment = products(compressed, compressed, kIn), cross = products(original, compressed, kIn);
  const auto factor = [](const Tensor& h, double damping) {
    return checked(factor_hessian(h, {.damping = damping, .act_order = false}, "h"));
  };
  // Equal streams: nothing to correct.
  const Tensor same = checked(matched_weight(weight, moment, moment, factor(moment, 0.05)));
  EXPECT_LE(test::relative_error(same, weight), 1e-6);
  const double before = output_distance(original, weight, compressed, weight);
  double last = before;
  for (const double damping : {10.0, 0.05, 1e-6}) {
    const Tensor matched = checked(matched_weight(weight, cross, moment, factor(moment, damping)));
    const double after = output_distance(original, weight, compressed, matched);
    EXPECT_LT(after, last) << damping;
    last = after;
  }
  EXPECT_LT(last, 0.85 * before);
  // Without damping it is the least-squares solution: no small change improves it.
  Tensor best = checked(matched_weight(weight, cross, moment, factor(moment, 1e-6)));
  for (const int64_t index : {0, 37, 127}) {
    for (const float step : {-1e-3f, 1e-3f}) {
      const float kept = best.data<float>()[index];
      best.mutable_data<float>()[index] = kept + step;
      EXPECT_GT(output_distance(original, weight, compressed, best), last);
      best.mutable_data<float>()[index] = kept;
    }
  }
}

}  // namespace
}  // namespace pare
