// Folders for other tools: every scheme that a dialect holds comes back with its values, the words are those
// of the definition, and what a dialect cannot hold is refused by name.
#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>

#include "formats/dialects/dialect_sink.h"
#include "formats/open_model.h"
#include "formats/safetensors.h"
#include "formats/verify.h"
#include "tests/formats/dialects/foreign_model.h"
#include "tests/formats/tiny_model.h"
#include "tests/support/shared_data.h"

namespace pare {
namespace {

using test::Codes;

// A llama in memory whose linears are quantized with `scheme`; `edit` may change each of them.
std::shared_ptr<test::MemorySource> quantized_llama(const std::string& scheme,
                                                    const std::function<void(QuantizedTensor&)>& edit = {},
                                                    int64_t odd_rows = 0) {
  std::string config = test::llama_config("null");
  if (odd_rows > 0) config.replace(config.find("96"), 2, std::to_string(odd_rows));
  auto source = std::make_shared<test::MemorySource>(config);
  const Architecture* family = *find_architecture(source->config(), "memory");
  const ModelConfig model = *family->configure(source->config(), "memory");
  uint64_t seed = 1;
  for (const TensorSpec& spec : family->describe(model, "model.")) {
    if (!spec.is_linear) {
      source->add(spec.name, test::random_tensor(DType::bf16, spec.shape, seed++));
      continue;
    }
    QuantizedTensor tensor =
        test::random_quantized(*QuantScheme::parse(scheme), spec.out(), spec.in(), seed++);
    if (edit) edit(tensor);
    source->add(spec.name, std::move(tensor), false);
  }
  return source;
}

Result<std::string> export_to(const std::string& dialect, const WeightSource& source,
                              std::vector<std::string>* notes = nullptr) {
  PARE_TRY(const ModelDescription model, describe_model(source));
  PARE_TRY(DialectPlan plan, find_dialect(dialect)->plan({source, model}));
  if (notes != nullptr) *notes = plan.notes;
  const std::string path = test::temporary_folder() + "/out";
  CreateOptions options;
  options.config_text = source.config_text();
  options.assets = {{"generation_config.json", "{\"eos_token_id\": 2}"}};
  PARE_TRY(const auto sink, create_dialect_sink(path, options, plan));
  for (const TensorSpec& spec : model.tensors) {
    PARE_TRY(const WeightData data, source.load(spec.name));
    PARE_CHECK(sink->put(spec.name, data));
  }
  PARE_CHECK(sink->finish(Manifest{}));
  return path;
}

void expect_round_trip(const std::string& dialect, const WeightSource& source, const std::string& what) {
  const auto path = export_to(dialect, source);
  ASSERT_TRUE(path) << what << ": " << format_error(path.error());
  const auto written = open_model(*path);
  ASSERT_TRUE(written) << what << ": " << format_error(written.error());
  EXPECT_EQ((*written)->format_name(), dialect);
  const auto report = verify_model(*path);
  ASSERT_TRUE(report) << what;
  EXPECT_TRUE(report->faults.empty()) << what << ": " << format_error(report->faults.front());
  EXPECT_TRUE(report->has_checksums) << what;
  EXPECT_NE((*written)->asset("generation_config.json"), nullptr);
  for (const StoredTensor& tensor : source.tensors()) {
    const WeightData a = *source.load(tensor.name), b = *(*written)->load(tensor.name);
    ASSERT_EQ(a.is_quantized(), b.is_quantized()) << what << " " << tensor.name;
    if (!a.is_quantized()) {
      EXPECT_TRUE(test::same_bytes(a.dense(), b.dense())) << what;
      continue;
    }
    EXPECT_TRUE(test::same_bytes(*a.quantized()->dequantize(), *b.quantized()->dequantize()))
        << what << " " << tensor.name;
    EXPECT_EQ(a.quantized()->activation, b.quantized()->activation) << what;
  }
}

TEST(WriteDialect, EverySchemeThatFits) {
  const std::vector<std::pair<std::string, std::vector<std::string>>> cases{
      {"gptq",
       {"int2-g32-sym", "int2-ch-asym", "int3-g32-sym", "int3-ch-asym", "int4-g32-sym", "int4-g32-asym",
        "int4-ch-sym", "int4-tensor-sym", "int8-ch-sym", "int8-g32-asym", "int8-ch-sym-full"}},
      {"awq", {"int4-g32-sym", "int4-g32-asym", "int4-ch-sym", "int4-tensor-asym"}},
      {"compressed-tensors",
       {"int4-g32-sym", "int4-g32-asym", "int4-ch-asym", "int4-tensor-asym", "int8-g32-sym", "int8-ch-sym",
        "int8-ch-asym-sf32", "int8-tensor-sym-sbf16", "fp8-e4m3-ch", "fp8-e4m3-tensor-sbf16"}}};
  for (const auto& [dialect, schemes] : cases) {
    for (const std::string& scheme : schemes)
      expect_round_trip(dialect, *quantized_llama(scheme), fmt::format("{} {}", dialect, scheme));
  }
}

TEST(WriteDialect, ActivationsOfInt8) {
  const ActivationQuant dynamic{};
  const ActivationQuant fixed{
      .mode = ActivationQuant::Mode::static_tensor, .symmetric = false, .scale = 0.3f, .zero_point = 5};
  for (const ActivationQuant& activation : {dynamic, fixed}) {
    const auto source =
        quantized_llama("int8-ch-sym", [&](QuantizedTensor& tensor) { tensor.activation = activation; });
    expect_round_trip("compressed-tensors", *source, activation.text());
    EXPECT_FALSE(export_to("gptq", *source));
  }
}

TEST(WriteDialect, ActivationOrderInGptqOnly) {
  const auto shuffle = [](QuantizedTensor& tensor) {
    tensor.group_index = *Tensor::allocate(DType::i32, {tensor.in()});
    for (int64_t i = 0; i < tensor.in(); ++i)
      tensor.group_index.mutable_data<int32_t>()[i] = int32_t((i * 5) % tensor.in() / 32);
  };
  const auto source = quantized_llama("int4-g32-sym", shuffle);
  expect_round_trip("gptq", *source, "act-order");
  EXPECT_EQ(export_to("awq", *source).error().rule, "QC08");
  EXPECT_EQ(export_to("compressed-tensors", *source).error().rule, "QC08");
}

// The words that every engine expects for symmetric 4 bits, and the version that zero points of 0 ask for.
TEST(WriteDialect, ZeroPointWords) {
  std::vector<std::string> notes;
  const auto words_of = [&](const std::string& dialect, const std::string& scheme,
                            const std::function<void(QuantizedTensor&)>& edit) {
    const auto path = export_to(dialect, *quantized_llama(scheme, edit), &notes);
    EXPECT_TRUE(path) << format_error(path.error());
    const auto tensors = *read_safetensors(*path + "/model.safetensors");
    for (const auto& [name, tensor] : tensors)
      if (name == "model.layers.0.mlp.up_proj.qzeros") return tensor.data<uint32_t>()[0];
    return 0u;
  };
  EXPECT_EQ(words_of("gptq", "int4-g32-sym", {}), 0x77777777u);
  EXPECT_THAT(notes[0], testing::HasSubstr("v1, symmetric"));
  EXPECT_EQ(words_of("awq", "int4-g32-sym", {}), 0x88888888u);
  const auto fill = [](int value) {
    return [value](QuantizedTensor& tensor) {
      std::memset(tensor.zero_points.mutable_raw(), value, tensor.zero_points.size_bytes());
    };
  };
  EXPECT_EQ(words_of("gptq", "int4-g32-asym", fill(1)), 0u);  // v1
  EXPECT_EQ(words_of("gptq", "int4-g32-asym", fill(0)), 0u);  // v2
  EXPECT_THAT(notes[0], testing::HasSubstr("v2"));
}

TEST(WriteDialect, ModelDtypeOfScalesOnlyWhereItIsExact) {
  std::vector<std::string> notes;
  ASSERT_TRUE(export_to("compressed-tensors", *quantized_llama("int4-g32-sym-sbf16"), &notes));
  EXPECT_THAT(notes[1], testing::HasSubstr("scales in BF16"));
  ASSERT_TRUE(export_to("compressed-tensors", *quantized_llama("int4-g32-sym"), &notes));
  EXPECT_THAT(notes[1], testing::HasSubstr("keep their type"));
}

TEST(WriteDialect, RefusesByNameAndReason) {
  struct Row {
    const char *dialect, *scheme, *word;
  };
  const Row rows[] = {{"gptq", "int4-g32-asymf", "zero points"},
                      {"gptq", "nf4-g32", "not integers"},
                      {"gptq", "int5-g32-sym", "number of bits"},
                      {"gptq", "int4-g32-sym-sf32", "F16"},
                      {"gptq", "int4-g24-sym", "divide"},
                      {"awq", "int3-g32-sym", "4 bits only"},
                      {"awq", "int8-ch-sym", "4 bits only"},
                      {"awq", "int4-g40-sym", "divide"},
                      {"compressed-tensors", "int3-g32-sym", "4 and 8"},
                      {"compressed-tensors", "nf4-g32", "neither"},
                      {"compressed-tensors", "int4-g24-sym", "divide"},
                      {"compressed-tensors", "fp8-e5m2-ch", "F8_E4M3"}};
  for (const Row& row : rows) {
    const auto result = export_to(row.dialect, *quantized_llama(row.scheme));
    ASSERT_FALSE(result) << row.dialect << " " << row.scheme;
    const std::string line = format_error(result.error());
    EXPECT_EQ(result.error().exit, Exit::unsupported) << line;
    EXPECT_EQ(result.error().rule, "QC08") << line;
    EXPECT_THAT(line, testing::HasSubstr(row.word));
    EXPECT_THAT(line, testing::HasSubstr("model.layers.0.self_attn.q_proj.weight"));
  }
  const auto odd = export_to("gptq", *quantized_llama("int4-ch-sym", {}, 72));
  ASSERT_FALSE(odd);
  EXPECT_THAT(format_error(odd.error()), testing::HasSubstr("multiples of 32"));
  EXPECT_THAT(format_error(odd.error()), testing::HasSubstr("gate_proj"));
}

}  // namespace
}  // namespace pare
