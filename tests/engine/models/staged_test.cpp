// A block in stages, a model whose source is edited while it runs.
#include <gtest/gtest.h>

#include <cstring>

#include "engine/models/edited_source.h"
#include "engine/models/expert_slots.h"
#include "tests/support/backends.h"
#include "tests/support/compare.h"
#include "tests/support/tiny_model.h"

namespace pare {
namespace {

using test::checked;

constexpr int64_t kTokens = 9, kSequences = 2;
constexpr Batch kBatch{.sequences = kSequences, .tokens_per_sequence = kTokens};

const char* const kConfigs[] = {
    test::kTinyLlama,  // grouped queries
    test::kTinyGpt2,   // Conv1D, LayerNorm, biases, fused q k v
    R"({"architectures": ["Qwen3ForCausalLM"], "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10})",
    R"({"architectures": ["MistralForCausalLM"], "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "sliding_window": 4})",
    test::kTinyMixtral,
};

bool same_bytes(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.raw(), b.raw(), a.size_bytes()) == 0;
}

class Staged : public ::testing::TestWithParam<std::tuple<int, test::Arithmetic>> {
 protected:
  void SetUp() override {
    device_ = test::use(std::get<1>(GetParam()));
    base_ = test::tiny_model(kConfigs[std::get<0>(GetParam())]);
    source_ = std::make_shared<EditedSource>(base_);
    model_ = checked(Model::open(source_, device_));
    checked(model_->load_all());
    checked(model_->reserve_positions(kTokens));
    workspace_ = checked(
        Workspace::reserve(model_->workspace_bytes(kBatch, kBatch.tokens()) + (size_t(1) << 20), device_));
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < kBatch.tokens(); ++i) ids.push_back(int32_t((i * 13 + 2) % 40));
    hidden_ = fresh(model_->config().hidden_size);
    checked(model_->embed(test::tensor_of(ids, device_), kBatch, hidden_, workspace_));
  }

  Tensor fresh(int64_t channels) {
    return checked(Tensor::allocate(DType::f32, {kBatch.tokens(), channels}, device_));
  }

  Tensor copy(const Tensor& tensor) {
    Tensor result = fresh(tensor.size(1));
    std::memcpy(result.mutable_raw(), tensor.raw(), tensor.size_bytes());
    return result;
  }

  Tensor whole(int index, const Tensor& hidden) {
    Tensor result = copy(hidden);
    checked(model_->run_block(index, kBatch, result, nullptr, workspace_));
    return result;
  }

  Tensor staged(int index, const Tensor& hidden) {
    Tensor result = copy(hidden), x0 = fresh(model_->site_channels(index, Site::attention_in)),
           x1 = fresh(model_->site_channels(index, Site::attention_out)),
           x2 = fresh(model_->site_channels(index, Site::mlp_in)),
           x3 = fresh(model_->site_channels(index, Site::mlp_out));
    checked(model_->produce(index, Site::attention_in, kBatch, result, x0, workspace_));
    checked(model_->produce(index, Site::attention_out, kBatch, x0, x1, workspace_));
    model_->consume(index, Site::attention_out, x1, result, workspace_);
    checked(model_->produce(index, Site::mlp_in, kBatch, result, x2, workspace_));
    checked(model_->produce(index, Site::mlp_out, kBatch, x2, x3, workspace_));
    model_->consume(index, Site::mlp_out, x3, result, workspace_);
    return result;
  }

  Device device_;
  std::shared_ptr<test::MemorySource> base_;
  std::shared_ptr<EditedSource> source_;
  std::unique_ptr<Model> model_;
  Workspace workspace_;
  Tensor hidden_;
};

TEST_P(Staged, EqualsForwardBitForBit) {
  Tensor hidden = hidden_;
  for (int index = 0; index < int(model_->config().block_count()); ++index) {
    const BlockConfig& shape = model_->config().blocks[size_t(index)];
    EXPECT_EQ(model_->site_channels(index, Site::attention_out), shape.heads * shape.head_dim);
    EXPECT_EQ(model_->site_channels(index, Site::mlp_out), mlp_out_width(shape));
    const Tensor want = whole(index, hidden), got = staged(index, hidden);
    EXPECT_TRUE(same_bytes(got, want)) << "block " << index;
    EXPECT_FALSE(same_bytes(got, hidden));
    hidden = want;
  }
}

