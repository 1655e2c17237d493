// Experts of a mixture: their scores by formula, and that removing one is masking it.
#include "prune/structured/experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/parallel.h"
#include "prune/structured/targets.h"
#include "tests/prune/structured/tiny_structured.h"

namespace pare {
namespace {

using test::checked;
using test::StructuredRun;
using testing::HasSubstr;

constexpr int64_t kExperts = 5, kHidden = 24;

std::string router_of(int layer) {
  return "model.layers." + std::to_string(layer) + ".block_sparse_moe.gate.weight";
}

std::string part_of(int layer, int expert, const char* part) {
  return "model.layers." + std::to_string(layer) + ".block_sparse_moe.experts." + std::to_string(expert) +
         "." + part + ".weight";
}

Tensor copy_of(const Tensor& values) {
  Tensor copy = checked(Tensor::allocate(DType::f32, values.shape()));
  std::memcpy(copy.mutable_raw(), values.raw(), copy.size_bytes());
  return copy;
}

// A mixture whose first hidden channel is the same positive number for every token at every place, so that a
// router can be made to never choose an expert.
std::shared_ptr<test::MemorySource> model_with_constant() {
  auto source = test::tiny_model(test::kTinyMixtral);
  const auto edit = [&](const std::string& name, auto change) {
    Tensor values = copy_of(source->dense(name));
    change(values);
    source->add(name, values);
  };
  const auto clear_row = [](Tensor& values) {
    std::fill_n(values.mutable_data<float>(), values.size(1), 0.0f);
  };
  edit("model.embed_tokens.weight", [](Tensor& table) {
    for (int64_t id = 0; id < table.size(0); ++id) table.mutable_data<float>()[id * kHidden] = 0.2f;
  });
  for (int layer = 0; layer < 2; ++layer) {
    edit("model.layers." + std::to_string(layer) + ".self_attn.o_proj.weight", clear_row);
    for (int e = 0; e < int(kExperts); ++e) edit(part_of(layer, e, "w2"), clear_row);
  }
  return source;
}

// Router rows that give a logit far below all others.
void mask(test::MemorySource& source, int layer, const std::vector<int64_t>& experts) {
  Tensor router = copy_of(source.dense(router_of(layer)));
  for (const int64_t e : experts) {
    float* row = router.mutable_data<float>() + e * kHidden;
    std::fill_n(row, kHidden, 0.0f);
    row[0] = -1e4f;
  }
  source.add(router_of(layer), router);
}

StructuredJob expert_job(std::shared_ptr<const WeightSource> source, int64_t keep, UnitScore score) {
  StructuredJob job = test::structured_job(std::move(source));
  job.options.sizes.experts = keep;
  job.options.expert_score = score;
  return job;
}

class ExpertPruning : public ::testing::Test {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }
  void TearDown() override { set_thread_count(0); }
};

TEST_F(ExpertPruning, NothingRemovedIsByteIdentical) {
  const auto source = test::tiny_model(test::kTinyMixtral);
  StructuredJob job = expert_job(source, kExperts, UnitScore::activation);
  const StructuredRun run(job);
  ASSERT_FALSE(run.error) << format_error(*run.error);
  EXPECT_EQ(test::bytes_of(*run.model), test::bytes_of(*source));
  EXPECT_EQ(run.model->config_text(), source->config_text());
}

TEST_F(ExpertPruning, RemovingEqualsMaskingBitForBit) {
  for (const UnitScore score : {UnitScore::weight, UnitScore::activation}) {
    for (const int64_t keep : {4, 2}) {
      const auto source = model_with_constant();
      StructuredJob job = expert_job(source, keep, score);
      const StructuredRun run(job);
      ASSERT_FALSE(run.error) << format_error(*run.error);
      const ModelConfig config = checked(describe_model(*run.model)).config;
      EXPECT_EQ(config.blocks[0].experts, keep);
      EXPECT_EQ(config.blocks[0].experts_per_token, 2);
      EXPECT_EQ(run.model->config().find("num_local_experts")->as_int(), keep);
      const Json summary = checked(structured_summary(job, *run.folder));
      const Json& layers = *summary.find("choices")->find("experts");
      ASSERT_EQ(layers.size(), 2u);
      for (int layer = 0; layer < 2; ++layer) {
        std::vector<double> scores;
        for (const Json& value : layers[size_t(layer)].find("scores")->items())
          scores.push_back(value.as_double());
        // The lowest go, the same number in every layer; those that stay keep their order and their bytes.
        std::vector<int64_t> order = all_units(kExperts);
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t a, int64_t b) { return scores[size_t(a)] < scores[size_t(b)]; });
        std::vector<int64_t> gone(order.begin(), order.begin() + (kExperts - keep));
        std::vector<int64_t> kept(order.begin() + (kExperts - keep), order.end());
        std::sort(kept.begin(), kept.end());
        for (size_t e = 0; e < kept.size(); ++e) {
          for (const char* part : {"w1", "w2", "w3"}) {
            const Tensor& before = source->dense(part_of(layer, int(kept[e]), part));
            const Tensor after = checked(run.model->load(part_of(layer, int(e), part))).dense();
            EXPECT_EQ(std::memcmp(after.raw(), before.raw(), before.size_bytes()), 0);
          }
        }
        mask(*source, layer, gone);
      }
      const Tensor masked = test::logits_of(source), cut = test::logits_of(run.model);
      EXPECT_EQ(std::memcmp(masked.raw(), cut.raw(), cut.size_bytes()), 0) << unit_score_name(score) << keep;
    }
  }
}

