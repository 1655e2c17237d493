// Laws of the decoder that need no reference: caches, batches and block-by-block walks change nothing.
#include "engine/models/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/backends.h"
#include "tests/support/compare.h"
#include "tests/support/tiny_model.h"

namespace pare {
namespace {

using test::checked;

// Another order of summation, nothing else.
constexpr double kRounding = 2e-6;
constexpr int64_t kTokens = 11;

const char* const kConfigs[] = {
    test::kTinyLlama,
    test::kTinyGpt2,
    R"({"architectures": ["LlamaForCausalLM"], "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 16, "attention_bias": true,
        "mlp_bias": true, "tie_word_embeddings": true, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}})",
    R"({"architectures": ["MistralForCausalLM"], "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 4})",
    R"({"architectures": ["Qwen2ForCausalLM"], "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 3,
        "use_sliding_window": true, "max_window_layers": 1})",
    R"({"architectures": ["Qwen3ForCausalLM"], "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10})",
    R"({"architectures": ["GPT2LMHeadModel"], "vocab_size": 40, "n_embd": 24, "n_layer": 3, "n_head": 2, "n_positions": 16,
        "scale_attn_by_inverse_layer_idx": true, "tie_word_embeddings": false, "activation_function": "gelu"})",
    test::kTinyMixtral,
};

class Laws : public ::testing::TestWithParam<std::tuple<int, test::Arithmetic>> {
 protected:
  void SetUp() override {
    device_ = test::use(std::get<1>(GetParam()));
    source_ = test::tiny_model(kConfigs[std::get<0>(GetParam())]);
    model_ = checked(Model::open(source_, device_));
    for (int64_t i = 0; i < 3 * kTokens; ++i) ids_.push_back(int32_t((i * 17 + 5) % 40));
  }

  Tensor ids(size_t begin, size_t end) const {
    return test::tensor_of(std::span(ids_).subspan(begin, end - begin), device_);
  }

  Device device_;
  std::shared_ptr<test::MemorySource> source_;
  std::unique_ptr<Model> model_;
  std::vector<int32_t> ids_;
};

TEST_P(Laws, BatchEqualsSingleSequences) {
  checked(model_->load_all());
  const test::Trace all =
      test::walk(*model_, ids(0, 3 * kTokens), {.sequences = 3, .tokens_per_sequence = kTokens});
  for (int64_t s = 0; s < 3; ++s) {
    const test::Trace one = test::walk(*model_, ids(size_t(s * kTokens), size_t((s + 1) * kTokens)),
                                       {.tokens_per_sequence = kTokens});
    EXPECT_LE(
        test::relative_error(one.logits,
                             checked(converted(all.logits.rows(s * kTokens, (s + 1) * kTokens), DType::f32))),
        kRounding);
    EXPECT_EQ(one.workspace_capacity, one.workspace_peak);
  }
}

TEST_P(Laws, StepByStepWithCacheEqualsWhole) {
  checked(model_->load_all());
  const test::Trace whole = test::walk(*model_, ids(0, kTokens), {.tokens_per_sequence = kTokens});
  for (const std::vector<int64_t>& cut :
       {std::vector<int64_t>{kTokens}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {4, 1, 6}}) {
    std::vector<BlockCache> caches = test::make_caches(model_->config(), 1, kTokens + 3, device_);
    int64_t done = 0;
    for (const int64_t count : cut) {
      const test::Trace part = test::walk(*model_, ids(size_t(done), size_t(done + count)),
                                          {.tokens_per_sequence = count, .first_position = done}, caches);
      EXPECT_LE(test::relative_error(part.logits, whole.logits.rows(done, done + count)), kRounding) << done;
      done += count;
    }
  }
}

TEST_P(Laws, CachedBatchEqualsWhole) {
  checked(model_->load_all());
  const test::Trace whole =
      test::walk(*model_, ids(0, 2 * kTokens), {.sequences = 2, .tokens_per_sequence = kTokens});
  std::vector<BlockCache> caches = test::make_caches(model_->config(), 2, kTokens, device_);
  const test::Trace cached =
      test::walk(*model_, ids(0, 2 * kTokens), {.sequences = 2, .tokens_per_sequence = kTokens}, caches);
  EXPECT_LE(test::relative_error(cached.logits, whole.logits), kRounding);
}

