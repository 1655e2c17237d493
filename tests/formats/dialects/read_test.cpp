// Checkpoints of other tools, packed by the tests from the definition, read exactly.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include "engine/models/architecture.h"
#include "formats/dialects/translated_source.h"
#include "formats/dialects/words.h"
#include "tests/formats/dialects/foreign_model.h"

namespace pare {
namespace {

using test::Codes;
using test::CodesSpec;

// Reads, describes as a llama, compares every value.
void expect_exact(const std::shared_ptr<test::MemorySource>& stored, const std::vector<Codes>& linears,
                  const std::string& scheme, const std::string& what) {
  const auto source = translated(stored, "memory", {});
  ASSERT_TRUE(source) << what << ": " << format_error(source.error());
  EXPECT_EQ((*source)->config().find("quantization_config"), nullptr);
  EXPECT_EQ((*source)->config_text().find("quantization_config"), std::string::npos);
  const auto model = describe_model(**source);
  ASSERT_TRUE(model) << what << ": " << format_error(model.error());
  EXPECT_EQ(test::compare(**source, linears), "") << what;
  EXPECT_EQ((*source)->find(linears[0].module + ".weight")->scheme->text(), scheme) << what;
  EXPECT_EQ((*source)->tensors().size(), model->tensors.size());
}

TEST(Words, StreamsAgreeWithBitStrings) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (const bool padded : {false, true}) {
      const Codes codes = test::random_codes("w", 1, 77, {.bits = bits}, 5);
      const auto words = test::pack_bits(codes.code, bits, padded);
      const WordOrder order = padded ? WordOrder::padded : WordOrder::dense;
      EXPECT_EQ(stream_words(77, bits, order), int64_t(words.size())) << bits;
      std::vector<uint8_t> found(77);
      unpack_stream(words.data(), 1, 77, bits, order, found.data(), 1);
      for (size_t i = 0; i < found.size(); ++i) ASSERT_EQ(int(found[i]), codes.code[i]) << bits << " " << i;
      if (padded) continue;
      std::vector<uint32_t> packed(words.size());
      pack_stream(found.data(), 1, 77, bits, packed.data(), 1);
      EXPECT_EQ(packed, words) << bits;
    }
  }
}

TEST(Gptq, EveryWidthVersionAndGrouping) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool is_v1 : {true, false}) {
      for (const bool symmetric : {true, false}) {
        for (const int64_t group : {int64_t{-1}, int64_t{32}}) {
          std::vector<Codes> linears;
          const CodesSpec spec{.bits = bits,
                               .group_size = std::max<int64_t>(group, 0),
                               .symmetric = symmetric,
                               .lowest_zero_point = is_v1 ? 1 : 0};
          const auto stored = test::foreign_llama(
              fmt::format(R"({{"quant_method":"gptq","bits":{},"group_size":{},"desc_act":false,"sym":{},
                "checkpoint_format":"{}"}})",
                          bits, group, symmetric, is_v1 ? "gptq" : "gptq_v2"),
              spec, linears, [&](auto& source, const Codes& codes) { test::put_gptq(source, codes, is_v1); });
          const std::string text =
              fmt::format("int{}-{}-{}{}", bits, group > 0 ? "g32" : "ch", symmetric ? "sym" : "asym",
                          symmetric && bits == 8 ? "-full" : "");
          expect_exact(stored, linears, text, text + (is_v1 ? " v1" : " v2"));
        }
      }
    }
  }
}

TEST(Gptq, ActivationOrderKeepsItsGroups) {
  std::vector<Codes> linears;
  const auto stored =
      test::foreign_llama(R"({"quant_method":"gptq","bits":4,"group_size":32,"desc_act":true})",
                          {.group_size = 32, .act_order = true}, linears,
                          [](auto& source, const Codes& codes) { test::put_gptq(source, codes, true); });
  expect_exact(stored, linears, "int4-g32-sym", "act-order");
  const auto source = *translated(stored, "memory", {});
  EXPECT_TRUE(source->load(linears[0].module + ".weight")->quantized()->group_index.defined());
}

TEST(Gptq, OverridesByPattern) {
  std::vector<Codes> linears;
  const auto put = [](auto& source, const Codes& codes) {
    if (codes.module.ends_with("q_proj"))
      return test::put_gptq(source, test::random_codes(codes.module, codes.out, codes.in, {.bits = 8}, 1),
                            true);
    test::put_gptq(source, codes, true);
  };
  auto stored = test::foreign_llama(R"({"quant_method":"gptq","bits":4,"group_size":32,
    "dynamic":{"+:.*\\.q_proj":{"bits":8,"group_size":-1},"-:.*up_proj$":{}}})",
                                    {.group_size = 32}, linears, put);
  // An excluded module is dense.
  for (const char* part : {"qweight", "qzeros", "scales", "g_idx"})
    stored->remove(std::string("model.layers.0.mlp.up_proj.") + part);
  Tensor dense = *Tensor::allocate(DType::bf16, {96, 64});
  stored->add("model.layers.0.mlp.up_proj.weight", dense);
  const auto source = translated(stored, "memory", {});
  ASSERT_TRUE(source) << format_error(source.error());
  EXPECT_TRUE(describe_model(**source));
  EXPECT_EQ((*source)->find("model.layers.0.self_attn.q_proj.weight")->scheme->text(), "int8-ch-sym-full");
  EXPECT_EQ((*source)->find("model.layers.0.self_attn.k_proj.weight")->scheme->text(), "int4-g32-sym");
  EXPECT_FALSE((*source)->find("model.layers.0.mlp.up_proj.weight")->scheme);
}

