// Low rank as a job over a tiny model, and the repair of pruned and rounded matrices.
#include "prune/low_rank_step.h"

#include <cmath>
#include <cstring>

#include <gtest/gtest.h>

#include "calibrate/low_rank_repair.h"
#include "calibrate/output_error.h"
#include "calibrate/rank_choice.h"
#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/parallel.h"
#include "prune/prune_step.h"
#include "prune/sensitivity.h"
#include "tests/quantize/tiny_job.h"
#include "tests/support/random_sparse.h"

namespace pare {
namespace {

using test::checked;
using test::memory_folder;
using test::MemorySink;

RankRule rule(const char* text) {
  return checked(RankRule::parse(text));
}

// Everything a reader would see of a weight, byte for byte.
std::string bytes_of(const WeightData& data) {
  std::string bytes = data.described("").form_text();
  const auto add = [&](const Tensor& tensor) {
    if (tensor.defined()) bytes.append(reinterpret_cast<const char*>(tensor.raw()), tensor.size_bytes());
  };
  if (data.is_low_rank()) {
    add(data.low_rank()->left);
    add(data.low_rank()->right);
  }
  add(checked(data.to_dense_tensor()));
  return bytes;
}

class LowRankJob : public ::testing::Test {
 protected:
  void SetUp() override { install_backend(make_cpu_backend()); }

  struct Run {
    MemorySink sink;
    Manifest manifest;
    RankTable ranks;

    std::map<std::string, std::string> bytes() const {
      std::map<std::string, std::string> all;
      for (const auto& [name, data] : sink.weights) all[name] = bytes_of(data);
      return all;
    }
    const TensorRecord& record(const std::string& name) const {
      for (const TensorRecord& record : manifest.tensors)
        if (record.name == name) return record;
      PARE_ASSERT(false, "no record of {}", name);
      return manifest.tensors.front();
    }
    double extra(const std::string& name, const char* key) const {
      const Json* value = record(name).extra.find(key);
      return value == nullptr ? -1.0 : value->as_double();
    }
  };

  static BlockJob job(const char* model) {
    BlockJob job;
    job.source = test::tiny_model(model);
    job.model = checked(describe_model(*job.source));
    job.windows = test::tiny_windows(8, 16);
    job.memory_limit = 1ull << 34;
    return job;
  }

  static std::vector<bool> linears(const ModelDescription& model) {
    std::vector<bool> chosen;
    for (const TensorSpec& spec : model.tensors) chosen.push_back(spec.is_linear && spec.block >= 0);
    return chosen;
  }