TEST_P(Laws, BlockByBlockEqualsLoadedWhole) {
  const Batch batch{.sequences = 2, .tokens_per_sequence = kTokens};
  const test::Trace walked = test::walk(*model_, ids(0, 2 * kTokens), batch);
  EXPECT_FALSE(model_->block_loaded(0));
  EXPECT_EQ(walked.workspace_capacity, walked.workspace_peak) << "planned before loading";
  auto loaded = checked(Model::open(source_, device_));
  checked(loaded->load_all());
  EXPECT_GT(loaded->loaded_bytes(), model_->loaded_bytes());
  const test::Trace whole = test::walk(*loaded, ids(0, 2 * kTokens), batch);
  EXPECT_EQ(test::relative_error(walked.logits, whole.logits), 0.0);
}

TEST_P(Laws, DroppedPartsComeBack) {
  checked(model_->load_all());
  const uint64_t bytes = model_->loaded_bytes();
  model_->drop_embedding();
  model_->drop_head();
  for (int i = 0; i < int(model_->config().block_count()); ++i) model_->drop_block(i);
  EXPECT_EQ(model_->loaded_bytes(), 0u);
  checked(model_->load_all());
  EXPECT_EQ(model_->loaded_bytes(), bytes);
  if (!model_->config().tied_head) return;
  model_->drop_embedding();  // the head still needs it
  EXPECT_EQ(model_->loaded_bytes(), bytes);
  model_->drop_head();
  model_->drop_block(0);
  checked(model_->load_head());
  EXPECT_LT(model_->loaded_bytes(), bytes);
}

// Every matrix as codes (Conv1D ones turned, a tied embedding used both ways) against the same values as
// floats.
TEST_P(Laws, QuantizedEqualsItsDequantizedForm) {
  auto quantized = std::make_shared<test::MemorySource>(source_->config_text());
  auto dense = std::make_shared<test::MemorySource>(source_->config_text());
  for (const TensorSpec& spec : model_->description().tensors) {
    const Tensor& values = source_->dense(spec.name);
    if (values.shape().rank() != 2) {
      quantized->add(spec.name, values);
      dense->add(spec.name, values);
      continue;
    }
    QuantizedTensor codes = test::int8_of(spec.transposed ? checked(transposed(values)) : values);
    const Tensor back = checked(codes.dequantize());
    dense->add(spec.name, spec.transposed ? checked(transposed(back)) : back);
    quantized->add(spec.name, std::move(codes), spec.transposed);
  }
  const Batch batch{.sequences = 2, .tokens_per_sequence = kTokens};
  auto with_codes = checked(Model::open(quantized, device_));
  auto with_floats = checked(Model::open(dense, device_));
  const test::Trace walked = test::walk(*with_codes, ids(0, 2 * kTokens), batch);  // planned before loading
  EXPECT_EQ(walked.workspace_capacity, walked.workspace_peak);
  const test::Trace want = test::walk(*with_floats, ids(0, 2 * kTokens), batch);
  EXPECT_LE(test::relative_error(walked.logits, want.logits), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Configs, Laws,
                         ::testing::Combine(::testing::Range(0, int(std::size(kConfigs))),
                                            ::testing::ValuesIn(test::arithmetics_of_this_host())),
                         [](const auto& info) {
                           return std::to_string(std::get<0>(info.param)) + "_" +
                                  test::test_name(std::get<1>(info.param).name);
                         });

TEST(ModelErrors, IdsAndPositions) {
  const Device device = test::use(test::arithmetics_of_this_host().front());
  auto model = checked(Model::open(test::tiny_model(test::kTinyGpt2), device));
  checked(model->load_all());
  Workspace workspace = checked(Workspace::reserve(1 << 20, device));
  Tensor hidden = checked(Tensor::allocate(DType::f32, {33, 24}, device));
  std::vector<int32_t> ids(33, 1);
  const Status beyond =
      model->embed(test::tensor_of(ids, device), {.tokens_per_sequence = 33}, hidden, workspace);
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().exit, Exit::usage);
  EXPECT_EQ(beyond.error().limit, "32");
  for (const int32_t bad : {-1, 40}) {
    std::vector<int32_t> wrong{1, bad};
    Tensor two = hidden.rows(0, 2);
    const Status status =
        model->embed(test::tensor_of(wrong, device), {.tokens_per_sequence = 2}, two, workspace);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().exit, Exit::malformed);
    EXPECT_EQ(status.error().where, "token 1");
  }
}

TEST(ModelErrors, UnknownDeviceIsRefused) {
  const auto model = Model::open(test::tiny_model(test::kTinyLlama), Device::cuda(0));
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().exit, Exit::unsupported);
}

}  // namespace
}  // namespace pare