// An expert that no token chooses scores 0, is reported, goes first, and is not missed.
TEST_F(ExpertPruning, UnusedExpertsGoFirst) {
  const auto source = model_with_constant();
  mask(*source, 0, {3});
  mask(*source, 1, {0});
  StructuredJob job = expert_job(source, 4, UnitScore::activation);
  const StructuredRun run(job);
  ASSERT_FALSE(run.error) << format_error(*run.error);
  const Json summary = checked(structured_summary(job, *run.folder));
  const Json& layers = *summary.find("choices")->find("experts");
  for (int layer = 0; layer < 2; ++layer) {
    const Json& unused = *layers[size_t(layer)].find("unused");
    ASSERT_EQ(unused.size(), 1u);
    const size_t e = size_t(unused[0].as_int());
    EXPECT_EQ(e, layer == 0 ? 3u : 0u);
    EXPECT_EQ((*layers[size_t(layer)].find("scores"))[e].as_double(), 0.0);
  }
  const Tensor before = test::logits_of(source), after = test::logits_of(run.model);
  EXPECT_EQ(std::memcmp(before.raw(), after.raw(), after.size_bytes()), 0);
}

std::vector<double> product(const Tensor& matrix, const std::vector<double>& x) {
  std::vector<double> y;
  for (int64_t row = 0; row < matrix.size(0); ++row) {
    double sum = 0.0;
    for (size_t i = 0; i < x.size(); ++i)
      sum += double(matrix.data<float>()[row * matrix.size(1) + int64_t(i)]) * x[i];
    y.push_back(sum);
  }
  return y;
}

