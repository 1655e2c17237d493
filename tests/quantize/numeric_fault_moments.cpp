// Rows of injected faults: second moments that are none, and data that reaches few columns or none.
#include <cmath>

#include "tests/quantize/numeric_faults.h"

namespace pare::test {

// --- second moments
// ------------------------------------------------------------------------------------------

// Statistics of independent channels, with the moment of one site bent.
std::function<void(QuantizeJob&)> saved(Site site, const std::function<void(SiteStatistics&)>& bend) {
  return [site, bend](QuantizeJob& job) {
    const BlockConfig shape = job.model.config.blocks.front();
    const int64_t hidden = job.model.config.hidden_size;
    job.saved_statistics = [=](int block, Site at, StatisticSet) -> Result<SiteStatistics> {
      SiteStatistics statistics;
      statistics.channels = at == Site::attention_out ? shape.heads * shape.head_dim
                            : at == Site::mlp_out     ? shape.intermediate_size
                                                      : hidden;
      const int64_t n = statistics.channels;
      statistics.tokens = 128, statistics.samples = 8;
      statistics.second_moment = checked(Tensor::allocate(DType::f32, {n, n}));
      float* h = statistics.second_moment.mutable_data<float>();
      for (int64_t i = 0; i < n * n; ++i) h[i] = i / n == i % n ? 128.0f : 1.0f;
      statistics.abs_max.assign(size_t(n), 3.0f);
      statistics.abs_sum.assign(size_t(n), 100.0);
      if (at == site && block == 1) bend(statistics);
      return statistics;
    };
  };
}

namespace {

std::function<void(SiteStatistics&)> at(int64_t row, int64_t column, float value) {
  return [=](SiteStatistics& s) { s.second_moment.mutable_data<float>()[row * s.channels + column] = value; };
}

// Off the diagonal so large that no damping of the schedule helps.
void never_definite(SiteStatistics& statistics) {
  const int64_t n = statistics.channels;
  for (int64_t i = 0; i < n * n; ++i)
    if (i / n != i % n) statistics.second_moment.mutable_data<float>()[i] = 1e7f;
}

}  // namespace

void add_moment_rows(std::vector<Fault>& rows) {
  const auto bent = [&](const char* name, const char* method, Site site,
                        const std::function<void(SiteStatistics&)>& bend, const char* rule) {
    rows.push_back({.name = name,
                    .method = method,
                    .adjust = saved(site, bend),
                    .exit = 7,
                    .rule = rule,
                    .where = fmt::format("block 1 {}", site_name(site)),
                    .commits = 1});
  };
  bent("MomentNaN", "gptq", Site::attention_in, at(3, 5, kNan), "NU09");
  bent("MomentInf", "gptq", Site::attention_out, at(0, 0, kInf), "NU09");
  bent("MomentMinusInfRtn", "rtn+importance", Site::mlp_in, at(23, 23, -kInf), "NU09");
  bent("MomentAsymmetric", "gptq", Site::mlp_out, at(7, 2, 9.0f), "NU09");
  bent("MomentAsymmetricAwq", "awq", Site::mlp_in, at(2, 7, -9.0f), "NU09");
  bent("MomentNegativeDiagonal", "gptq", Site::mlp_in, at(4, 4, -1.0f), "NU09");
  bent("MomentNaNSmooth", "smoothquant", Site::attention_in, at(1, 1, kNan), "NU09");
  bent("MomentIndefinite", "gptq", Site::attention_in, never_definite, "NU08");
  bent("MomentIndefiniteAwq", "awq+gptq", Site::mlp_out, never_definite, "NU08");
  rows.push_back({.name = "IndefiniteWithFallback",
                  .adjust =
                      [](QuantizeJob& job) {
                        saved(Site::mlp_in, never_definite)(job);
                        job.options.allow_fallback = true;
                      },
                  .commits = 3,
                  .check =
                      [](const JobOutcome& outcome) {
                        EXPECT_EQ(outcome.manifest.fallbacks(), 2) << "gate and up of block 1";
                        const TensorRecord* record = outcome.record(llama(1, "mlp.up_proj"));
                        EXPECT_EQ(record->method_asked, "gptq");
                        EXPECT_EQ(record->method_applied, "rtn");
                        EXPECT_NE(record->fallback, "");
                        EXPECT_EQ(extra(outcome, llama(1, "mlp.up_proj"), "damping_retries"), 5);
                        EXPECT_EQ(outcome.record(llama(0, "mlp.up_proj"))->method_applied, "gptq");
                      }});
  // Indefinite as it is, definite with a raised damping: recorded, no fallback.
  rows.push_back({.name = "RaisedDamping",
                  .adjust = saved(Site::mlp_in,
                                  [](SiteStatistics& s) {
                                    const int64_t n = s.channels;
                                    for (int64_t i = 0; i < n * n; ++i)
                                      if (i / n != i % n) s.second_moment.mutable_data<float>()[i] = -10.0f;
                                  }),
                  .commits = 3,
                  .check = [](const JobOutcome& outcome) {
                    EXPECT_EQ(outcome.manifest.fallbacks(), 0);
                    EXPECT_GT(extra(outcome, llama(1, "mlp.up_proj"), "damping_retries"), 0);
                    EXPECT_GT(extra(outcome, llama(1, "mlp.up_proj"), "damping"), 0.05);
                    EXPECT_EQ(extra(outcome, llama(0, "mlp.up_proj"), "damping"), 0.01);
                  }});
  // A scale that no weight can be multiplied by.
  rows.push_back({.name = "SmoothScaleOutOfRange",
                  .method = "smoothquant",
                  .bend =
                      [](MemorySource& model) {
                        for (const char* part : {"mlp.gate_proj", "mlp.up_proj"})
                          edit(model, llama(1, part), [](float* data, int64_t count) {
                            for (int64_t i = 3; i < count; i += 24) data[i] = 0.0f;
                          });
                      },
                  .adjust = saved(Site::mlp_in, [](SiteStatistics& s) { s.abs_max[3] = 1e35f; }),
                  .exit = 7,
                  .rule = "NU17",
                  .where = "block 1 mlp.in channel 3",
                  .commits = 1});
}

// --- dead columns, few tokens
// --------------------------------------------------------------------------------

void add_data_rows(std::vector<Fault>& rows) {
  for (const int64_t dead : {1, 12, 23}) {
    rows.push_back({.name = fmt::format("DeadColumns{}", dead),
                    .bend =
                        [dead](MemorySource& model) {
                          edit(model, llama(1, "input_layernorm"),
                               [dead](float* data, int64_t) { std::fill_n(data, dead, 0.0f); });
                        },
                    .commits = 3,
                    .check =
                        [dead](const JobOutcome& outcome) {
                          for (const char* part : {"self_attn.q_proj", "self_attn.v_proj"})
                            EXPECT_EQ(extra(outcome, llama(1, part), "dead_columns"), dead);
                          EXPECT_EQ(extra(outcome, llama(1, "mlp.up_proj"), "dead_columns"), 0);
                          EXPECT_EQ(outcome.manifest.fallbacks(), 0);
                        }});
  }
  const auto dead_site = [](MemorySource& model) { fill(model, llama(1, "self_attn.v_proj"), 0.0f); };
  rows.push_back({.name = "AllColumnsDead",
                  .bend = dead_site,
                  .exit = 7,
                  .rule = "NU10",
                  .where = "block 1 attn.out",
                  .commits = 1});
  rows.push_back({.name = "AllColumnsDeadWithFallback",
                  .bend = dead_site,
                  .adjust = [](QuantizeJob& job) { job.options.allow_fallback = true; },
                  .commits = 3,
                  .check =
                      [](const JobOutcome& outcome) {
                        EXPECT_EQ(outcome.manifest.fallbacks(), 1);
                        EXPECT_EQ(outcome.record(llama(1, "self_attn.o_proj"))->method_applied, "rtn");
                        EXPECT_EQ(extra(outcome, llama(1, "self_attn.o_proj"), "output_error"), 0.0);
                        for (const float value : restored(outcome, llama(1, "self_attn.v_proj")))
                          ASSERT_EQ(value, 0.0f);
                      }});
  rows.push_back({.name = "AllColumnsDeadAwq", .method = "awq", .bend = dead_site, .commits = 3});
  for (const char* method : {"gptq", "awq+gptq"}) {
    rows.push_back({.name = fmt::format("FewTokens_{}", method),
                    .method = method,
                    .adjust = [](QuantizeJob& job) { job.windows = tiny_windows(1, 5); },
                    .commits = 3,
                    .check =
                        [](const JobOutcome& outcome) {
                          EXPECT_EQ(extra(outcome, llama(0, "self_attn.q_proj"), "tokens"), 5);
                          EXPECT_EQ(extra(outcome, llama(0, "self_attn.q_proj"), "rank_deficient"), 1);
                          EXPECT_EQ(extra(outcome, llama(2, "mlp.down_proj"), "rank_deficient"), 1);
                          for (const float value : restored(outcome, llama(2, "mlp.down_proj")))
                            ASSERT_TRUE(std::isfinite(value));
                        }});
  }
  rows.push_back({.name = "EnoughTokens", .commits = 3, .check = [](const JobOutcome& outcome) {
                    EXPECT_EQ(extra(outcome, llama(0, "self_attn.q_proj"), "tokens"), 128);
                    EXPECT_EQ(extra(outcome, llama(0, "self_attn.q_proj"), "rank_deficient"), -1);
                  }});
  // All tokens equal: a moment of rank one, whatever their number.
  rows.push_back(
      {.name = "RankOne",
       .adjust = [](QuantizeJob& job) { std::fill(job.windows.ids.begin(), job.windows.ids.end(), 7); },
       .commits = 3,
       .check =
           [](const JobOutcome& outcome) {
             EXPECT_EQ(extra(outcome, llama(0, "self_attn.q_proj"), "damping_retries"), 0);
             EXPECT_GE(extra(outcome, llama(0, "self_attn.q_proj"), "output_error"), 0.0);
           }});
}

}  // namespace pare::test