  // What a sink gets; a stop after each commit and a new process in between when `is_stopped`.
  static Run run(const BlockJob& blocks, const char* text, bool is_weighted = true, bool is_stopped = false) {
    const std::string path = memory_folder() + "/low-rank-job";
    LowRankOptions options;
    options.rule = rule(text);
    options.is_weighted = is_weighted;
    Run result;
    for (JobMode mode = JobMode::fresh;; mode = JobMode::resume) {
      JobFolder folder = checked(JobFolder::open(path, Json::object(), mode));
      BlockJob job = blocks;
      if (!is_weighted) job.windows = {};
      if (options.rule.kind == RankRule::Kind::budget)
        result.ranks = checked(budget_ranks(job, linears(job.model), options, folder.path()));
      bool has_done_one = false;
      job.block_done = [&](int) { has_done_one = true; };
      job.advance = [&](int64_t) -> Status {
        if (is_stopped && has_done_one) return folder.interrupted_error();
        return {};
      };
      LowRankStep step(job.model, linears(job.model), options, result.ranks);
      const auto done = run_blocks(job, step, folder);
      if (!done && done.error().exit == Exit::interrupted) continue;
      checked(done);
      checked(write_changed(
          job, folder, [](const TensorSpec&, WeightData&, TensorRecord&) { return Status(); }, result.sink,
          result.manifest));
      checked(folder.remove());
      return result;
    }
  }
};

TEST_F(LowRankJob, KeepsTheEnergyThatWasAsked) {
  for (const char* model : {test::kTinyLlama, test::kTinyGpt2}) {
    const BlockJob blocks = job(model);
    const Run done = run(blocks, "energy=0.7");
    int factorized = 0;
    for (const TensorSpec& spec : blocks.model.tensors) {
      const WeightData& data = done.sink.weights.at(spec.name);
      if (!spec.is_linear || spec.block < 0 || spec.block >= int(blocks.model.config.block_count())) {
        EXPECT_TRUE(data.is_dense()) << spec.name;
        EXPECT_EQ(bytes_of(data), bytes_of(checked(blocks.source->load(spec.name)))) << spec.name;
        continue;
      }
      const StoredTensor before = *blocks.source->find(spec.name);
      if (!data.is_low_rank()) {
        EXPECT_GT(done.extra(spec.name, "rank_needed"), done.extra(spec.name, "largest_saving_rank"));
        EXPECT_EQ(done.record(spec.name).method_applied, "copy");
        continue;
      }
      ++factorized;
      checked(data.validate("memory", spec.name));
      EXPECT_EQ(data.transposed, spec.transposed);
      EXPECT_EQ(data.low_rank()->left.dtype(), before.dtype);
      EXPECT_LT(data.low_rank()->size_bytes(), before.bytes) << spec.name;
      EXPECT_GE(done.extra(spec.name, "kept_energy"), 0.7);
      // The error of what is stored is what the energy says.
      EXPECT_NEAR(done.extra(spec.name, "output_error"),
                  std::sqrt(1.0 - done.extra(spec.name, "kept_energy")), 1e-4)
          << spec.name;
      EXPECT_EQ(done.record(spec.name).kind, "low_rank");
      EXPECT_EQ(done.record(spec.name).fallback, "");
    }
    EXPECT_GT(factorized, 4);
  }
}

TEST_F(LowRankJob, RanksByNumberErrorAndBudget) {
  const BlockJob blocks = job(test::kTinyLlama);
  const std::string gate = "model.layers.1.mlp.gate_proj.weight";  // [40, 24]: factors save below rank 15
  const Run by_rank = run(blocks, "rank=5");
  EXPECT_EQ(by_rank.sink.weights.at(gate).low_rank()->rank(), 5);
  const Run too_large = run(blocks, "rank=15");
  EXPECT_TRUE(too_large.sink.weights.at(gate).is_dense());
  EXPECT_EQ(too_large.extra(gate, "rank_needed"), 15);
  EXPECT_EQ(too_large.extra(gate, "largest_saving_rank"), 14);
  const Run by_error = run(blocks, "error=0.6");
  EXPECT_LE(by_error.extra(gate, "output_error"), 0.6 + 1e-6);
  EXPECT_GT(by_error.extra(gate, "output_error"), 0.4) << "the smallest rank that does";
  // Matrices as small as these have no rank of 16 that saves anything: the budget is all or nothing.
  LowRankOptions options;
  options.rule = rule("budget=0.5");
  const auto impossible = budget_ranks(blocks, linears(blocks.model), options, memory_folder());
  ASSERT_FALSE(impossible);
  EXPECT_EQ(impossible.error().exit, Exit::usage);
}

constexpr const char* kWideLlama = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 40, "hidden_size": 96,
  "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24,
  "max_position_embeddings": 64, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2})";

TEST_F(LowRankJob, BudgetIsKept) {
  const BlockJob blocks = job(kWideLlama);
  for (const bool is_weighted : {true, false}) {
    const Run done = run(blocks, "budget=0.6", is_weighted);
    int64_t before = 0, after = 0;
    for (const TensorSpec& spec : blocks.model.tensors) {
      if (!spec.is_linear || spec.block < 0) continue;
      const WeightData& data = done.sink.weights.at(spec.name);
      before += spec.out() * spec.in();
      after +=
          data.is_low_rank() ? data.low_rank()->rank() * (spec.out() + spec.in()) : spec.out() * spec.in();
      if (data.is_low_rank()) {
        EXPECT_EQ(data.low_rank()->rank() % 16, 0) << spec.name;
      }
      EXPECT_EQ(data.is_low_rank(), done.ranks.at(spec.name).has_value());
    }
    EXPECT_LE(after, 6 * before / 10);
    EXPECT_GT(after, 5 * before / 10) << "and spent";
  }
}

TEST_F(LowRankJob, SameBytesStoppedAndWithThreads) {
  for (const bool is_weighted : {true, false}) {
    for (const char* text : {"energy=0.6", "rank=4", "budget=0.7"}) {
      const bool is_budget = std::string(text).starts_with("budget");
      const BlockJob blocks = job(is_budget ? kWideLlama : test::kTinyLlama);
      set_thread_count(1);
      const auto expected = run(blocks, text, is_weighted).bytes();
      EXPECT_EQ(run(blocks, text, is_weighted, /*is_stopped=*/true).bytes(), expected) << text << ", stopped";
      set_thread_count(2);
      EXPECT_EQ(run(blocks, text, is_weighted).bytes(), expected) << text << ", two threads";
      set_thread_count(0);
    }
  }
}