// S_e by its formula, in double, from what the experts of each layer get.
TEST_F(ExpertPruning, ScoresEqualTheFormula) {
  const auto source = test::tiny_model(test::kTinyMixtral);
  const StructuredJob job = test::structured_job(source);
  PipelineOptions options;
  options.memory_limit = uint64_t(1) << 34;
  set_thread_count(1);
  const auto got = checked(score_experts(source, job.model, UnitScore::activation, job.windows, options));
  set_thread_count(3);
  const auto again = checked(score_experts(source, job.model, UnitScore::activation, job.windows, options));
  const auto weights = checked(score_experts(source, job.model, UnitScore::weight, {}, options));
  auto model = checked(Model::open(source, Device::cpu()));
  checked(model->load_all());
  checked(model->reserve_positions(job.windows.context));
  const Batch batch{.sequences = job.windows.samples, .tokens_per_sequence = job.windows.context};
  Workspace workspace = checked(Workspace::reserve(model->workspace_bytes(batch, 1), Device::cpu()));
  Tensor hidden = checked(Tensor::allocate(DType::f32, {batch.tokens(), kHidden}));
  checked(model->embed(test::tensor_of(job.windows.ids, Device::cpu()), batch, hidden, workspace));
  for (int layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(got[size_t(layer)].scores, again[size_t(layer)].scores) << "bit for bit";
    Tensor normed = checked(Tensor::allocate(DType::f32, {batch.tokens(), kHidden}));
    Tensor mixed = checked(
        Tensor::allocate(DType::f32, {batch.tokens(), model->site_channels(layer, Site::attention_out)}));
    Tensor inner =
        checked(Tensor::allocate(DType::f32, {batch.tokens(), model->site_channels(layer, Site::mlp_out)}));
    checked(model->produce(layer, Site::attention_in, batch, hidden, normed, workspace));
    checked(model->produce(layer, Site::attention_out, batch, normed, mixed, workspace));
    model->consume(layer, Site::attention_out, mixed, hidden, workspace);
    checked(model->produce(layer, Site::mlp_in, batch, hidden, normed, workspace));
    checked(model->produce(layer, Site::mlp_out, batch, normed, inner, workspace));
    model->consume(layer, Site::mlp_out, inner, hidden, workspace);

    std::vector<double> sums(kExperts, 0.0);
    std::vector<int64_t> tokens(kExperts, 0);
    for (int64_t row = 0; row < batch.tokens(); ++row) {
      const float* values = normed.data<float>() + row * kHidden;
      const std::vector<double> x(values, values + kHidden);
      const std::vector<double> scores = product(source->dense(router_of(layer)), x);
      std::vector<int64_t> order = all_units(kExperts);
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t a, int64_t b) { return scores[size_t(a)] > scores[size_t(b)]; });
      const double first = std::exp(scores[size_t(order[0])]), second = std::exp(scores[size_t(order[1])]);
      for (const int64_t e : {order[0], order[1]}) {
        std::vector<double> gate = product(source->dense(part_of(layer, int(e), "w1")), x);
        const std::vector<double> up = product(source->dense(part_of(layer, int(e), "w3")), x);
        for (size_t i = 0; i < gate.size(); ++i) gate[i] = gate[i] / (1.0 + std::exp(-gate[i])) * up[i];
        double squares = 0.0;
        for (const double value : product(source->dense(part_of(layer, int(e), "w2")), gate))
          squares += value * value;
        sums[size_t(e)] += (e == order[0] ? first : second) / (first + second) * std::sqrt(squares);
        ++tokens[size_t(e)];
      }
    }
    EXPECT_EQ(got[size_t(layer)].tokens, tokens);
    for (size_t e = 0; e < size_t(kExperts); ++e) {
      ASSERT_GT(tokens[e], 0);
      const double want = sums[e] / double(tokens[e]);
      EXPECT_NEAR(got[size_t(layer)].scores[e], want, 1e-5 * want) << "layer " << layer << " expert " << e;
      double squares = 0.0;
      for (const char* part : {"w1", "w2", "w3"}) {
        const Tensor& w = source->dense(part_of(layer, int(e), part));
        for (int64_t i = 0; i < w.numel(); ++i)
          squares += double(w.data<float>()[i]) * double(w.data<float>()[i]);
      }
      const float* row = source->dense(router_of(layer)).data<float>() + int64_t(e) * kHidden;
      for (int64_t i = 0; i < kHidden; ++i) squares += double(row[i]) * double(row[i]);
      EXPECT_NEAR(weights[size_t(layer)].scores[e], std::sqrt(squares), 1e-9);
    }
    EXPECT_TRUE(weights[size_t(layer)].tokens.empty());
  }
}

