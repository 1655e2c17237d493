// The backward pass against PyTorch: the gradient of every tensor of tiny random models of each enabled
// family, on the reference backend and on every level of the cpu backend, with blocks kept and run again; and
// forms of training.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "engine/core/parallel.h"
#include "engine/models/block.h"
#include "engine/models/training_model.h"
#include "engine/tensor/training_ops.h"
#include "tests/support/backends.h"
#include "tests/support/compare.h"
#include "tests/support/memory_source.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"
#include "tests/support/walk.h"

namespace pare {
namespace {

using test::Arithmetic;
using test::checked;

constexpr double kTolerance = 1e-4;  // relative to the largest element of the tensor
constexpr double kNoise = 1e-7;      // of gradients that are zero in theory

// Forward, mean cross-entropy of the next token, backward. Returns the loss.
double train_once(TrainingModel& model, const std::vector<int32_t>& ids, const Batch& batch,
                  bool keeps_blocks, const BackwardHooks& hooks = {}) {
  const int64_t tokens = batch.tokens(), hidden = model.config().hidden_size,
                vocabulary = model.config().vocabulary_size;
  const Device device = model.device();
  model.set_head_bytes(Workspace::bytes_for(DType::f32, {tokens, hidden}) +
                       model.head().workspace_bytes(tokens) + model.head().backward_workspace_bytes(tokens) +
                       Norm::backward_workspace_bytes(tokens));
  checked(model.reserve(batch, keeps_blocks));
  std::vector<int32_t> targets(size_t(tokens), -1);
  int64_t counted = 0;
  for (int64_t i = 0; i < tokens; ++i) {
    if (i % batch.tokens_per_sequence == batch.tokens_per_sequence - 1) continue;
    targets[size_t(i)] = ids[size_t(i + 1)];
    ++counted;
  }
  checked(model.forward(test::tensor_of(ids, device), batch));
  Tensor normed = checked(Tensor::allocate(DType::f32, {tokens, hidden}, device));
  Tensor logits = checked(Tensor::allocate(DType::f32, {tokens, vocabulary}, device));
  Tensor cross_entropy = checked(Tensor::allocate(DType::f64, {tokens}, device));
  Tensor divergence = checked(Tensor::allocate(DType::f64, {tokens}, device));
  model.final_norm().forward(model.output(), normed);
  model.head().multiply(normed, false, logits, model.workspace());
  ops::loss_rows(logits, Tensor(), Tensor(), Tensor(), test::tensor_of(targets, device),
                 {.real_columns = vocabulary, .gradient_scale = 1.0f / float(counted)}, cross_entropy,
                 divergence);
  double loss = 0.0;
  for (int64_t i = 0; i < tokens; ++i) loss += cross_entropy.data<double>()[i];
  Tensor dnormed = checked(Tensor::allocate(DType::f32, {tokens, hidden}, device));
  Tensor dhidden = checked(Tensor::allocate(DType::f32, {tokens, hidden}, device));
  model.head().backward(normed, logits, false, &dnormed, model.workspace());
  model.final_norm().backward(model.output(), dnormed, false, dhidden, model.workspace());
  checked(model.backward(dhidden, hooks));
  return loss / double(counted);
}

// The gradient in the layout of the checkpoint.
Tensor checkpoint_gradient(const TrainingModel& model, const Parameter& parameter) {
  const TensorSpec* spec = model.description().find(parameter.name);
  const Tensor gradient = parameter.gradient.on(Device::cpu());
  return spec != nullptr && spec->transposed ? checked(transposed(gradient)) : gradient;
}

double largest(const Tensor& x) {
  double most = 0.0;
  for (int64_t i = 0; i < x.numel(); ++i) most = std::max(most, std::abs(double(x.data<float>()[i])));
  return most;
}

class Gradients : public ::testing::TestWithParam<std::tuple<std::string, Arithmetic>> {};

TEST_P(Gradients, EqualPyTorch) {
  const auto& [name, arithmetic] = GetParam();
  PARE_SHARED_OR_SKIP(folder, name);
  const Device device = test::use(arithmetic);
  const auto expected = test::read_tensors(folder + "/expected.safetensors");
  const std::vector<int32_t> ids = test::ids_of(expected.at("input_ids"));
  const Batch batch{.sequences = expected.at("input_ids").size(0),
                    .tokens_per_sequence = expected.at("input_ids").size(1)};
  for (const bool keeps_blocks : {true, false}) {
    auto model = checked(TrainingModel::open(test::MemorySource::read(folder), device, {}));
    const double loss = train_once(*model, ids, batch, keeps_blocks);
    EXPECT_NEAR(loss, double(*expected.at("loss").data<float>()), 1e-5);
    model->finish_gradients();
    size_t compared = 0;
    for (const auto& parameter : model->parameters()) {
      const auto found = expected.find("grad." + parameter->name);
      ASSERT_NE(found, expected.end()) << parameter->name;
      const Tensor got = checkpoint_gradient(*model, *parameter);
      ASSERT_EQ(got.shape(), found->second.shape()) << parameter->name;
      const double bound = kTolerance * largest(found->second) + kNoise;
      double worst = 0.0;
      for (int64_t i = 0; i < got.numel(); ++i)
        worst =
            std::max(worst, std::abs(double(got.data<float>()[i]) - double(found->second.data<float>()[i])));
      EXPECT_LE(worst, bound) << parameter->name << ", largest " << largest(found->second);
      ++compared;
    }
    size_t wanted = 0;
    for (const auto& [key, tensor] : expected) wanted += key.starts_with("grad.");
    EXPECT_EQ(compared, wanted);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Gradients,
                         ::testing::Combine(::testing::Values("fixtures/llama", "fixtures/llama-tied",
                                                              "fixtures/llama-sharded", "fixtures/mistral",
                                                              "fixtures/mixtral", "fixtures/qwen2",
                                                              "fixtures/qwen3", "fixtures/gpt2"),
                                            ::testing::ValuesIn(test::arithmetics_of_this_host())),
                         [](const auto& info) {
                           return test::test_name(std::get<0>(info.param) + "_" +
                                                  std::get<1>(info.param).name);
                         });

std::vector<int32_t> some_ids(int64_t count) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) ids.push_back(int32_t((i * 7 + i * i * 3) % 40));
  return ids;
}

struct Gradient {
  std::string name;
  std::vector<float> values;
  bool operator==(const Gradient&) const = default;
};

std::vector<Gradient> gradients_of(TrainingModel& model) {
  model.finish_gradients();
  std::vector<Gradient> all;
  for (const auto& parameter : model.parameters()) {
    const float* values = parameter->gradient.data<float>();
    all.push_back({parameter->name, {values, values + parameter->gradient.numel()}});
  }
  return all;
}

class Forms : public ::testing::TestWithParam<const char*> {
 protected:
  const Device device_ = test::use(test::arithmetics_of_this_host().back());
  const std::vector<int32_t> ids_ = some_ids(2 * 9);
  const Batch batch_{.sequences = 2, .tokens_per_sequence = 9};
  std::vector<Gradient> run(const TrainingForm& form, bool keeps_blocks) {
    auto model = checked(TrainingModel::open(test::tiny_model(GetParam()), device_, form));
    train_once(*model, ids_, batch_, keeps_blocks);
    return gradients_of(*model);
  }
};

// Recomputing is a matter of memory only.
TEST_P(Forms, RunningBlocksAgainGivesTheSameBytes) {
  EXPECT_EQ(run({}, true), run({}, false));
  EXPECT_EQ(run({.compute = DType::bf16}, true), run({.compute = DType::bf16}, false));
}

TEST_P(Forms, ThreadsDoNotMatter) {
  const int before = thread_count();
  set_thread_count(1);
  const std::vector<Gradient> one = run({}, true);
  set_thread_count(2);
  EXPECT_EQ(one, run({}, true));
  set_thread_count(before);
}

TEST_P(Forms, GradientsAreAddedTo) {
  auto model = checked(TrainingModel::open(test::tiny_model(GetParam()), device_, {}));
  train_once(*model, ids_, batch_, true);
  const std::vector<Gradient> once = gradients_of(*model);
  train_once(*model, ids_, batch_, true);
  const std::vector<Gradient> twice = gradients_of(*model);
  for (size_t i = 0; i < once.size(); ++i) {
    for (size_t k = 0; k < once[i].values.size(); ++k)
      ASSERT_NEAR(twice[i].values[k], 2.0f * once[i].values[k], 1e-6f) << once[i].name;
  }
  model->clear_gradients();
  for (const Gradient& gradient : gradients_of(*model))
    EXPECT_TRUE(std::ranges::all_of(gradient.values, [](float v) { return v == 0.0f; })) << gradient.name;
}

TEST_P(Forms, NothingButWhatIsWantedIsTrained) {
  auto model = checked(TrainingModel::open(test::tiny_model(GetParam()), device_,
                                           {.train_embeddings = false, .train_norms = false}));
  ASSERT_FALSE(model->parameters().empty());
  for (const auto& parameter : model->parameters()) {
    EXPECT_EQ(parameter->kind, Parameter::Kind::matrix) << parameter->name;
  }
  auto all = checked(TrainingModel::open(test::tiny_model(GetParam()), device_, {}));
  train_once(*model, ids_, batch_, true);
  train_once(*all, ids_, batch_, true);
  const std::vector<Gradient> everything = gradients_of(*all);
  for (const Gradient& gradient : gradients_of(*model))
    EXPECT_NE(std::ranges::find(everything, gradient), everything.end()) << gradient.name;
}

// The factors' gradients against differences of the loss.
TEST_P(Forms, AdaptersHaveTheirGradients) {
  auto model = checked(
      TrainingModel::open(test::tiny_model(GetParam()), device_, {.lora_rank = 3, .lora_alpha = 6.0f}));
  // The left factor starts at zero, where the right one has no gradient.
  for (const auto& parameter : model->parameters()) {
    if (!parameter->name.ends_with(":left")) continue;
    const Random random(3, RandomPurpose::test_data, parameter->name);
    for (int64_t i = 0; i < parameter->value.numel(); ++i)
      parameter->value.mutable_data<float>()[i] = 0.1f * random.normal(uint64_t(i));
  }
  checked(model->refresh());
  train_once(*model, ids_, batch_, true);
  const std::vector<Gradient> gradients = gradients_of(*model);
  size_t checked_factors = 0;
  for (size_t p = 0; p < gradients.size(); ++p) {
    const auto& parameter = model->parameters()[p];
    if (parameter->kind != Parameter::Kind::adapter) continue;
    // The loss of a mixture jumps where a token changes its experts, so differences say nothing of what comes
    // before.
    if (model->config().blocks[0].is_mixture() && parameter->name.find("self_attn") != std::string::npos)
      continue;
    const auto at = std::ranges::max_element(gradients[p].values, {}, [](float v) { return std::abs(v); });
    const auto index = size_t(at - gradients[p].values.begin());
    float& value = parameter->value.mutable_data<float>()[index];
    const float saved = value, step = 1.0f / 1024.0f;  // small: routing must not change
    double loss[2];
    for (const int side : {0, 1}) {
      value = side == 0 ? saved - step : saved + step;
      checked(model->refresh());
      loss[side] = train_once(*model, ids_, batch_, true);
    }
    value = saved;
    checked(model->refresh());
    const double difference = (loss[1] - loss[0]) / (2.0 * double(step));
    EXPECT_NEAR(*at, difference, 0.02 * std::abs(difference) + 3e-4) << gradients[p].name;
    ++checked_factors;
  }
  EXPECT_GT(checked_factors, 4u);
}

// Merging gives the matrix that the factors computed.
TEST_P(Forms, AdaptersAreMerged) {
  const auto source = test::tiny_model(GetParam());
  auto model = checked(TrainingModel::open(source, device_, {.lora_rank = 2, .seed = 5}));
  for (const auto& parameter : model->parameters())
    for (int64_t i = 0; parameter->name.ends_with(":left") && i < parameter->value.numel(); ++i)
      parameter->value.mutable_data<float>()[i] = 0.01f * float(i % 7);
  checked(model->refresh());
  const double with_factors = train_once(*model, ids_, batch_, true);
  auto merged = test::tiny_model(GetParam());
  for (const TensorSpec& spec : model->description().tensors) {
    const WeightData data = checked(model->stored(spec));
    ASSERT_TRUE(data.is_dense()) << spec.name;
    merged->set(spec.name, data);
  }
  auto plain = checked(TrainingModel::open(merged, device_, {}));
  EXPECT_NEAR(train_once(*plain, ids_, batch_, true), with_factors, 1e-5);
  auto before = checked(TrainingModel::open(source, device_, {}));
  EXPECT_GT(std::abs(train_once(*before, ids_, batch_, true) - with_factors), 1e-4);
}

TEST_P(Forms, ZerosAreMasked) {
  auto source = test::tiny_model(GetParam());
  auto plain = checked(TrainingModel::open(source, device_, {.keep_zeros = true}));
  for (const auto& parameter : plain->parameters()) EXPECT_EQ(parameter->mask, nullptr);
  std::string pruned;
  for (const TensorSpec& spec : plain->description().tensors) {
    if (!spec.is_linear) continue;
    pruned = spec.name;
    Tensor values = checked(converted(source->dense(spec.name), DType::f32));
    Tensor copy = checked(Tensor::allocate(DType::f32, values.shape()));
    for (int64_t i = 0; i < values.numel(); ++i)
      copy.mutable_data<float>()[i] = i % 3 == 0 ? 0.0f : values.data<float>()[i];
    source->add(spec.name, copy);
    break;
  }
  auto masked = checked(TrainingModel::open(source, device_, {.keep_zeros = true}));
  for (const auto& parameter : masked->parameters()) {
    ASSERT_EQ(parameter->mask != nullptr, parameter->name == pruned) << parameter->name;
    if (parameter->mask == nullptr) continue;
    for (int64_t row = 0; row < parameter->value.size(0); ++row)
      for (int64_t column = 0; column < parameter->value.size(1); ++column)
        ASSERT_EQ(parameter->mask->kept(row, column),
                  parameter->value.data<float>()[row * parameter->value.size(1) + column] != 0.0f);
  }
}

// A gradient put in at a hidden state and at the parts of attention arrives at the weights before it.
TEST_P(Forms, HooksReachTheGradients) {
  auto model = checked(TrainingModel::open(test::tiny_model(GetParam()), device_, {}));
  std::vector<int> hidden_seen, attention_seen;
  const BackwardHooks looking{
      .hidden = [&](int index, Tensor&) -> Status {
        hidden_seen.push_back(index);
        return {};
      },
      .attention = [&](int index, const AttentionParts& parts, AttentionParts& gradients) -> Status {
        attention_seen.push_back(index);
        EXPECT_EQ(parts.q.shape(), gradients.q.shape());
        EXPECT_EQ(parts.k.shape(), gradients.k.shape());
        return {};
      }};
  train_once(*model, ids_, batch_, false, looking);
  const std::vector<Gradient> plain = gradients_of(*model);
  const int blocks = int(model->config().block_count());
  ASSERT_EQ(int(hidden_seen.size()), blocks + 1);
  EXPECT_EQ(hidden_seen.front(), blocks);
  EXPECT_EQ(hidden_seen.back(), 0);
  EXPECT_EQ(int(attention_seen.size()), blocks);
  model->clear_gradients();
  train_once(
      *model, ids_, batch_, false,
      {.hidden = {}, .attention = [&](int, const AttentionParts&, AttentionParts& gradients) -> Status {
         gradients.v.mutable_data<float>()[0] += 1.0f;
         return {};
       }});
  EXPECT_NE(plain, gradients_of(*model));
}

INSTANTIATE_TEST_SUITE_P(
    Tiny, Forms, ::testing::Values(test::kTinyLlama, test::kTinyGpt2, test::kTinyMixtral),
    [](const auto& info) {
      return std::string(info.index == 0 ? "llama" : info.index == 1 ? "gpt2" : "mixtral");
    });

TEST(Gradients, CodesAreRefused) {
  const Device device = test::use(test::arithmetics_of_this_host().back());
  auto source = test::tiny_model(test::kTinyLlama);
  const std::string name = "model.layers.1.mlp.down_proj.weight";
  source->add(name, test::int8_of(source->dense(name)), false);
  const auto model = TrainingModel::open(source, device, {});
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().exit, Exit::unsupported);
  EXPECT_EQ(model.error().where, name);
  // Frozen under adapters they are fine.
  EXPECT_TRUE(TrainingModel::open(source, device, {.lora_rank = 2}));
}

}  // namespace
}  // namespace pare