// The model that runs on factors gives what the model of their products gives.
TEST_F(LowRankJob, RunsAsItsProduct) {
  for (const char* model : {test::kTinyLlama, test::kTinyGpt2}) {
    const BlockJob blocks = job(model);
    const Run done = run(blocks, "rank=6");
    const auto factors = std::make_shared<EditedSource>(blocks.source);
    const auto products = std::make_shared<EditedSource>(blocks.source);
    for (const auto& [name, data] : done.sink.weights) {
      factors->set(name, data);
      products->set(name, WeightData{.form = checked(data.to_dense_tensor())});
    }
    const std::vector<int32_t> ids(blocks.windows.ids.begin(), blocks.windows.ids.begin() + 16);
    const Batch batch{.sequences = 1, .tokens_per_sequence = 16};
    std::vector<Tensor> logits;
    for (const auto& source : {factors, products, std::make_shared<EditedSource>(blocks.source)}) {
      const auto opened = checked(Model::open(source, Device::cpu()));
      checked(opened->reserve_positions(16));
      logits.push_back(test::walk(*opened, test::tensor_of(ids, Device::cpu()), batch).logits);
    }
    double largest = 0.0, apart = 0.0, damage = 0.0;
    for (int64_t i = 0; i < logits[0].numel(); ++i) {
      largest = std::max(largest, std::abs(double(logits[1].data<float>()[i])));
      apart =
          std::max(apart, std::abs(double(logits[0].data<float>()[i]) - double(logits[1].data<float>()[i])));
      damage =
          std::max(damage, std::abs(double(logits[2].data<float>()[i]) - double(logits[1].data<float>()[i])));
    }
    EXPECT_LT(apart, 1e-4 * largest);
    EXPECT_GT(damage, 100.0 * apart) << "the factors are another model than the original";
  }
}

TEST_F(LowRankJob, WeightedIsBetterOnTheData) {
  const BlockJob blocks = job(kWideLlama);
  const Run weighted = run(blocks, "rank=16"), plain = run(blocks, "rank=16", /*is_weighted=*/false);
  // The first site sees the same inputs in both.
  LowRankOptions options;
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  const auto edited = std::make_shared<EditedSource>(blocks.source);
  const auto pipeline =
      checked(BlockPipeline::create(edited, blocks.source, blocks.windows, {.memory_limit = 1ull << 34}));
  checked(pipeline->embed());
  std::map<Site, SiteStatistics> seen;
  checked(pipeline->observe_block(
      0, [](Site) { return StatisticSet{Statistic::second_moment}; }, seen));
  const Tensor& moment = seen.at(Site::attention_in).second_moment;
  const Tensor weight = checked(float_values(*blocks.source, *blocks.model.find(name)));
  const auto error = [&](const Run& run) {
    return checked(
        relative_output_error(weight, checked(run.sink.weights.at(name).to_dense_tensor()), moment));
  };
  EXPECT_LT(error(weighted), error(plain));
  EXPECT_NEAR(weighted.extra(name, "output_error"), error(weighted), 1e-6);
}

TEST(LowRankRepair, LowersTheErrorOfEveryForm) {
  install_backend(make_cpu_backend());
  constexpr int64_t kOut = 40, kIn = 48;
  const Tensor weight = test::random_matrix(DType::f32, kOut, kIn, 1);
  Tensor moment = checked(Tensor::allocate(DType::f32, {kIn, kIn}));
  for (int64_t i = 0; i < kIn; ++i) moment.mutable_data<float>()[i * kIn + i] = 1.0f / float(1 + i);
  const SparsityPattern pattern = test::pattern_of("2:4");
  const Mask mask = test::random_mask(pattern, kOut, kIn, 0.5, 2);
  QuantizedTensor codes =
      checked(QuantizedTensor::allocate(checked(QuantScheme::parse("int8-ch-sf32")), kOut, kIn));
  codes = test::int8_of(weight);
  Tensor pruned = checked(converted(weight, DType::f32));
  mask.apply(pruned);
  const std::vector<WeightData> forms = {{.form = pruned},
                                         {.form = std::make_shared<const SparseTensor>(
                                              checked(SparseTensor::from_dense(weight, mask, pattern)))},
                                         {.form = std::make_shared<const QuantizedTensor>(codes)},
                                         {.form = std::make_shared<const SparseTensor>(
                                              checked(SparseTensor::from_quantized(codes, mask, pattern)))}};
  for (const WeightData& form : forms) {
    double before = 1.0;
    for (const int64_t rank : {1, 4, 16, 40}) {
      for (const Tensor& used : {moment, Tensor()}) {
        const auto repaired = checked(repair_low_rank(weight, form, used, rank, DType::f32, "w"));
        ASSERT_TRUE(repaired);
        EXPECT_LT(repaired->error_after, repaired->error_before);
        checked(repaired->tensor->validate("memory", "w"));
        EXPECT_TRUE(repaired->tensor->has_base());
        EXPECT_EQ(repaired->tensor->left.dtype(), DType::bf16);
        EXPECT_EQ(repaired->factor_bytes, uint64_t(2 * rank * (kOut + kIn)));
        const Tensor product = checked(repaired->tensor->to_dense());
        if (!used.defined()) continue;
        EXPECT_NEAR(checked(relative_output_error(weight, product, used)), repaired->error_after,
                    1e-4 * repaired->error_before);
        EXPECT_LT(repaired->error_after, before);
        before = repaired->error_after;
        TensorRecord record;
        repaired->describe(record);
        EXPECT_EQ(record.kind, "low_rank");
        EXPECT_EQ(record.extra.find("low_rank_repair")->find("rank")->as_int(), rank);
      }
    }
  }
  // Nothing was lost: nothing to repair.
  EXPECT_FALSE(checked(repair_low_rank(weight, {.form = weight}, moment, 8, DType::f32, "w")));
}

