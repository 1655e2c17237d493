// Injected numeric faults: every row bends a tiny model, its data or its statistics, and says which exit
// code, rule and place must be named, and that nothing is published. Rows that have one correct answer say
// it.
#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/text.h"
#include "quantize/stream.h"
#include "tests/quantize/numeric_faults.h"

namespace pare {
namespace {

using test::checked;
using test::edit;
using test::extra;
using test::Fault;
using test::fill;
using test::JobOutcome;
using test::kInf;
using test::kLargest;
using test::kNan;
using test::llama;
using test::MemorySource;
using test::place_of;
using test::restored;
using test::saved;
using test::set_one;
using testing::HasSubstr;

// --- NaN and infinity in each kind of tensor, at each kind of position: found before the first commit
// --------

void add_weight_rows(std::vector<Fault>& rows) {
  const std::string gpt2 = "transformer.h.1.";
  const std::vector<std::pair<const char*, std::vector<std::string>>> families = {
      {test::kTinyLlama,
       {"model.embed_tokens.weight", llama(2, "self_attn.q_proj"), llama(1, "self_attn.k_proj"),
        llama(0, "self_attn.v_proj"), llama(2, "self_attn.o_proj"), llama(1, "mlp.gate_proj"),
        llama(0, "mlp.up_proj"), llama(2, "mlp.down_proj"), llama(1, "input_layernorm"),
        llama(2, "post_attention_layernorm"), "model.norm.weight", "lm_head.weight"}},
      {test::kTinyGpt2,
       {"transformer.wpe.weight", gpt2 + "attn.c_attn.weight", gpt2 + "attn.c_attn.bias",
        gpt2 + "mlp.c_fc.bias", gpt2 + "mlp.c_proj.weight", gpt2 + "ln_1.bias", "transformer.ln_f.weight"}}};
  const std::pair<const char*, float> values[] = {{"NaN", kNan}, {"PlusInf", kInf}, {"MinusInf", -kInf}};
  const char* const methods[] = {"gptq", "awq+rtn", "smoothquant+rtn", "rtn+importance"};
  size_t number = 0;
  for (const auto& [config, names] : families) {
    const auto source = test::tiny_model(config);
    for (const std::string& name : names) {
      for (const auto& [kind, value] : values) {
        const int at = int(number % 3);
        const float fault = value;
        Fault row{.name = fmt::format("{}_{}_{}", kind, name, at), .config = config};
        row.method = methods[number % std::size(methods)];
        row.bend = [name, at, fault](MemorySource& model) { set_one(model, name, at, fault); };
        row.exit = 7;
        row.rule = std::isnan(value) ? "NU01" : "NU02";
        row.where = quote(name) + place_of(source->dense(name).shape(), at);
        rows.push_back(row);
        ++number;
      }
      ++number;  // so that kinds and positions do not go in step
    }
  }
}

// --- activations
// ---------------------------------------------------------------------------------------------

void add_activation_rows(std::vector<Fault>& rows) {
  const auto overflow = [&](const char* label, const std::string& tensor, const char* method,
                            const std::string& where, int64_t commits) {
    rows.push_back({.name = label,
                    .method = method,
                    .bend = [tensor](MemorySource& model) { fill(model, tensor, kLargest); },
                    .exit = 7,
                    .rule = "NU06",
                    .where = where,
                    .commits = commits});
  };
  overflow("InfAtAttentionIn", llama(1, "input_layernorm"), "gptq", "block 1 attn.in sample 0 token 0", 1);
  overflow("InfAtAttentionOut", llama(2, "self_attn.v_proj"), "gptq", "block 2 attn.out sample 0", 2);
  overflow("InfAtMlpIn", llama(0, "post_attention_layernorm"), "awq", "block 0 mlp.in sample 0", 0);
  overflow("InfAtMlpOut", llama(1, "mlp.up_proj"), "smoothquant+gptq", "block 1 mlp.act sample 0", 1);
  // Only token 39 excites channel 0, and it comes once: sample 5, token 3.
  rows.push_back({.name = "InfInOneSample",
                  .bend =
                      [](MemorySource& model) {
                        edit(model, "model.embed_tokens.weight", [](float* data, int64_t) {
                          for (int64_t id = 0; id < 40; ++id) {
                            data[id * 24] = id == 39 ? 1.0f : 0.0f;
                            for (int64_t c = 1; c < 24 && id == 39; ++c) data[id * 24 + c] = 0.0f;
                          }
                        });
                        edit(model, llama(0, "self_attn.v_proj"), [](float* data, int64_t count) {
                          for (int64_t i = 0; i < count; i += 24) data[i] = kLargest;
                        });
                      },
                  .adjust =
                      [](QuantizeJob& job) {
                        job.options.quantize.clamp_scales = true;
                        // Kept as floats, so that the codes of v do not change what is injected.
                        for (size_t i = 0; i < job.schemes.size(); ++i)
                          if (job.model.tensors[i].role == Role::value) job.schemes[i].reset();
                        for (int32_t& id : job.windows.ids) id %= 39;
                        job.windows.ids[5 * 16 + 3] = 39;
                      },
                  .exit = 7,
                  .rule = "NU06",
                  .where = "block 0 attn.out sample 5 token 3"});
  // Finite activations whose squares are not.
  for (const char* method : {"gptq", "rtn+importance"}) {
    rows.push_back(
        {.name = fmt::format("SquaresOverflow_{}", method),
         .method = method,
         .bend = [](MemorySource& model) { fill(model, llama(1, "post_attention_layernorm"), 1e25f); },
         .exit = 7,
         .rule = "NU09",
         .where = "block 1 mlp.in",
         .commits = 1});
  }
}

// --- zeros, subnormals, scales
// -------------------------------------------------------------------------------

void add_value_rows(std::vector<Fault>& rows) {
  const std::string name = llama(1, "mlp.up_proj");  // [40, 24]
  for (const char* method : {"gptq", "rtn", "awq+gptq", "hqq"}) {
    for (const char* scheme : {"int4-g32-sf32", "int8", "int3-g32-asym"}) {
      const std::string method_name = method, scheme_name = scheme;
      if (method_name == "hqq" && scheme_name != "int3-g32-asym") continue;
      rows.push_back({.name = fmt::format("ZeroRows_{}_{}", method, scheme),
                      .method = method,
                      .scheme = scheme,
                      .bend =
                          [name](MemorySource& model) {
                            edit(model, name, [](float* data, int64_t) { std::fill_n(data + 24, 48, 0.0f); });
                          },
                      .commits = 3,
                      .check =
                          [name](const JobOutcome& outcome) {
                            const std::vector<float> values = restored(outcome, name);
                            for (size_t i = 24; i < 72; ++i) ASSERT_EQ(values[i], 0.0f) << i;
                          }});
      if (method_name == "hqq") continue;  // its zero points are floats of a fit
      rows.push_back({.name = fmt::format("Subnormals_{}_{}", method, scheme),
                      .method = method,
                      .scheme = scheme,
                      .bend =
                          [name](MemorySource& model) {
                            edit(model, name,
                                 [](float* data, int64_t) { std::fill_n(data + 24, 24, 1e-41f); });
                          },
                      .commits = 3,
                      .check =
                          [name](const JobOutcome& outcome) {
                            const std::vector<float> values = restored(outcome, name);
                            for (size_t i = 24; i < 48; ++i) ASSERT_EQ(values[i], 0.0f) << i;
                            for (const float value : values) ASSERT_TRUE(std::isfinite(value));
                          }});
    }
  }
  rows.push_back({.name = "ZeroTensor",
                  .bend = [](MemorySource& model) { fill(model, llama(1, "self_attn.q_proj"), 0.0f); },
                  .commits = 3,
                  .check =
                      [](const JobOutcome& outcome) {
                        for (const float value : restored(outcome, llama(1, "self_attn.q_proj")))
                          ASSERT_EQ(value, 0.0f);
                        EXPECT_EQ(outcome.record(llama(1, "self_attn.q_proj"))->relative_error, 0.0);
                        EXPECT_EQ(extra(outcome, llama(1, "self_attn.q_proj"), "output_error"), 0.0);
                      }});
  const auto scale_rows = [&](const char* label, float factor, const char* method) {
    const std::string q = llama(1, "self_attn.q_proj");
    const auto bend = [q, factor](MemorySource& model) {
      edit(model, q, [factor](float* data, int64_t) {
        for (int64_t i = 48; i < 72; ++i) data[i] *= factor;
      });
    };
    rows.push_back({.name = fmt::format("{}_{}", label, method),
                    .method = method,
                    .scheme = "int4-g32",
                    .bend = bend,
                    .exit = 7,
                    .rule = "NU17",
                    .where = quote(q) + " row 2 group 0",
                    .commits = 1});
    rows.push_back({.name = fmt::format("{}Clamped_{}", label, method),
                    .method = method,
                    .scheme = "int4-g32",
                    .bend = bend,
                    .adjust = [](QuantizeJob& job) { job.options.quantize.clamp_scales = true; },
                    .commits = 3,
                    .check =
                        [q](const JobOutcome& outcome) {
                          EXPECT_EQ(extra(outcome, q, "clamped_scales"), 1);
                          for (const float value : restored(outcome, q)) ASSERT_TRUE(std::isfinite(value));
                        }});
  };
  for (const char* method : {"gptq", "rtn"}) {
    scale_rows("ScaleTooLarge", 1e8f, method);
    scale_rows("ScaleTooSmall", 1e-8f, method);
  }
  rows.push_back(
      {.name = "TableScaleTooLarge",
       .bend = [](MemorySource& model) { set_one(model, "lm_head.weight", 0, 1e9f); },
       .adjust = [](QuantizeJob& job) { job.schemes.back() = checked(QuantScheme::parse("int8")); },
       .exit = 7,
       .rule = "NU17",
       .where = "\"lm_head.weight\" row 0 group 0",
       .commits = 3});
  rows.push_back({.name = "TableScaleClamped",
                  .bend = [](MemorySource& model) { set_one(model, "lm_head.weight", 0, 1e9f); },
                  .adjust =
                      [](QuantizeJob& job) {
                        job.schemes.back() = checked(QuantScheme::parse("int8"));
                        job.options.quantize.clamp_scales = true;
                      },
                  .commits = 3,
                  .check =
                      [](const JobOutcome& outcome) {
                        EXPECT_EQ(extra(outcome, "lm_head.weight", "clamped_scales"), 1);
                      }});
  // A bias, a norm and a head that are copied keep every bit: -0, subnormals, the largest values.
  rows.push_back({.name = "CopiedBits",
                  .config = test::kTinyGpt2,
                  .bend =
                      [](MemorySource& model) {
                        edit(model, "transformer.h.1.mlp.c_fc.bias", [](float* data, int64_t) {
                          data[0] = -0.0f, data[1] = 1e-45f, data[2] = -1e-39f;
                        });
                        set_one(model, "transformer.ln_f.weight", 2, kLargest);
                      },
                  .commits = 2,
                  .check =
                      [](const JobOutcome& outcome) {
                        const float* bias =
                            outcome.sink.weights.at("transformer.h.1.mlp.c_fc.bias").dense().data<float>();
                        EXPECT_TRUE(std::signbit(bias[0]));
                        EXPECT_EQ(bias[1], 1e-45f);
                        EXPECT_EQ(bias[2], -1e-39f);
                        const Tensor& norm = outcome.sink.weights.at("transformer.ln_f.weight").dense();
                        EXPECT_EQ(norm.data<float>()[23], kLargest);
                      }});
  // The largest finite weights stay finite in every kind of scheme with wide scales; so do those of 8-bit
  // floats.
  for (const char* scheme :
       {"int8-sf32", "int8-asym-sf32", "int4-g32-sf32", "nf4-g32-sf32", "fp8-e4m3-ch-sf32"}) {
    rows.push_back(
        {.name = fmt::format("LargestFinite_{}", scheme),
         .method = "rtn",
         .scheme = scheme,
         .bend = [](MemorySource& model) { set_one(model, llama(2, "self_attn.q_proj"), 1, -kLargest); },
         .adjust =
             [](QuantizeJob& job) {  // only this one, and nothing runs through it
               for (size_t i = 0; i < job.schemes.size(); ++i)
                 if (job.model.tensors[i].name != llama(2, "self_attn.q_proj")) job.schemes[i].reset();
               saved(Site::none, [](SiteStatistics&) {})(job);
             },
         .commits = 3,
         .check =
             [](const JobOutcome& outcome) {
               const std::vector<float> values = restored(outcome, llama(2, "self_attn.q_proj"));
               for (const float value : values) ASSERT_TRUE(std::isfinite(value)) << value;
               EXPECT_NEAR(values[values.size() / 2] / kLargest, -1.0, 0.01);
             }});
  }
}

// --- inputs that are quantized already, scaled weights that do not fit their type
// ----------------------------

void add_form_rows(std::vector<Fault>& rows) {
  const std::string q = llama(2, "self_attn.q_proj");
  const auto pack = [](const std::string& name) {
    return [name](MemorySource& model) { model.add(name, test::int8_of(model.dense(name)), false); };
  };
  rows.push_back({.name = "AlreadyQuantized", .bend = pack(q), .exit = 4, .rule = "CF12", .where = quote(q)});
  rows.push_back(
      {.name = "TableAlreadyQuantized",
       .bend = pack("lm_head.weight"),
       .adjust = [](QuantizeJob& job) { job.schemes.back() = checked(QuantScheme::parse("int8")); },
       .exit = 4,
       .rule = "CF12",
       .where = "\"lm_head.weight\""});
  rows.push_back({.name = "QuantizedButKept",
                  .bend = pack("lm_head.weight"),
                  .commits = 3,
                  .check = [](const JobOutcome& outcome) {
                    EXPECT_EQ(outcome.record("lm_head.weight")->method_applied, "copy");
                  }});
  rows.push_back({.name = "ScaledWeightOverflowsItsType",
                  .method = "smoothquant",
                  .bend =
                      [](MemorySource& model) {
                        fill(model, llama(1, "post_attention_layernorm"), 100.0f);
                        set_one(model, llama(1, "mlp.gate_proj"), 0, 60000.0f);
                        model.add(llama(1, "mlp.gate_proj"),
                                  checked(converted(model.dense(llama(1, "mlp.gate_proj")), DType::f16)));
                      },
                  .adjust =
                      [](QuantizeJob& job) {
                        job.options.smooth_alpha = 0.95;
                        for (size_t i = 0; i < job.schemes.size(); ++i)
                          if (job.model.tensors[i].name == llama(1, "mlp.gate_proj")) job.schemes[i].reset();
                      },
                  .exit = 7,
                  .rule = "NU03",
                  .where = quote(llama(1, "mlp.gate_proj")) + "[0,0]",
                  .commits = 1});
}

std::vector<Fault> all_faults() {
  std::vector<Fault> rows;
  add_weight_rows(rows);
  add_activation_rows(rows);
  test::add_moment_rows(rows);
  test::add_data_rows(rows);
  add_value_rows(rows);
  add_form_rows(rows);
  return rows;
}

class NumericFaults : public ::testing::TestWithParam<Fault> {
 protected:
  void SetUp() override { install_backend(cpu_backend()); }
  static std::unique_ptr<Backend> cpu_backend() { return make_cpu_backend(); }
};

TEST_P(NumericFaults, IsReported) {
  const Fault& fault = GetParam();
  const auto source = test::tiny_model(fault.config);
  fault.bend(*source);
  QuantizeJob job = test::tiny_job(source, fault.method, fault.scheme);
  fault.adjust(job);
  const JobOutcome outcome = test::run_job(job);
  EXPECT_EQ(outcome.commits, fault.commits);
  if (fault.exit == 0) {
    ASSERT_FALSE(outcome.error) << format_error(*outcome.error);
    EXPECT_TRUE(outcome.sink.is_published);
    fault.check(outcome);
    return;
  }
  ASSERT_TRUE(outcome.error) << "accepted";
  const std::string line = format_error(*outcome.error);
  EXPECT_EQ(int(outcome.error->exit), fault.exit) << line;
  EXPECT_EQ(outcome.error->rule, fault.rule) << line;
  EXPECT_THAT(outcome.error->where, HasSubstr(fault.where)) << line;
  EXPECT_EQ(outcome.error->path, "memory") << line;
  EXPECT_FALSE(outcome.sink.is_published);
}

INSTANTIATE_TEST_SUITE_P(Rows, NumericFaults, ::testing::ValuesIn(all_faults()), [](const auto& info) {
  std::string name = info.param.name;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

// The same through the walk that needs no data.
TEST(NumericFaultsOfStream, WeightsAreNamedAndNothingIsPublished) {
  install_backend(make_cpu_backend());
  const QuantizeMethod* rtn = checked(find_quantize_method("rtn"));
  for (const auto& [name, value, rule] : {std::tuple{"model.embed_tokens.weight", kNan, "NU01"},
                                          std::tuple{"model.layers.1.mlp.down_proj.weight", kInf, "NU02"},
                                          std::tuple{"model.layers.2.input_layernorm.weight", -kInf, "NU02"},
                                          std::tuple{"lm_head.weight", kNan, "NU01"}}) {
    const auto source = test::tiny_model(test::kTinyLlama);
    set_one(*source, name, 2, value);
    const ModelDescription model = checked(describe_model(*source));
    test::MemorySink sink;
    Manifest manifest;
    const Status status = quantize_stream(*source, model, test::linear_schemes(model, "int8"), *rtn, {}, sink,
                                          manifest, [](uint64_t) { return Status(); });
    ASSERT_FALSE(status) << name;
    EXPECT_EQ(status.error().exit, Exit::numeric);
    EXPECT_EQ(status.error().rule, rule);
    EXPECT_EQ(status.error().where, quote(name) + place_of(source->dense(name).shape(), 2));
    EXPECT_FALSE(sink.is_published);
  }
}

}  // namespace
}  // namespace pare