TEST_F(ExpertPruning, GoesWithDroppedLayers) {
  const auto source = test::tiny_model(test::kTinyMixtral);
  StructuredJob job = expert_job(source, 3, UnitScore::activation);
  job.options.sizes.layers = 1;
  job.options.layer_score = UnitScore::influence;
  const StructuredRun run(job);
  ASSERT_FALSE(run.error) << format_error(*run.error);
  const ModelDescription cut = checked(describe_model(*run.model));
  ASSERT_EQ(cut.config.block_count(), 1);
  EXPECT_EQ(cut.config.blocks[0].experts, 3);
  EXPECT_EQ(test::logits_of(run.model).numel(), 2 * 12 * 40);
  // The same choices come back from the job's folder.
  const std::map<std::string, std::string> bytes = test::bytes_of(*run.model);
  EXPECT_EQ(test::bytes_of(*checked(structured_model(job, *run.folder))), bytes);
}

TEST_F(ExpertPruning, SizesOfAShare) {
  const ModelDescription model = checked(describe_model(*test::tiny_model(test::kTinyMixtral)));
  const LinearTime unit = [](int64_t out, int64_t in) -> Result<double> { return double(out * in); };
  TargetRequest request;
  request.structures = {Structure::experts};
  const auto plan = [&] { return plan_shape(*model.architecture, model.config, request, unit); };
  request.sparsity = 0.4;
  EXPECT_EQ(checked(plan()).experts, 3);
  request.sparsity = 0.59;  // floor(2.95) go
  EXPECT_EQ(checked(plan()).experts, 3);
  request.sparsity = 0.8;
  const auto few = plan();
  ASSERT_FALSE(few);
  EXPECT_EQ(few.error().exit, Exit::usage);
  EXPECT_THAT(few.error().what, HasSubstr("fewer experts than every token takes"));
  request.sparsity = 0.1;  // removes none
  EXPECT_FALSE(plan());
  request.sparsity.reset();
  request.experts = 1;
  EXPECT_FALSE(plan());
  request.experts = 2;
  EXPECT_EQ(checked(plan()).experts, 2);
  request.experts.reset();
  // As many as fit into so many parameters.
  ModelShape three = checked(shape_of(model.config, "m"));
  three.experts = 3;
  const ModelCost cost = cost_of(*model.architecture, resized(model.config, three));
  request.parameters = cost.parameters;
  EXPECT_EQ(checked(plan()).experts, 3);
  // A token takes two experts whatever their number, so that removing some saves it nothing.
  EXPECT_EQ(cost.linear_weights, cost_of(*model.architecture, model.config).linear_weights);
}

TEST_F(ExpertPruning, WhatIsNotMappedIsRefused) {
  const auto mixture = test::tiny_model(test::kTinyMixtral);
  const ModelDescription model = checked(describe_model(*mixture));
  for (const Structure structure : {Structure::mlp, Structure::hidden, Structure::heads}) {
    const Status refused = check_structures(*mixture, model, std::vector{structure});
    ASSERT_FALSE(refused) << structure_name(structure);
    EXPECT_EQ(refused.error().exit, Exit::unsupported);
  }
  for (const Structure structure : {Structure::experts, Structure::layers, Structure::vocabulary})
    EXPECT_TRUE(check_structures(*mixture, model, std::vector{structure})) << structure_name(structure);
  const auto dense = test::tiny_model(test::kTinyLlama);
  const Status none =
      check_structures(*dense, checked(describe_model(*dense)), std::vector{Structure::experts});
  ASSERT_FALSE(none);
  EXPECT_THAT(none.error().what, HasSubstr("has no experts"));
  StructuredJob job = expert_job(mixture, 3, UnitScore::eigen);
  const StructuredRun run(job);
  ASSERT_TRUE(run.error);
  EXPECT_EQ(run.error->exit, Exit::unsupported);
  job = expert_job(mixture, 3, UnitScore::activation);
  job.windows = {};
  const StructuredRun without(job);
  ASSERT_TRUE(without.error);
  EXPECT_EQ(without.error->exit, Exit::usage);
}

}  // namespace
}  // namespace pare
