#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "engine/core/hash.h"
#include "engine/core/json.h"
#include "tests/cli/words.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

std::string sample() {
  return source_path("samples/books-3m");
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(QuantizeCommand, SaysWhatItDid) {
  const std::string out = temporary_folder() + "/a.pare";
  const CommandResult result = pare({"quantize", sample(), "--scheme", "int4-g64", "-o", out});
  EXPECT_EQ(result.exit_code, 0) << result.error;
  EXPECT_THAT(result.out, HasSubstr("28 matrices to int4-g64-sym by rtn"));
  EXPECT_THAT(result.out, HasSubstr("4.250 bits"));
  EXPECT_THAT(result.out, HasSubstr("0 fallback"));
  EXPECT_EQ(pare({"verify", out}).exit_code, 0);
}

TEST(QuantizeCommand, DryRunWritesNothingAndPredictsTheSize) {
  const std::string folder = temporary_folder();
  const Json plan = json_of(
      pare({"quantize", sample(), "--scheme", "int4-g64", "-o", folder + "/a.pare", "--dry-run", "--json"}));
  EXPECT_TRUE(std::filesystem::is_empty(folder));
  const Json done =
      json_of(pare({"quantize", sample(), "--scheme", "int4-g64", "-o", folder + "/a.pare", "--json"}));
  EXPECT_EQ(plan.find("weight_bytes_after")->as_int(), done.find("weight_bytes_after")->as_int());
  // The file holds the weights, the tokenizer and a directory: a little more than the weights.
  const int64_t file = int64_t(std::filesystem::file_size(folder + "/a.pare"));
  EXPECT_GT(file, done.find("weight_bytes_after")->as_int());
  EXPECT_LT(file, done.find("weight_bytes_after")->as_int() + 200'000);
}

TEST(QuantizeCommand, SameBytesForAnyThreadCountAndLevel) {
  const std::string folder = temporary_folder();
  std::string first;
  int run = 0;
  for (const char* threads : {"1", "2", "8"}) {
    for (const char* level : {"generic", ""}) {
      const std::string out = folder + "/" + std::to_string(run++) + ".pare";
      ASSERT_EQ(pare({"quantize", sample(), "--scheme", "int4-g64-asym", "--clip", "mse", "--threads",
                      threads, "-o", out},
                     {.environment = {{"PARE_CPU_PROFILE", level}}})
                    .exit_code,
                0);
      const std::string bytes = bytes_of(out);
      if (first.empty()) first = bytes;
      EXPECT_EQ(bytes, first) << threads << " threads, level " << level;
    }
  }
}

TEST(QuantizeCommand, OverridesAndSelections) {
  const std::string out = temporary_folder() + "/a.pare";
  const Json done = json_of(pare({"quantize", sample(), "--scheme", "int4-g64", "--set",
                                  "layers.*.down_proj=int8", "--set", "layers.0.*.q_proj=keep", "--exclude",
                                  "layers.3.*", "--embedding", "int8-g64", "-o", out, "--json"}));
  std::map<std::string, std::string> schemes;
  for (const Json& record : done.find("manifest")->find("tensors")->items()) {
    schemes[record.find("name")->as_string()] = record.find("scheme")->as_string();
  }
  EXPECT_EQ(schemes["model.layers.1.mlp.down_proj.weight"], "int8-ch-sym");
  EXPECT_EQ(schemes["model.layers.3.mlp.down_proj.weight"], "int8-ch-sym");  // --set wins over --exclude
  EXPECT_EQ(schemes["model.layers.3.mlp.up_proj.weight"], "");               // kept as it is
  EXPECT_EQ(schemes["model.layers.0.self_attn.q_proj.weight"], "");
  EXPECT_EQ(schemes["model.layers.0.self_attn.k_proj.weight"], "int4-g64-sym");
  EXPECT_EQ(schemes["model.embed_tokens.weight"], "int8-g64-sym");
  EXPECT_EQ(pare({"run", out, "-p", "The", "-n", "4"}).exit_code, 0);
}

TEST(QuantizeCommand, Refusals) {
  const std::string folder = temporary_folder(), out = folder + "/a.pare";
  for (const auto& [words, exit_code] :
       std::vector<std::pair<std::vector<std::string>, int>>{{{"--scheme", "int99"}, 2},
                                                             {{"--scheme", ""}, 2},
                                                             {{"--method", "gptq"}, 2},
                                                             {{"--method", "magic"}, 2},
                                                             {{"--set", "x"}, 2},
                                                             {{"--exclude", "nothing.matches"}, 2},
                                                             {{"--clip", "some"}, 2},
                                                             {{"--max-memory", "lots"}, 2},
                                                             {{"--max-memory", "1kB"}, 6}}) {
    std::vector<std::string> all = {"quantize", sample(), "-o", out};
    all.insert(all.end(), words.begin(), words.end());
    const CommandResult result = pare(all);
    EXPECT_EQ(result.exit_code, exit_code) << words[0] << " " << words[1] << ": " << result.error;
    EXPECT_EQ(result.error_lines(), 1);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST(QuantizeCommand, QuantizingTwiceIsRefused) {
  const std::string folder = temporary_folder();
  ASSERT_EQ(pare({"quantize", sample(), "-o", folder + "/a.pare"}).exit_code, 0);
  const CommandResult again = pare({"quantize", folder + "/a.pare", "-o", folder + "/b.pare"});
  EXPECT_EQ(again.exit_code, 4) << again.error;
  EXPECT_THAT(again.error, HasSubstr("already quantized"));
  EXPECT_FALSE(std::filesystem::exists(folder + "/b.pare"));
}

// A NaN in the weights: exit 7, the tensor and the position, and nothing on disk.
TEST(QuantizeCommand, NU01NaNInWeights) {
  const std::string model = copy_of_sample(), folder = temporary_folder();
  std::string bytes = bytes_of(model + "/model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  const Json json =
      parse_json(std::string_view(bytes).substr(8, header), "header", {.max_bytes = header}).value();
  const Json* entry = json.find("model.layers.2.mlp.down_proj.weight");
  const uint64_t begin = 8 + header + (*entry->find("data_offsets"))[size_t(0)].as_uint();
  const uint64_t element = 12 * 640 + 403;
  bytes[begin + 2 * element] = char(0xc0);  // bf16 NaN
  bytes[begin + 2 * element + 1] = char(0x7f);
  std::ofstream(model + "/model.safetensors", std::ios::binary) << bytes;
  const CommandResult result = pare({"quantize", model, "-o", folder + "/a.pare"});
  EXPECT_EQ(result.exit_code, 7) << result.error;
  EXPECT_THAT(result.error, HasSubstr("model.layers.2.mlp.down_proj.weight\"[12,403]"));
  EXPECT_TRUE(std::filesystem::is_empty(folder));
}

TEST(QuantizeCommand, ConvOneDimensionalWeightsKeepTheirOrientation) {
  PARE_SHARED_OR_SKIP(model, "fixtures/gpt2");
  const std::string folder = temporary_folder();
  ASSERT_EQ(pare({"quantize", model, "--scheme", "int8-ch-sf32", "-o", folder + "/q.pare"}).exit_code, 0);
  ASSERT_EQ(pare({"export", folder + "/q.pare", "-o", folder + "/dense"}).exit_code, 0);
  // The dense export is a GPT-2 checkpoint of the original shapes, close to the original.
  const Json before = json_of(pare({"inspect", model, "--json"})),
             after = json_of(pare({"inspect", folder + "/dense", "--json"}));
  std::map<std::string, std::string> shapes;
  for (const Json& tensor : before.find("tensors")->items())
    shapes[tensor.find("name")->as_string()] = tensor.find("shape")->dump();
  for (const Json& tensor : after.find("tensors")->items())
    EXPECT_EQ(tensor.find("shape")->dump(), shapes[tensor.find("name")->as_string()]);
}

// Data-free methods reach the matrices of all experts and leave the routers, whatever the output.
TEST(QuantizeCommand, ExpertsOfAMixture) {
  PARE_SHARED_OR_SKIP(model, "fixtures/mixtral");
  const std::string folder = temporary_folder();
  for (const char* method : {"rtn", "hqq", "rtn+mse"}) {
    const std::string output = folder + "/" + method + ".pare";
    const CommandResult result =
        pare({"quantize", model, "--method", method, "--scheme", "int8-g32-asym", "-o", output});
    ASSERT_EQ(result.exit_code, 0) << result.error;
    ASSERT_EQ(pare({"verify", output}).exit_code, 0);
    ASSERT_EQ(pare({"export", output, "-o", folder + "/" + method}).exit_code, 0);
    for (const std::string& written : {output, folder + "/" + method}) {
      const Json json = json_of(pare({"inspect", written, "--json"}));
      EXPECT_EQ(json.find("config")->find("experts")->as_int(), 4);
      EXPECT_EQ(json.find("config")->find("experts_per_token")->as_int(), 2);
      EXPECT_EQ(json.find("parts")->find("experts")->find("tensors")->as_int(), 2 * 4 * 3);
      EXPECT_EQ(json.find("parts")->find("routers")->find("tensors")->as_int(), 2);
      for (const Json& tensor : json.find("tensors")->items()) {
        const std::string& name = tensor.find("name")->as_string();
        const bool is_expert = name.find(".experts.") != std::string::npos;
        const bool is_codes = tensor.find("form")->as_string().starts_with("int8");
        if (is_expert) {
          EXPECT_EQ(is_codes, written == output) << name;
        }
        if (name.ends_with("block_sparse_moe.gate.weight")) {
          EXPECT_EQ(tensor.find("form")->as_string(), "F32");
        }
      }
    }
  }
  // No GGUF of mixtures yet.
  const CommandResult gguf = pare({"export", model, "--type", "Q8_0", "-o", folder + "/m.gguf"});
  EXPECT_EQ(gguf.exit_code, 4) << gguf.error;
}

}  // namespace
}  // namespace pare::test
