// Rows QC01 to QC07 and CF12 of docs/bad-input.md: checkpoints of other tools that contradict their config or
// themselves.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "engine/models/architecture.h"
#include "engine/tensor/float_formats.h"
#include "formats/dialects/translated_source.h"
#include "tests/formats/dialects/foreign_model.h"

namespace pare {
namespace {

using test::Codes;
using test::MemorySource;

constexpr const char* kModule = "model.layers.0.self_attn.q_proj";
constexpr const char* kGptq = R"({"quant_method":"gptq","bits":4,"group_size":32})";
constexpr const char* kWeights = R"({"num_bits":4,"strategy":"group","group_size":32})";

std::string part(const std::string& name) {
  return std::string(kModule) + "." + name;
}

std::shared_ptr<MemorySource> gptq(const std::string& config = kGptq, bool symmetric = true) {
  std::vector<Codes> linears;
  return test::foreign_llama(config, {.group_size = 32, .symmetric = symmetric, .lowest_zero_point = 1},
                             linears,
                             [](auto& source, const Codes& codes) { test::put_gptq(source, codes, true); });
}

std::shared_ptr<MemorySource> packed(const std::string& config, bool symmetric = true) {
  std::vector<Codes> linears;
  return test::foreign_llama(
      config, {.group_size = 32, .symmetric = symmetric}, linears,
      [&](auto& source, const Codes& codes) { test::put_packed(source, codes, symmetric, false); });
}

std::shared_ptr<MemorySource> packed() {
  return packed(test::compressed_config("pack-quantized", kWeights));
}

Tensor writable(const Tensor& tensor) {
  return *converted(tensor, tensor.dtype());
}

// Opens, describes and loads everything; the first error, which must be the one of the table.
void expect_bad(const std::shared_ptr<MemorySource>& stored, Exit exit, const std::string& rule,
                const std::vector<std::string>& words) {
  std::optional<Error> error;
  const auto source = translated(stored, "memory", {});
  if (!source) {
    error = source.error();
  } else if (const auto model = describe_model(**source); !model) {
    error = model.error();
  } else {
    for (const StoredTensor& tensor : (*source)->tensors()) {
      const auto data = (*source)->load(tensor.name);
      if (!data && !error) error = data.error();
    }
  }
  ASSERT_TRUE(error) << rule << " accepted";
  const std::string line = format_error(*error);
  EXPECT_EQ(int(error->exit), int(exit)) << line;
  EXPECT_EQ(error->rule, rule) << line;
  for (const std::string& word : words) EXPECT_THAT(line, testing::HasSubstr(word));
}

TEST(BadDialect, GoodOnesAreAccepted) {
  for (const auto& stored : {gptq(), packed()}) {
    const auto source = translated(stored, "memory", {});
    ASSERT_TRUE(source) << format_error(source.error());
    EXPECT_TRUE(describe_model(**source));
  }
}

TEST(BadDialect, QC01WidthFitsNoPacking) {
  auto source = packed();
  source->add(part("weight_packed"), *Tensor::allocate(DType::i32, {64, 9}));
  expect_bad(source, Exit::malformed, "QC01", {part("weight_packed"), "[64, 9]", "[64, 8]"});
  source = gptq();
  source->add(part("qweight"), *Tensor::allocate(DType::i32, {16, 64}));
  expect_bad(source, Exit::malformed, "QC01", {part("qweight"), "[16, 64]", "[8, 64]"});
}

TEST(BadDialect, QC02PartsOfTheWrongShapeOrType) {
  auto source = packed();
  source->add(part("weight_scale"), *Tensor::allocate(DType::bf16, {64, 3}));
  expect_bad(source, Exit::malformed, "QC02", {part("weight_scale"), "[64, 3]", "[64, 2]"});
  source = packed();
  Tensor shape = *Tensor::allocate(DType::i64, {2});
  shape.mutable_data<int64_t>()[0] = 64;
  shape.mutable_data<int64_t>()[1] = 63;
  source->add(part("weight_shape"), shape);
  expect_bad(source, Exit::malformed, "QC02", {part("weight_shape"), "[64, 63]"});
  source = gptq();
  source->add(part("qzeros"), *Tensor::allocate(DType::i32, {2, 9}));
  expect_bad(source, Exit::malformed, "QC02", {part("qzeros"), "[2, 9]", "[2, 8]"});
  source = gptq();
  source->add(part("g_idx"), *Tensor::allocate(DType::i64, {64}));
  expect_bad(source, Exit::malformed, "QC02", {part("g_idx"), "I64"});
}

TEST(BadDialect, QC03GroupIndex) {
  for (const int32_t value : {-1, 2}) {
    auto source = gptq();
    std::vector<int32_t> index(64, 0);
    for (int i = 32; i < 64; ++i) index[size_t(i)] = 1;
    index[5] = value;
    source->add(part("g_idx"), test::index_tensor(index));
    expect_bad(source, Exit::malformed, "QC03", {part("g_idx"), "[5]", std::to_string(value)});
  }
  auto source = gptq();
  source->add(part("g_idx"), test::index_tensor(std::vector<int32_t>(64, 0)));
  expect_bad(source, Exit::malformed, "QC03", {part("g_idx"), "group 1"});
}

TEST(BadDialect, QC04ScalesAndZeroPoints) {
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    auto source = gptq();
    Tensor scales = writable(source->dense(part("scales")));
    scales.mutable_data<uint16_t>()[70] = float_to_f16(value);
    source->add(part("scales"), scales);
    expect_bad(source, Exit::numeric, "QC04", {part("scales"), "[1,6]"});
  }
  auto source = gptq();
  Tensor scales = writable(source->dense(part("scales")));
  scales.mutable_data<uint16_t>()[0] = float_to_f16(-1.0f);
  source->add(part("scales"), scales);
  expect_bad(source, Exit::unsupported, "QC04", {part("scales"), "negative"});
  // All ones in v1: 0 for some engines and 16 for others.
  source = gptq(kGptq, false);
  source->add(part("qzeros"), test::words_tensor(std::vector<uint32_t>(16, 0xffffffffu), {2, 8}));
  expect_bad(source, Exit::malformed, "QC04", {part("qzeros"), "15 + 1"});
  expect_bad(gptq(R"({"quant_method":"gptq","bits":4,"group_size":32,"sym":true})", false), Exit::malformed,
             "QC04", {"qzeros", "sym"});
}

TEST(BadDialect, QC05UnknownFormats) {
  expect_bad(packed(test::compressed_config("marlin-24", kWeights)), Exit::unsupported, "QC05",
             {"format", "marlin-24"});
  expect_bad(packed(test::compressed_config("pack-quantized", R"({"num_bits":9,"strategy":"channel"})")),
             Exit::unsupported, "QC05", {"num_bits", "9"});
  expect_bad(
      packed(test::compressed_config("pack-quantized", R"({"num_bits":4,"strategy":"channel","novel":1})")),
      Exit::unsupported, "QC05", {"novel"});
  expect_bad(
      packed(test::compressed_config("pack-quantized", kWeights, "null", R"("transform_config":{"a":1},)")),
      Exit::unsupported, "QC05", {"transform_config"});
  expect_bad(gptq(R"({"quant_method":"gptq","bits":5,"group_size":32})"), Exit::unsupported, "QC05",
             {"bits", "5"});
  expect_bad(gptq(R"({"quant_method":"gptq","bits":4,"group_size":32,"checkpoint_format":"marlin"})"),
             Exit::unsupported, "QC05", {"checkpoint_format", "marlin"});
  for (const char* version : {"gemv", "gemv_fast", "llm-awq"}) {
    expect_bad(
        gptq(std::string(R"({"quant_method":"awq","bits":4,"group_size":32,"version":")") + version + "\"}"),
        Exit::unsupported, "QC05", {"version", version});
  }
}

TEST(BadDialect, QC06PartialSets) {
  auto source = gptq();
  source->remove(part("scales"));
  expect_bad(source, Exit::malformed, "QC06", {kModule, part("scales")});
  source = gptq();
  for (const char* name : {"qweight", "qzeros", "scales", "g_idx"}) source->remove(part(name));
  expect_bad(source, Exit::malformed, "QC06", {kModule, "qweight"});
  source = packed();
  source->remove(part("weight_packed"));
  expect_bad(source, Exit::malformed, "QC06", {kModule, "weight_packed"});
  source = packed();
  source->add(part("weight"), *Tensor::allocate(DType::bf16, {64, 64}));
  expect_bad(source, Exit::malformed, "QC06", {part("weight"), "both"});
}

TEST(BadDialect, QC07RefusedPatterns) {
  const std::string config =
      R"({"quant_method":"compressed-tensors","format":"pack-quantized","ignore":["lm_head","re:(a)\\1"],
    "config_groups":{"a":{"targets":["Linear"],"weights":{"num_bits":4,"strategy":"group","group_size":32}}}})";
  expect_bad(packed(config), Exit::unsupported, "QC07", {"ignore[1]", "offset"});
  expect_bad(gptq(R"x({"quant_method":"gptq","bits":4,"group_size":32,"dynamic":{"+:(?R)":{"bits":8}}})x"),
             Exit::unsupported, "QC07", {"dynamic", "offset"});
}

TEST(BadDialect, CF12UnknownMethods) {
  expect_bad(gptq(R"({"quant_method":"bitsandbytes","load_in_4bit":true})"), Exit::unsupported, "CF12",
             {"quant_method", "bitsandbytes", "compressed-tensors, gptq, awq"});
  expect_bad(gptq(R"({"bits":4})"), Exit::unsupported, "CF12", {"quant_method", "nothing"});
}

}  // namespace
}  // namespace pare
