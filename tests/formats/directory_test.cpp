// Folders of safetensors: what is written loads again, sharded or not; config.json keeps its bytes; names of
// the cache.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "formats/config_edit.h"
#include "formats/open_model.h"
#include "formats/tokenizer_files.h"
#include "formats/verify.h"
#include "tests/formats/tiny_model.h"
#include "tests/support/shared_data.h"

namespace pare {
namespace {

using test::same_bytes;

TEST(Directory, QuantizedTensorsComeBackDense) {
  const std::string path = test::temporary_folder() + "/out";
  const auto weights = test::tiny_weights();
  test::write_model(path, weights, test::tiny_options());
  const auto source = open_model(path);
  ASSERT_TRUE(source) << format_error(source.error());
  EXPECT_EQ((*source)->tensors().size(), weights.size());
  for (const auto& [name, weight] : weights) {
    const auto found = (*source)->load(name);
    ASSERT_TRUE(found) << format_error(found.error());
    if (!weight.is_quantized()) {
      EXPECT_TRUE(same_bytes(found->dense(), weight.dense())) << name;
      continue;
    }
    Tensor expected = *weight.quantized()->dequantize();
    if (weight.transposed) expected = *transposed(expected);
    EXPECT_TRUE(same_bytes(found->dense(), expected)) << name;
  }
  // f32 among the tensors, so that is what the config says now; nothing else of it changed.
  EXPECT_EQ((*source)->config_text(),
            "{\n  \"model_type\": \"tiny\",\n  \"torch_dtype\": \"float32\",\n  \"eps\": 1e-05\n}\n");
  EXPECT_EQ((*source)->asset("LICENSE")->bytes, "free");
  const auto report = verify_model(path);
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->faults.empty() && report->notes.empty() && report->has_checksums);
  EXPECT_FALSE(std::filesystem::exists(path + "/model.safetensors.index.json"));
}

TEST(Directory, DenseTypeIsFollowedByTheConfig) {
  const std::string path = test::temporary_folder() + "/out";
  CreateOptions options = test::tiny_options();
  options.dense_dtype = DType::bf16;
  options.config_text = R"({"quantization_config":{"a":[1,"}"]},"dtype": "float32" ,"x":"dtype"})";
  test::write_model(path, test::tiny_weights(), options);
  const auto source = open_model(path);
  ASSERT_TRUE(source) << format_error(source.error());
  EXPECT_EQ((*source)->find("up.weight")->dtype, DType::bf16);
  EXPECT_EQ((*source)->find("scalar")->dtype, DType::i64);
  EXPECT_EQ((*source)->config_text(), R"({"dtype": "bfloat16" ,"x":"dtype"})");
}

TEST(Directory, OverflowOfTheDenseTypeIsAnError) {
  CreateOptions options = test::tiny_options();
  options.dense_dtype = DType::f16;
  Tensor tensor = test::random_tensor(DType::f32, {2, 2}, 1);
  tensor.mutable_data<float>()[3] = 1e6f;
  auto sink = create_model(test::temporary_folder() + "/out", options);
  ASSERT_TRUE(sink);
  const Status put = (*sink)->put("w", WeightData{tensor, false});
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().rule, "NU03");
  EXPECT_EQ(put.error().exit, Exit::numeric);
}

TEST(Directory, ShardsHoldTheirLimitAndLoadAgain) {
  const std::string path = test::temporary_folder() + "/out";
  CreateOptions options = test::tiny_options();
  options.max_shard_bytes = 200;
  test::NamedWeights weights;
  for (int i = 0; i < 9; ++i) {
    weights.emplace_back("t" + std::to_string(i),
                         WeightData{test::random_tensor(DType::f32, {5, 4}, uint64_t(i)), false});
  }
  weights.emplace_back("large", WeightData{test::random_tensor(DType::f32, {100}, 1), false});
  test::write_model(path, weights, options);
  EXPECT_TRUE(std::filesystem::exists(path + "/model-00001-of-00006.safetensors"));
  EXPECT_TRUE(std::filesystem::exists(path + "/model-00006-of-00006.safetensors"));
  OpenOptions strict;
  strict.strict = true;
  const auto source = open_model(path, strict);
  ASSERT_TRUE(source) << format_error(source.error());
  for (const auto& [name, weight] : weights)
    EXPECT_TRUE(same_bytes((*source)->load(name)->dense(), weight.dense())) << name;
  EXPECT_EQ((*source)->tensors().back().name, "large");
  const auto report = verify_model(path);
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->faults.empty());
}