TEST(Awq, GemmOrder) {
  for (const bool symmetric : {true, false}) {
    for (const char* config :
         {R"({"quant_method":"awq","bits":4,"group_size":32,"zero_point":true,"version":"gemm"})",
          R"({"quant_method":"awq","w_bit":4,"q_group_size":32,"version":"GEMM"})"}) {
      std::vector<Codes> linears;
      const auto stored =
          test::foreign_llama(config, {.group_size = 32, .symmetric = symmetric}, linears,
                              [](auto& source, const Codes& codes) { test::put_awq(source, codes); });
      expect_exact(stored, linears, symmetric ? "int4-g32-sym" : "int4-g32-asym", config);
    }
  }
}

TEST(CompressedTensors, PackedEveryWidthBothPackings) {
  for (int bits = 1; bits <= 8; ++bits) {
    for (const bool padded : {false, true}) {
      for (const bool symmetric : {true, false}) {
        for (const int64_t group : {int64_t{0}, int64_t{32}}) {
          std::vector<Codes> linears;
          const std::string weights = fmt::format(
              R"({{"num_bits":{},"symmetric":{},"strategy":"{}","group_size":{},"observer":"minmax","observer_kwargs":{{}}}})",
              bits, symmetric, group > 0 ? "group" : "channel", group > 0 ? "32" : "null");
          const auto stored = test::foreign_llama(
              test::compressed_config("pack-quantized", weights),
              {.bits = bits, .group_size = group, .symmetric = symmetric}, linears,
              [&](auto& source, const Codes& codes) { test::put_packed(source, codes, symmetric, padded); });
          const std::string text =
              fmt::format("int{}-{}-{}{}-sbf16", std::max(bits, 2), group > 0 ? "g32" : "ch",
                          symmetric ? "sym" : "asym", symmetric && bits == 8 ? "-full" : "");
          expect_exact(stored, linears, text, fmt::format("{} {}", text, padded));
        }
      }
    }
  }
}

TEST(CompressedTensors, BytesPerChannelAndTheirActivations) {
  const std::string dynamic =
      R"({"num_bits":8,"type":"int","symmetric":true,"strategy":"token","dynamic":true})";
  for (const bool symmetric : {true, false}) {
    std::vector<Codes> linears;
    const auto stored = test::foreign_llama(
        test::compressed_config(
            "int-quantized",
            fmt::format(R"({{"num_bits":8,"strategy":"channel","symmetric":{}}})", symmetric), dynamic),
        {.bits = 8, .symmetric = symmetric}, linears,
        [&](auto& source, const Codes& codes) { test::put_plain(source, codes, symmetric); });
    expect_exact(stored, linears, symmetric ? "int8-ch-sym-full-sbf16" : "int8-ch-asym-sbf16", "W8A8");
    const auto source = *translated(stored, "memory", {});
    const auto activation = source->find(linears[0].module + ".weight")->activation;
    ASSERT_TRUE(activation);
    EXPECT_EQ(activation->mode, ActivationQuant::Mode::dynamic_token);
    EXPECT_EQ(source->load(linears[0].module + ".weight")->quantized()->activation, activation);
  }
}

TEST(CompressedTensors, StaticActivationsHaveTheirScale) {
  std::vector<Codes> linears;
  const auto stored = test::foreign_llama(
      test::compressed_config("int-quantized", R"({"num_bits":8,"strategy":"channel"})",
                              R"({"num_bits":8,"symmetric":false,"strategy":"tensor","dynamic":false})"),
      {.bits = 8}, linears, [](auto& source, const Codes& codes) {
        test::put_plain(source, codes, true);
        source.add(codes.module + ".input_scale", test::scale_tensor({0.25f}, {1}, DType::bf16));
        source.add(codes.module + ".input_zero_point", test::byte_tensor({-7}, {1}));
      });
  expect_exact(stored, linears, "int8-ch-sym-full-sbf16", "static");
  const ActivationQuant expected{.mode = ActivationQuant::Mode::static_tensor,
                                 .bits = 8,
                                 .symmetric = false,
                                 .scale = 0.25f,
                                 .zero_point = -7};
  EXPECT_EQ((*translated(stored, "memory", {}))->find(linears[0].module + ".weight")->activation, expected);
}