TEST_P(Staged, QuantizedPartsToo) {
  for (const TensorSpec& spec : model_->description().tensors) {
    if (spec.block != 0 || !spec.is_linear) continue;
    const Tensor& values = base_->dense(spec.name);
    source_->set(spec.name, WeightData{.form = std::make_shared<const QuantizedTensor>(test::int8_of(
                                           spec.transposed ? checked(transposed(values)) : values)),
                                       .transposed = spec.transposed});
    checked(model_->reload(0, spec.role, spec.expert));
  }
  EXPECT_TRUE(same_bytes(staged(0, hidden_), whole(0, hidden_)));
}

// Every tensor of a block, replaced: the loaded block changes only when its part is reloaded, then exactly as
// a model that was loaded with it; discard and reload give the first bytes back.
TEST_P(Staged, ReloadFollowsTheSource) {
  const Tensor before = whole(1, hidden_);
  for (const TensorSpec& spec : model_->description().tensors) {
    if (spec.block != 1) continue;
    Role role = spec.role;
    if (role == Role::bias) role = model_->description().find(spec.owner)->role;
    if (role == Role::input_norm_bias) role = Role::input_norm;
    if (role == Role::post_attention_norm_bias) role = Role::post_attention_norm;
    source_->set(spec.name,
                 WeightData{.form = test::random_normal(spec.shape, spec.name + " replaced", 0.5f, 0.3f)});
    EXPECT_TRUE(source_->is_edited(spec.name));
    EXPECT_TRUE(same_bytes(whole(1, hidden_), before)) << spec.name;
    checked(model_->reload(1, role, spec.expert));
    const Tensor after = whole(1, hidden_);
    EXPECT_FALSE(same_bytes(after, before)) << spec.name;
    auto loaded = checked(Model::open(source_, device_));
    checked(loaded->load_block(1));
    checked(loaded->reserve_positions(kTokens));
    Tensor want = copy(hidden_);
    checked(loaded->run_block(1, kBatch, want, nullptr, workspace_));
    EXPECT_TRUE(same_bytes(after, want)) << spec.name;
    source_->discard(spec.name);
    checked(model_->reload(1, role, spec.expert));
    EXPECT_TRUE(same_bytes(whole(1, hidden_), before)) << spec.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Configs, Staged,
                         ::testing::Combine(::testing::Range(0, int(std::size(kConfigs))),
                                            ::testing::ValuesIn(test::arithmetics_of_this_host())),
                         [](const auto& info) {
                           return std::to_string(std::get<0>(info.param)) + "_" +
                                  test::test_name(std::get<1>(info.param).name);
                         });

TEST(EditedSource, SetFindLoadDiscard) {
  const auto base = test::tiny_model(test::kTinyGpt2);
  EditedSource source(base);
  const std::string name = "transformer.h.0.mlp.c_fc.weight";
  const StoredTensor before = *source.find(name);
  EXPECT_EQ(source.tensors().size(), base->tensors().size());
  EXPECT_EQ(source.find("nowhere"), nullptr);
  EXPECT_FALSE(source.load("nowhere"));
  EXPECT_FALSE(source.is_edited(name));
  EXPECT_TRUE(same_bytes(checked(source.load(name)).dense(), base->dense(name)));

  const auto codes =
      std::make_shared<const QuantizedTensor>(test::int8_of(checked(transposed(base->dense(name)))));
  source.set(name, WeightData{.form = codes, .transposed = true});
  EXPECT_TRUE(source.is_edited(name));
  EXPECT_EQ(checked(source.load(name)).quantized(), codes);
  EXPECT_TRUE(source.find(name)->transposed);
  EXPECT_EQ(source.find(name)->scheme, codes->scheme);
  EXPECT_EQ(source.find(name)->shape, codes->shape);
  EXPECT_EQ(source.find(name)->bytes, codes->size_bytes());
  EXPECT_FALSE(base->find(name)->scheme) << "the base is not touched";

  const Tensor half = checked(converted(base->dense(name), DType::bf16));
  source.set(name, WeightData{.form = half});  // replaces the replacement
  EXPECT_TRUE(same_bytes(checked(source.load(name)).dense(), half));
  EXPECT_EQ(source.find(name)->dtype, DType::bf16);
  EXPECT_FALSE(source.find(name)->scheme);
  EXPECT_FALSE(source.find(name)->transposed);
  // The order of tensors stays that of the base.
  for (size_t i = 0; i < source.tensors().size(); ++i)
    EXPECT_EQ(source.tensors()[i].name, base->tensors()[i].name);

  source.discard(name);
  EXPECT_FALSE(source.is_edited(name));
  EXPECT_EQ(source.find(name)->bytes, before.bytes);
  EXPECT_EQ(source.find(name)->dtype, before.dtype);
  EXPECT_TRUE(same_bytes(checked(source.load(name)).dense(), base->dense(name)));
}

}  // namespace
}  // namespace pare