// More tensors than the reserved stretch holds, and odd sizes between wide types: both force the one copy.
TEST(Directory, AHeaderThatOutgrowsItsPlaceIsStillOneFile) {
  const std::string path = test::temporary_folder() + "/out";
  test::NamedWeights weights;
  for (int i = 0; i < 400; ++i) {
    const DType dtype = i % 2 == 0 ? DType::u8 : DType::f32;
    weights.emplace_back("model.layers." + std::to_string(i) + ".mlp.down_proj.weight",
                         WeightData{test::random_tensor(dtype, {3}, uint64_t(i)), false});
  }
  test::write_model(path, weights, test::tiny_options());
  const auto source = open_model(path);
  ASSERT_TRUE(source) << format_error(source.error());
  ASSERT_TRUE(std::filesystem::exists(path + "/model.safetensors"));
  EXPECT_EQ((*source)->tensors().size(), 400u);
  for (const auto& [name, weight] : weights) {
    const Tensor found = (*source)->load(name)->dense();
    EXPECT_TRUE(same_bytes(found, weight.dense())) << name;
    EXPECT_TRUE(found.storage()->is_read_only()) << name << " was copied, so it was not aligned";
  }
}

TEST(Directory, ADamagedTensorIsFoundOnLoadAndAnEditedTextIsOnlyNoted) {
  const std::string path = test::temporary_folder() + "/out";
  test::write_model(path, test::tiny_weights(), test::tiny_options());
  test::write_file(path + "/LICENSE", "very free");
  auto report = verify_model(path);
  ASSERT_TRUE(report);
  EXPECT_TRUE(report->faults.empty());
  EXPECT_EQ(report->notes.size(), 1u);

  std::string bytes = test::read_file(path + "/model.safetensors");
  bytes.back() = char(bytes.back() ^ 1);  // of "embed.weight": the narrowest type comes last
  test::write_file(path + "/model.safetensors", bytes);
  const auto source = open_model(path);
  ASSERT_TRUE(source) << format_error(source.error());
  const auto weight = (*source)->load("embed.weight");
  ASSERT_FALSE(weight);
  EXPECT_EQ(weight.error().rule, "IX21");
  EXPECT_EQ(weight.error().exit, Exit::malformed);
  EXPECT_TRUE((*source)->load("norm.weight"));
  report = verify_model(path);
  ASSERT_TRUE(report);
  EXPECT_EQ(report->faults.size(), 2u);  // the tensor and its file
  OpenOptions unchecked;
  unchecked.verify_checksums = false;
  EXPECT_TRUE(open_model(path, unchecked).value()->load("embed.weight"));
}

TEST(Directory, ForceReplacesOnlyOurFolder) {
  const std::string path = test::temporary_folder() + "/out";
  CreateOptions options = test::tiny_options();
  test::write_model(path, test::tiny_weights(), options);
  auto refused = create_model(path, options);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::usage);
  options.write.force = true;
  test::write_model(path, test::tiny_weights(), options);
  EXPECT_TRUE(open_model(path));
}

TEST(Directory, ChangedInputIsNoticed) {
  const std::string path = test::temporary_folder() + "/out";
  test::write_model(path, test::tiny_weights(), test::tiny_options());
  const auto source = open_model(path);
  ASSERT_TRUE(source);
  std::filesystem::resize_file(path + "/model.safetensors",
                               std::filesystem::file_size(path + "/model.safetensors") + 1);
  const Status status = (*source)->check_unchanged();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().rule, "IX14");
  EXPECT_EQ(status.error().exit, Exit::io);
}

