// Folding scales keeps what a model computes, at every site and in every family that can fold it.
#include "quantize/fold.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backends/cpu/cpu_backend.h"
#include "tests/support/compare.h"
#include "tests/support/tiny_model.h"

namespace pare {
namespace {

using test::checked;
using testing::HasSubstr;

constexpr Batch kBatch{.sequences = 2, .tokens_per_sequence = 9};

struct Family {
  const char* name;
  const char* config;
  bool folds_mlp_out;
};
const Family kFamilies[] = {
    {"GroupedQueries", test::kTinyLlama, true},
    {"Gpt2FusedBiasesLayerNorm", test::kTinyGpt2, false},
    {"Gpt2Relu",
     R"({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 40, "n_embd": 24,
       "n_layer": 2, "n_head": 3, "n_positions": 32, "activation_function": "relu"})",
     true},
    {"MultiHeadBiases", R"({"architectures": ["LlamaForCausalLM"], "vocab_size": 40, "hidden_size": 24,
       "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
       "attention_bias": true, "mlp_bias": true, "tie_word_embeddings": true})",
     true},
    {"OneKeyHead", R"({"architectures": ["LlamaForCausalLM"], "vocab_size": 40, "hidden_size": 24,
       "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 1,
       "attention_bias": true})",
     true},
    {"QueryKeyNorms", R"({"architectures": ["Qwen3ForCausalLM"], "vocab_size": 40, "hidden_size": 24,
       "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
       "head_dim": 10})",
     true},
    {"Mixture", test::kTinyMixtral, false},
};

class Folds : public ::testing::TestWithParam<Family> {
 protected:
  void SetUp() override {
    install_backend(make_cpu_backend());
    source_ = std::make_shared<EditedSource>(test::tiny_model(GetParam().config));
    model_ = checked(Model::open(source_, Device::cpu()));
    checked(model_->load_all());
  }

  Tensor logits() const {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < kBatch.tokens(); ++i) ids.push_back(int32_t((i * 11 + 3) % 40));
    auto model = checked(Model::open(source_, Device::cpu()));
    return test::walk(*model, test::tensor_of(ids, Device::cpu()), kBatch).logits;
  }

  // Between 1/8 and 8, shared where it must be.
  std::vector<float> scale_of(Site site, int block) const {
    const Random random(5, RandomPurpose::test_data, site_name(site));
    std::vector<float> scale;
    for (int64_t j = 0; j < model_->site_channels(block, site); ++j)
      scale.push_back(std::exp2(6.0f * random.uniform(uint64_t(j)) - 3.0f));
    if (site == Site::attention_out) share_kv(model_->config().blocks[size_t(block)], scale);
    return scale;
  }

  std::shared_ptr<EditedSource> source_;
  std::unique_ptr<Model> model_;
};

TEST_P(Folds, KeepTheFunctionAtEverySite) {
  const Tensor before = logits();
  for (const Site site : {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out}) {
    BlockEdit edit(*model_, *source_, 1);
    std::string reason;
    const bool can = can_fold(edit, site, &reason);
    EXPECT_EQ(can, site != Site::mlp_out || GetParam().folds_mlp_out) << site_name(site);
    EXPECT_EQ(reason.empty(), can);
    if (!can) continue;
    const std::vector<float> scale = scale_of(site, 1);
    const TensorSpec* linear = edit.linears(site).front();
    const Tensor old = checked(edit.values(*linear));
    checked(fold_scale(edit, site, scale));
    const Tensor scaled = checked(edit.values(*linear));
    for (int64_t i = 0; i < old.numel(); ++i)
      ASSERT_EQ(scaled.data<float>()[i], old.data<float>()[i] * scale[size_t(i % old.size(1))]);
    EXPECT_LE(test::relative_error(logits(), before), 1e-5) << site_name(site);
  }
}

// What the linears get is divided by the scale.
TEST_P(Folds, DivideTheInputs) {
  Workspace workspace = checked(Workspace::reserve(model_->workspace_bytes(kBatch, 1), Device::cpu()));
  checked(model_->reserve_positions(kBatch.tokens_per_sequence));
  const Tensor hidden = test::random_normal({kBatch.tokens(), 24}, "hidden", 0.2f, 1.0f);
  for (const Site site : {Site::attention_in, Site::attention_out, Site::mlp_in, Site::mlp_out}) {
    BlockEdit edit(*model_, *source_, 0);
    if (!can_fold(edit, site)) continue;
    const bool is_normed = site == Site::attention_in || site == Site::mlp_in;
    const Site norm = site == Site::attention_out ? Site::attention_in : Site::mlp_in;
    const auto input = [&] {
      Tensor normed = checked(Tensor::allocate(DType::f32, hidden.shape()));
      Tensor x = checked(Tensor::allocate(DType::f32, {kBatch.tokens(), model_->site_channels(0, site)}));
      if (is_normed) {
        checked(model_->produce(0, site, kBatch, hidden, x, workspace));
      } else {
        checked(model_->produce(0, norm, kBatch, hidden, normed, workspace));
        checked(model_->produce(0, site, kBatch, normed, x, workspace));
      }
      return x;
    };
    const Tensor before = input();
    const std::vector<float> scale = scale_of(site, 0);
    checked(fold_scale(edit, site, scale));
    Tensor after = input();
    for (int64_t i = 0; i < after.numel(); ++i)
      after.mutable_data<float>()[i] *= scale[size_t(i % after.size(1))];
    EXPECT_LE(test::relative_error(after, before), 1e-5) << site_name(site);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, Folds, ::testing::ValuesIn(kFamilies),
                         [](const auto& info) { return info.param.name; });

TEST(Fold, GeluBetweenIsNamed) {
  install_backend(make_cpu_backend());
  const auto source = std::make_shared<EditedSource>(test::tiny_model(test::kTinyGpt2));
  auto model = checked(Model::open(source, Device::cpu()));
  std::string reason;
  EXPECT_FALSE(can_fold(BlockEdit(*model, *source, 0), Site::mlp_out, &reason));
  EXPECT_THAT(reason, HasSubstr("not homogeneous"));
}

TEST(Fold, ScalesOutOfRangeAreRefusedAndNothingChanges) {
  install_backend(make_cpu_backend());
  for (const float bad : {0.0f, -1.0f, 1e31f, INFINITY, NAN}) {
    const auto source = std::make_shared<EditedSource>(test::tiny_model(test::kTinyLlama));
    auto model = checked(Model::open(source, Device::cpu()));
    checked(model->load_block(1));
    BlockEdit edit(*model, *source, 1);
    std::vector<float> scale(24, 2.0f);
    scale[5] = bad;
    const Status status = fold_scale(edit, Site::mlp_in, scale);
    ASSERT_FALSE(status) << bad;
    EXPECT_EQ(status.error().exit, Exit::numeric);
    EXPECT_EQ(status.error().rule, "NU17");
    EXPECT_EQ(status.error().where, "block 1 mlp.in channel 5");
    for (const StoredTensor& tensor : source->tensors()) EXPECT_FALSE(source->is_edited(tensor.name));
  }
}

TEST(Fold, SharingAveragesTheCopiesOfAKeyHead) {
  const BlockConfig shape{.heads = 4, .kv_heads = 2, .head_dim = 2};
  std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 10};
  share_kv(shape, values);
  EXPECT_EQ(values, (std::vector<float>{2, 3, 2, 3, 6, 8, 6, 8}));
}

}  // namespace
}  // namespace pare
