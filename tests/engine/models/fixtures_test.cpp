// The forward pass against Hugging Face: logits, hidden states and loss of tiny random models of each enabled
// family, on the reference backend and on every level of the cpu backend; and real trained models.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <set>

#include "engine/models/model.h"
#include "tests/support/backends.h"
#include "tests/support/compare.h"
#include "tests/support/memory_source.h"
#include "tests/support/shared_data.h"
#include "tests/support/walk.h"

namespace pare {
namespace {

using test::Arithmetic;

// Float32 rounding alone; the fixtures' own tolerance is 1e-4.
constexpr double kTight = 1e-5;
constexpr double kLossTolerance = 1e-5;

// Last line of the log: what was really compared.
class Summary : public ::testing::Environment {
 public:
  void TearDown() override {
    std::printf("fixtures: %zu models x %zu arithmetics equal Hugging Face; worst relative error %.2e\n",
                models.size(), arithmetics.size(), worst);
  }
  static inline std::set<std::string> models, arithmetics;
  static inline double worst = 0.0;
};
const auto* const kSummary = ::testing::AddGlobalTestEnvironment(new Summary);

// Mean cross-entropy of predicting id t + 1 from position t within each row.
double mean_loss(const Tensor& logits, const std::vector<int32_t>& ids, int64_t rows, int64_t tokens) {
  const int64_t vocabulary = logits.size(-1);
  double sum = 0.0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t t = 0; t + 1 < tokens; ++t) {
      const float* x = logits.data<float>() + (row * tokens + t) * vocabulary;
      double largest = x[0], total = 0.0;
      for (int64_t v = 0; v < vocabulary; ++v) largest = std::max(largest, double(x[v]));
      for (int64_t v = 0; v < vocabulary; ++v) total += std::exp(double(x[v]) - largest);
      sum += largest + std::log(total) - double(x[ids[size_t(row * tokens + t + 1)]]);
    }
  }
  return sum / double(rows * (tokens - 1));
}

int32_t best_id(const float* logits, int64_t count) {
  return int32_t(std::max_element(logits, logits + count) - logits);
}

// Continues `ids` greedily with a cache until it has as many ids as `want`.
std::vector<int32_t> greedy(Model& model, std::vector<int32_t> ids, size_t want) {
  std::vector<BlockCache> blocks = test::make_caches(model.config(), 1, int64_t(want), model.device());
  size_t done = 0;
  while (ids.size() < want) {
    const std::span<const int32_t> next = std::span(ids).subspan(done);
    const Batch batch{
        .sequences = 1, .tokens_per_sequence = int64_t(next.size()), .first_position = int64_t(done)};
    const test::Trace trace = test::walk(model, test::tensor_of(next, model.device()), batch, blocks);
    const int64_t vocabulary = model.config().vocabulary_size;
    done = ids.size();
    ids.push_back(best_id(trace.logits.data<float>() + (batch.tokens() - 1) * vocabulary, vocabulary));
  }
  return ids;
}

class Fixtures : public ::testing::TestWithParam<std::tuple<std::string, Arithmetic>> {};

TEST_P(Fixtures, EqualHuggingFace) {
  const auto& [name, arithmetic] = GetParam();
  PARE_SHARED_OR_SKIP(folder, name);
  const Device device = test::use(arithmetic);
  const auto expected = test::read_tensors(folder + "/expected.safetensors");
  auto model = test::checked(Model::open(test::MemorySource::read(folder), device));
  ASSERT_TRUE(model->load_all());

  const Tensor& input = expected.at("input_ids");
  const std::vector<int32_t> ids = test::ids_of(input);
  const Batch batch{.sequences = input.size(0), .tokens_per_sequence = input.size(1)};
  const test::Trace trace = test::walk(*model, test::tensor_of(ids, device), batch);
  double worst = test::relative_error(trace.logits, expected.at("logits"));
  EXPECT_LE(worst, kTight) << "logits";
  for (size_t i = 0; i < trace.hidden.size(); ++i) {
    const auto hidden = expected.find("hidden." + std::to_string(i));
    if (hidden == expected.end()) continue;
    const double error = test::relative_error(trace.hidden[i], hidden->second);
    EXPECT_LE(error, kTight) << hidden->first;
    worst = std::max(worst, error);
  }
  if (expected.contains("loss")) {
    const double loss = mean_loss(trace.logits, ids, batch.sequences, batch.tokens_per_sequence);
    EXPECT_NEAR(loss, double(*expected.at("loss").data<float>()), kLossTolerance);
  }
  EXPECT_EQ(trace.workspace_peak, trace.workspace_capacity) << "workspace_bytes is exact";

  const std::vector<int32_t> want = test::ids_of(expected.at("greedy_ids"));
  // fixtures start with 8 ids of row 0; the trained models' prompts are documented beside them
  const size_t prompt = name == "books-3m" ? 32 : name == "stories260K-hf" ? 5 : 8;
  EXPECT_EQ(greedy(*model, {want.begin(), want.begin() + std::ptrdiff_t(prompt)}, want.size()), want);
  if (HasFailure()) return;
  Summary::models.insert(name);
  Summary::arithmetics.insert(arithmetic.name);
  Summary::worst = std::max(Summary::worst, worst);
}

INSTANTIATE_TEST_SUITE_P(
    Families, Fixtures,
    ::testing::Combine(::testing::Values("fixtures/llama", "fixtures/llama-tied", "fixtures/llama-sharded",
                                         "fixtures/mistral", "fixtures/mixtral", "fixtures/qwen2",
                                         "fixtures/qwen3", "fixtures/gpt2", "stories260K-hf", "books-3m"),
                       ::testing::ValuesIn(test::arithmetics_of_this_host())),
    [](const auto& info) {
      return test::test_name(std::get<0>(info.param) + "_" + std::get<1>(info.param).name);
    });

class NotEnabled : public ::testing::TestWithParam<const char*> {};

TEST_P(NotEnabled, RefusesWithItsName) {
  PARE_SHARED_OR_SKIP(folder, std::string("fixtures/") + GetParam());
  const Device device = test::use(test::arithmetics_of_this_host().front());
  const auto model = Model::open(test::MemorySource::read(folder), device);
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().exit, Exit::unsupported);
  EXPECT_NE(model.error().what.find("declared but not enabled yet"), std::string::npos);
  EXPECT_NE(model.error().limit.find("LlamaForCausalLM"), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Families, NotEnabled,
                         ::testing::Values("bert", "gemma", "gemma2", "gpt_neox", "opt", "phi3"));

}  // namespace
}  // namespace pare