TEST(Directory, FoundInTheLocalCache) {
  const std::string cache = test::temporary_folder();
  const std::string repository = cache + "/models--org--name";
  std::filesystem::create_directories(repository + "/refs");
  std::filesystem::create_directories(repository + "/snapshots");
  std::filesystem::create_directories(repository + "/blobs");
  test::write_model(repository + "/snapshots/0123abc", test::tiny_weights(), test::tiny_options());
  // as the cache has it: links into blobs
  std::filesystem::rename(repository + "/snapshots/0123abc/model.safetensors", repository + "/blobs/feed");
  std::filesystem::create_symlink("../../blobs/feed", repository + "/snapshots/0123abc/model.safetensors");
  test::write_file(repository + "/refs/main", "0123abc\n");
  ::setenv("HF_HUB_CACHE", cache.c_str(), 1);
  for (const char* name : {"org/name", "org/name@main", "org/name@0123abc"}) {
    const auto source = open_model(name);
    EXPECT_TRUE(source) << name << ": " << format_error(source.error());
  }
  for (const char* name : {"org/other", "org/name@v2", "org/name@../x", "org/name@"}) {
    const auto source = open_model(name);
    ASSERT_FALSE(source) << name;
    EXPECT_EQ(source.error().exit, Exit::io) << name;
    EXPECT_EQ(source.error().rule, "IX20") << name;
    EXPECT_NE(format_error(source.error()).find("pare never downloads"), std::string::npos);
  }
  ::unsetenv("HF_HUB_CACHE");
}

TEST(ConfigEdit, OnlyTheNamedMemberChanges) {
  const std::string text =
      "{ \"a\": {\"dtype\": 1}, \"dtype\":\t\"x\\\"y\", \"l\": [1, {\"b\": \"}\"}] , \"z\": -1.5e3 }";
  EXPECT_EQ(with_value(text, "dtype", "\"f\""),
            "{ \"a\": {\"dtype\": 1}, \"dtype\":\t\"f\", \"l\": [1, {\"b\": \"}\"}] , \"z\": -1.5e3 }");
  EXPECT_EQ(with_value(text, "z", "0"),
            "{ \"a\": {\"dtype\": 1}, \"dtype\":\t\"x\\\"y\", \"l\": [1, {\"b\": \"}\"}] , \"z\": 0 }");
  EXPECT_EQ(with_value(text, "b", "0"), text);
  EXPECT_EQ(without_key(text, "a"), "{ \"dtype\":\t\"x\\\"y\", \"l\": [1, {\"b\": \"}\"}] , \"z\": -1.5e3 }");
  EXPECT_EQ(without_key(text, "l"), "{ \"a\": {\"dtype\": 1}, \"dtype\":\t\"x\\\"y\" , \"z\": -1.5e3 }");
  EXPECT_EQ(without_key(text, "z"),
            "{ \"a\": {\"dtype\": 1}, \"dtype\":\t\"x\\\"y\", \"l\": [1, {\"b\": \"}\"}]  }");
  EXPECT_EQ(without_key("{\"a\":1}", "a"), "{}");
}

TEST(TokenizerFiles, FromFolderFileAndModel) {
  const std::string path = test::temporary_folder() + "/out";
  CreateOptions options = test::tiny_options();
  options.assets.push_back({"tokenizer_config.json", "{\"bos_token\": null}"});
  test::write_model(path, test::tiny_weights(), options);
  const auto source = open_model(path);
  ASSERT_TRUE(source) << format_error(source.error());
  for (const auto& files :
       {tokenizer_files(**source), tokenizer_files(path), tokenizer_files(path + "/tokenizer.json")}) {
    ASSERT_TRUE(files) << format_error(files.error());
    EXPECT_EQ(files->tokenizer_json, options.assets[0].bytes);
    EXPECT_EQ(files->tokenizer_config_json, "{\"bos_token\": null}");
    EXPECT_FALSE(files->special_tokens_map_json);
  }
  EXPECT_FALSE(tokenizer_files(test::temporary_folder()));
}

TEST(Output, KindsByName) {
  EXPECT_EQ(*output_kind("a.pare"), OutputKind::pare);
  EXPECT_EQ(*output_kind("dir/a"), OutputKind::safetensors);
  ASSERT_FALSE(output_kind("a.gguf"));
  EXPECT_EQ(output_kind("a.gguf").error().exit, Exit::unsupported);
}

}  // namespace
}  // namespace pare
