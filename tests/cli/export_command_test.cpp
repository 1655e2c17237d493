#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "engine/core/json.h"
#include "formats/safetensors.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

std::string sample() {
  return source_path("samples/books-3m");
}

std::map<std::string, std::string> tensors_of(const std::string& path) {
  std::map<std::string, std::string> tensors;
  const auto stored = read_safetensors(path).value();
  for (const auto& [name, tensor] : stored) {
    tensors[name] = std::string(dtype_name(tensor.dtype())) + tensor.shape().text() +
                    std::string(reinterpret_cast<const char*>(tensor.raw()), tensor.size_bytes());
  }
  return tensors;
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// dense directory -> .pare -> dense directory gives every tensor and every text file back.
TEST(ExportCommand, RoundTripThroughPareIsLossless) {
  const std::string folder = temporary_folder();
  ASSERT_EQ(pare({"export", sample(), "-o", folder + "/a.pare"}).exit_code, 0);
  ASSERT_EQ(pare({"verify", folder + "/a.pare"}).exit_code, 0);
  ASSERT_EQ(pare({"export", folder + "/a.pare", "-o", folder + "/back"}).exit_code, 0);
  ASSERT_EQ(pare({"verify", folder + "/back"}).exit_code, 0);
  EXPECT_EQ(tensors_of(folder + "/back/model.safetensors"), tensors_of(sample() + "/model.safetensors"));
  for (const char* name :
       {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "special_tokens_map.json"}) {
    EXPECT_EQ(bytes_of(folder + "/back/" + name), bytes_of(sample() + "/" + name)) << name;
  }
}

TEST(ExportCommand, ShardsAndTypes) {
  const std::string folder = temporary_folder();
  ASSERT_EQ(pare({"export", sample(), "-o", folder + "/sharded", "--max-shard", "2MiB"}).exit_code, 0);
  EXPECT_TRUE(std::filesystem::exists(folder + "/sharded/model.safetensors.index.json"));
  EXPECT_FALSE(std::filesystem::exists(folder + "/sharded/model.safetensors"));
  EXPECT_EQ(pare({"verify", folder + "/sharded"}).exit_code, 0);
  ASSERT_EQ(pare({"export", sample(), "-o", folder + "/f32", "--dtype", "f32"}).exit_code, 0);
  const CommandResult inspected = pare({"inspect", folder + "/f32", "--json"});
  const Json json = parse_json(inspected.out, "stdout", {.max_bytes = 1u << 26}).value();
  EXPECT_NE(json.find("forms")->find("F32"), nullptr);
  EXPECT_EQ(json.find("forms")->size(), 1u);
}

TEST(ExportCommand, ExportsAreDeterministic) {
  const std::string folder = temporary_folder();
  ASSERT_EQ(pare({"export", sample(), "-o", folder + "/a.pare"}).exit_code, 0);
  ASSERT_EQ(pare({"export", sample(), "-o", folder + "/b.pare", "--threads", "1"}).exit_code, 0);
  EXPECT_EQ(bytes_of(folder + "/a.pare"), bytes_of(folder + "/b.pare"));
}

// A quantized model goes out in another tool's form and comes back with the values it had.
TEST(ExportCommand, OtherToolsFoldersKeepTheValues) {
  const std::string folder = temporary_folder();
  ASSERT_EQ(
      pare({"quantize", sample(), "--scheme", "int4-g64-sym-sbf16", "-o", folder + "/q.pare"}).exit_code, 0);
  ASSERT_EQ(pare({"export", folder + "/q.pare", "-o", folder + "/dense"}).exit_code, 0);
  const auto expected = tensors_of(folder + "/dense/model.safetensors");
  // Scales of bf16 are not all exact in f16, so the formats that want f16 get a model of their own.
  ASSERT_EQ(pare({"quantize", sample(), "--scheme", "int4-g64-sym", "-o", folder + "/h.pare"}).exit_code, 0);
  ASSERT_EQ(pare({"export", folder + "/h.pare", "-o", folder + "/dense-h"}).exit_code, 0);
  const auto expected_half = tensors_of(folder + "/dense-h/model.safetensors");
  for (const std::string format : {"compressed-tensors", "gptq", "awq"}) {
    const bool is_half = format != "compressed-tensors";
    const std::string source = folder + (is_half ? "/h.pare" : "/q.pare"), out = folder + "/" + format;
    const CommandResult result = pare({"export", source, "--format", format, "-o", out, "--json"});
    ASSERT_EQ(result.exit_code, 0) << result.error;
    const Json json = parse_json(result.out, "stdout", {.max_bytes = 1u << 26}).value();
    EXPECT_EQ(json.find("format")->as_string(), format);
    EXPECT_EQ(json.find("max_logit_difference")->as_double(), 0.0);
    EXPECT_EQ(pare({"verify", out}).exit_code, 0);
    ASSERT_EQ(pare({"export", out, "-o", out + "-back"}).exit_code, 0);
    EXPECT_EQ(tensors_of(out + "-back/model.safetensors"), is_half ? expected_half : expected) << format;
    EXPECT_EQ(bytes_of(out + "/tokenizer.json"), bytes_of(sample() + "/tokenizer.json"));
    ASSERT_EQ(pare({"export", out, "-o", out + ".pare"}).exit_code, 0);
  }
}

TEST(ExportCommand, OtherToolsFormatsRefuse) {
  const std::string folder = temporary_folder();
  const CommandResult dense = pare({"export", sample(), "--format", "gptq", "-o", folder + "/a"});
  EXPECT_EQ(dense.exit_code, 4);
  EXPECT_THAT(dense.error, testing::HasSubstr("nothing is quantized"));
  EXPECT_EQ(pare({"export", sample(), "--format", "awq", "-o", folder + "/a.pare"}).exit_code, 2);
  EXPECT_EQ(pare({"export", sample(), "--format", "awq", "-o", folder + "/a", "--dtype", "f16"}).exit_code,
            2);
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST(ExportCommand, OptionsThatContradict) {
  const std::string folder = temporary_folder();
  EXPECT_EQ(pare({"export", sample(), "-o", folder + "/a.pare", "--format", "safetensors"}).exit_code, 2);
  EXPECT_EQ(pare({"export", sample(), "-o", folder + "/a", "--format", "pare"}).exit_code, 2);
  EXPECT_EQ(pare({"export", sample(), "-o", folder + "/a.pare", "--dtype", "f16"}).exit_code, 2);
  EXPECT_EQ(pare({"export", sample(), "-o", folder + "/a.gguf"}).exit_code, 2);  // no --type
  EXPECT_EQ(pare({"export", sample(), "-o", folder + "/a", "--format", "gguf"}).exit_code, 2);
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

}  // namespace
}  // namespace pare::test