// FP8 weights; quantized activations are refused unless the weights alone are asked for.
TEST(CompressedTensors, FloatingWeights) {
  const auto make = [](const std::string& inputs, std::vector<Codes>& linears) {
    return test::foreign_llama(
        test::compressed_config("float-quantized", R"({"num_bits":8,"type":"float","strategy":"channel"})",
                                inputs),
        {.bits = 8}, linears, [](auto& source, const Codes& codes) {
          Tensor weight = *Tensor::allocate(DType::f8_e4m3, {codes.out, codes.in});
          for (int64_t i = 0; i < weight.numel(); ++i)
            weight.mutable_data<uint8_t>()[i] = uint8_t(codes.code[size_t(i)] & 0x77);
          source.add(codes.module + ".weight", weight);
          source.add(codes.module + ".weight_scale",
                     test::scale_tensor(codes.scale, {codes.out, 1}, DType::bf16));
          source.add(codes.module + ".input_scale", test::scale_tensor({1.0f}, {1}, DType::bf16));
        });
  };
  std::vector<Codes> linears;
  const std::string inputs = R"({"num_bits":8,"type":"float","strategy":"tensor","dynamic":false})";
  const auto refused = translated(make(inputs, linears), "memory", {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().exit, Exit::unsupported);
  EXPECT_NE(format_error(refused.error()).find("--ignore-activation-quant"), std::string::npos);
  OpenOptions options;
  options.weights_only = true;
  linears.clear();
  const auto source = translated(make(inputs, linears), "memory", options);
  ASSERT_TRUE(source) << format_error(source.error());
  EXPECT_TRUE(describe_model(**source));
  const Codes codes = linears[0];  // the vector grows below
  EXPECT_EQ((*source)->find(codes.module + ".weight")->scheme->text(), "fp8-e4m3-ch-sbf16");
  const Tensor values = *(*source)->load(codes.module + ".weight")->quantized()->dequantize();
  const Tensor raw = *converted(make(inputs, linears)->dense(codes.module + ".weight"), DType::f32);
  for (int64_t i = 0; i < values.numel(); ++i)
    ASSERT_EQ(values.data<float>()[i], raw.data<float>()[i] * codes.scale[size_t(i / codes.in)]) << i;
}

// Paths before patterns before classes; ignore wins.
TEST(CompressedTensors, TargetsByPathPatternAndClass) {
  std::vector<Codes> linears;
  const std::string config =
      R"({"quant_method":"compressed-tensors","format":"pack-quantized","quantization_status":"compressed",
    "ignore":["re:.*up_proj"],"config_groups":{
      "a":{"targets":["Linear"],"weights":{"num_bits":4,"strategy":"channel"}},
      "b":{"targets":["re:model.layers.0.self_attn"],"weights":{"num_bits":8,"strategy":"channel"}},
      "c":{"targets":["model.layers.0.self_attn.k_proj"],"weights":{"num_bits":2,"strategy":"channel"}}}})";
  const auto stored =
      test::foreign_llama(config, {}, linears, [](test::MemorySource& source, const Codes& codes) {
        const bool is_attention = codes.module.find("self_attn") != std::string::npos;
        const int bits = codes.module.ends_with("k_proj") ? 2 : is_attention ? 8 : 4;
        if (codes.module.ends_with("up_proj"))
          return source.add(codes.module + ".weight", *Tensor::allocate(DType::bf16, {codes.out, codes.in}));
        test::put_packed(source, test::random_codes(codes.module, codes.out, codes.in, {.bits = bits}, 2),
                         true, false);
      });
  const auto source = translated(stored, "memory", {});
  ASSERT_TRUE(source) << format_error(source.error());
  EXPECT_TRUE(describe_model(**source));
  EXPECT_EQ((*source)->find("model.layers.0.self_attn.q_proj.weight")->scheme->bits, 8);
  EXPECT_EQ((*source)->find("model.layers.0.self_attn.k_proj.weight")->scheme->bits, 2);
  EXPECT_EQ((*source)->find("model.layers.0.mlp.down_proj.weight")->scheme->bits, 4);
  EXPECT_FALSE((*source)->find("model.layers.0.mlp.up_proj.weight")->scheme);
}

// A scale of 0 says that its group is 0; positive scales are a rule of ours only.
TEST(Scales, ZeroScalesKeepTheirValues) {
  std::vector<Codes> linears;
  auto stored = test::foreign_llama(R"({"quant_method":"gptq","bits":4,"group_size":32})", {.group_size = 32},
                                    linears, [](auto& source, const Codes& codes) {
                                      Codes edited = codes;
                                      edited.scale[3] = 0.0f;
                                      test::put_gptq(source, edited, true);
                                    });
  for (Codes& codes : linears) codes.scale[3] = 0.0f;
  const auto source = translated(stored, "memory", {});
  ASSERT_TRUE(source) << format_error(source.error());
  EXPECT_EQ(test::compare(**source, linears), "");
}

}  // namespace
}  // namespace pare
