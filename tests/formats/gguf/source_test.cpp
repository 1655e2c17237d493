// A GGUF file as a model: names, permutation, head, split files.
#include <gtest/gtest.h>

#include "engine/models/architecture.h"
#include "formats/gguf/names.h"
#include "formats/open_model.h"
#include "formats/verify.h"
#include "tests/badinput/gguf_file.h"
#include "tests/formats/tiny_model.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

std::string written(const GgufBytes& file, const std::string& name = "m.gguf") {
  const std::string path = temporary_folder() + "/" + name;
  write_file(path, file.assembled());
  return path;
}

TEST(GgufSource, IsAModelOfItsFamily) {
  const auto source = open_model(written(GgufBytes::llama()));
  ASSERT_TRUE(source) << format_error(source.error());
  const auto model = describe_model(**source);
  ASSERT_TRUE(model) << format_error(model.error());
  EXPECT_EQ(model->architecture->name, "LlamaForCausalLM");
  EXPECT_TRUE(model->config.tied_head);
  EXPECT_EQ(model->config.vocabulary_size, 4);
  EXPECT_EQ(model->config.blocks[0].kv_heads, 1);
  EXPECT_EQ(model->config.norm_eps, 1e-5);  // not 9.99999974e-06
}

// Rows of a head of 16: 0, 8, 1, 9, ... in the file.
TEST(GgufSource, RowsOfQueriesComeBackInOrder) {
  const GgufBytes file = GgufBytes::llama();
  const auto source = open_model(written(file)).value();
  const Tensor q = source->load("model.layers.0.self_attn.q_proj.weight").value().dense();
  const auto* stored = reinterpret_cast<const float*>(file.records[2].data.data());
  for (int64_t head = 0; head < 2; ++head) {
    for (int64_t row = 0; row < 16; ++row) {
      const int64_t there = head * 16 + (row < 8 ? 2 * row : 2 * (row - 8) + 1);
      EXPECT_EQ(
          std::memcmp(q.data<float>() + (head * 16 + row) * 32, stored + there * 32, 32 * sizeof(float)), 0)
          << row;
    }
  }
}

TEST(GgufSource, HeadOfItsOwn) {
  GgufBytes file = GgufBytes::llama();
  file.records.push_back({"output.weight", {32, 4}, 0, 0, file.record("token_embd.weight").data});
  const auto source = open_model(written(file)).value();
  EXPECT_FALSE(describe_model(*source).value().config.tied_head);
}

TEST(GgufSource, PartsOfASplitModel) {
  const std::string folder = temporary_folder();
  GgufBytes first = GgufBytes::llama(), second;
  second.records.assign(first.records.begin() + 5, first.records.end());
  first.records.resize(5);
  for (GgufBytes* part : {&first, &second}) {
    part->set("split.count", gguf_pair("split.count", 2u));
    part->set("split.no", gguf_pair("split.no", part == &first ? 0u : 1u));
  }
  first.set("split.tensors.count", gguf_pair("split.tensors.count", 11u));
  write_file(folder + "/m-00001-of-00002.gguf", first.assembled());
  write_file(folder + "/m-00002-of-00002.gguf", second.assembled());
  const auto source = open_model(folder + "/m-00001-of-00002.gguf");
  ASSERT_TRUE(source) << format_error(source.error());
  EXPECT_TRUE(describe_model(**source));
  const VerifyReport report = verify_model(folder + "/m-00001-of-00002.gguf").value();
  EXPECT_EQ(report.tensors, 11);
  EXPECT_TRUE(report.faults.empty());
  EXPECT_FALSE(report.has_checksums);
}

TEST(GgufSource, EveryPrefixIsRefused) {
  const std::string bytes = GgufBytes::llama().assembled(), path = temporary_folder() + "/m.gguf";
  for (size_t size = 0; size < bytes.size(); size += size < 2000 ? 7 : 997) {
    write_file(path, bytes.substr(0, size));
    const auto source = open_model(path);
    ASSERT_FALSE(source) << size;
    EXPECT_FALSE(source.error().rule.empty()) << size;
  }
}

TEST(GgufNames, BothWays) {
  EXPECT_EQ(checkpoint_name("llama", "blk.12.attn_k.bias")->name, "model.layers.12.self_attn.k_proj.bias");
  EXPECT_EQ(checkpoint_name("llama", "blk.12.attn_k.bias")->change, GgufChange::permuted);
  EXPECT_EQ(checkpoint_name("qwen2", "blk.12.attn_k.bias")->change, GgufChange::none);
  EXPECT_EQ(checkpoint_name("gpt2", "blk.0.attn_qkv.weight")->name, "transformer.h.0.attn.c_attn.weight");
  EXPECT_EQ(checkpoint_name("gpt2", "blk.0.attn_qkv.weight")->change, GgufChange::transposed);
  EXPECT_FALSE(checkpoint_name("llama", "blk.01.attn_k.weight"));
  EXPECT_FALSE(checkpoint_name("llama", "blk.1.ssm_a.weight"));
}

}  // namespace
}  // namespace pare::test