TEST_F(LowRankJob, RepairOfPrunedAndRoundedModels) {
  const BlockJob blocks = job(kWideLlama);
  const auto prune = [&](int64_t rank, bool is_compact) {
    PruneOptions options;
    options.method = PruneMethod::wanda;
    options.repair_rank = rank;
    options.is_compact = is_compact;
    PruneSelection selection;
    selection.target = checked(PruneTarget::parse("2:4"));
    const SparsityList targets = checked(select_targets(blocks.model, selection, true));
    JobFolder folder =
        checked(JobFolder::open(memory_folder() + "/repair-job", Json::object(), JobMode::fresh));
    PruneStep step(blocks.model, targets, options);
    checked(run_blocks(blocks, step, folder));
    Run result;
    checked(write_changed(
        blocks, folder, [](const TensorSpec&, WeightData&, TensorRecord&) { return Status(); }, result.sink,
        result.manifest));
    checked(folder.remove());
    return result;
  };
  const std::string name = "model.layers.0.self_attn.q_proj.weight";
  const Run without = prune(0, true), dense = prune(8, false), compact = prune(8, true);
  EXPECT_LT(dense.extra(name, "output_error"), without.extra(name, "output_error"));
  const Json& repair = *dense.record(name).extra.find("low_rank_repair");
  EXPECT_NEAR(repair.find("output_error_before")->as_double(), without.extra(name, "output_error"), 1e-6);
  EXPECT_NE(dense.sink.weights.at(name).low_rank()->dense_base(), nullptr);
  EXPECT_NE(compact.sink.weights.at(name).low_rank()->sparse_base(), nullptr);
  EXPECT_EQ(bytes_of({.form = checked(compact.sink.weights.at(name).to_dense_tensor())}),
            bytes_of({.form = checked(dense.sink.weights.at(name).to_dense_tensor())}));

  QuantizeJob rounding = test::tiny_job(test::tiny_model(kWideLlama), "gptq", "int3-g16");
  const test::JobOutcome plain = test::run_job(rounding, "rounded");
  ASSERT_FALSE(plain.error) << format_error(*plain.error);
  rounding.options.repair_rank = 8;
  const test::JobOutcome repaired = test::run_job(rounding, "repaired");
  ASSERT_FALSE(repaired.error) << format_error(*repaired.error);
  EXPECT_LT(repaired.record(name)->extra.find("output_error")->as_double(),
            plain.record(name)->extra.find("output_error")->as_double());
  EXPECT_NE(repaired.sink.weights.at(name).low_rank()->quantized_base(), nullptr);
  EXPECT_EQ(repaired.record(name)->kind, "low_rank");
}

TEST(RankRule, WordsAndNumbers) {
  for (const char* text : {"energy=0.95", "rank=64", "error=0.05", "budget=0.7"})
    EXPECT_EQ(checked(RankRule::parse(text)).text(), text);
  for (const char* text :
       {"", "energy", "energy=", "energy=1", "energy=0", "energy=nan", "energy=0.5x", "rank=0", "rank=-3",
        "rank=1.5", "rank=99999999999999999999", "share=0.5", "budget=1.2", "=3"}) {
    const auto refused = RankRule::parse(text);
    ASSERT_FALSE(refused) << text;
    EXPECT_EQ(refused.error().exit, Exit::usage);
  }
}

}  // namespace
}  // namespace pare
