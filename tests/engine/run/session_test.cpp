// Generation and scoring: greedy continuations of reference models, streaming, stop rules, limits.
#include "engine/run/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/core/text.h"
#include "tests/support/backends.h"
#include "tests/support/compare.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"

namespace pare {
namespace {

using test::Arithmetic;
using test::checked;
using ::testing::HasSubstr;

std::shared_ptr<const Tokenizer> tokenizer_of(const test::MemorySource& source) {
  TokenizerFiles files;
  files.tokenizer_json = source.asset("tokenizer.json")->bytes;
  files.tokenizer_json_path = "tokenizer.json";
  if (const Asset* config = source.asset("tokenizer_config.json"))
    files.tokenizer_config_json = config->bytes;
  return checked(Tokenizer::load(files));
}

struct Golden {
  const char* folder;
  size_t prompt;
};

class Generation : public ::testing::TestWithParam<std::tuple<Golden, Arithmetic>> {};

TEST_P(Generation, GreedyEqualsHuggingFace) {
  const auto& [golden, arithmetic] = GetParam();
  PARE_SHARED_OR_SKIP(folder, std::string(golden.folder));
  const Device device = test::use(arithmetic);
  const auto expected = test::read_tensors(folder + "/expected.safetensors");
  const std::vector<int32_t> want = test::ids_of(expected.at("greedy_ids"));
  auto session = checked(Session::open(test::MemorySource::read(folder), nullptr, device));
  const int64_t count = int64_t(want.size() - golden.prompt);
  const GenerateResult result = checked(
      session->generate(std::span(want).first(golden.prompt),
                        {.max_new_tokens = count, .sampler = {}, .stop = {}, .stop_at_eos = false}, {}));
  EXPECT_EQ(result.ids, std::vector<int32_t>(want.begin() + std::ptrdiff_t(golden.prompt), want.end()));
  EXPECT_EQ(result.reason, StopReason::length);
  EXPECT_EQ(result.prompt_tokens, int64_t(golden.prompt));
  EXPECT_EQ(result.decode_steps, count - 1);

  const Tensor& input = expected.at("input_ids");
  Tensor logits = checked(
      Tensor::allocate(DType::f32, {input.numel(), session->model().config().vocabulary_size}, device));
  checked(session->score(test::tensor_of(test::ids_of(input), device),
                         {.sequences = input.size(0), .tokens_per_sequence = input.size(1)}, logits));
  EXPECT_LE(test::relative_error(logits, expected.at("logits")), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(
    Models, Generation,
    ::testing::Combine(::testing::Values(Golden{"fixtures/llama", 8}, Golden{"fixtures/llama-tied", 8},
                                         Golden{"fixtures/llama-sharded", 8}, Golden{"fixtures/mistral", 8},
                                         Golden{"fixtures/qwen2", 8}, Golden{"fixtures/qwen3", 8},
                                         Golden{"fixtures/gpt2", 8}, Golden{"stories260K-hf", 5},
                                         Golden{"books-3m", 32}),
                       ::testing::ValuesIn(test::arithmetics_of_this_host())),
    [](const auto& info) {
      return test::test_name(std::string(std::get<0>(info.param).folder) + "_" +
                             std::get<1>(info.param).name);
    });

// The trained sample with its tokenizer.
class Streaming : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto folder = test::shared_data("books-3m");
    if (!folder) GTEST_SKIP() << "without shared data: books-3m";
    const Device device = test::use(test::arithmetics_of_this_host().back());
    const auto source = test::MemorySource::read(*folder);
    tokenizer_ = tokenizer_of(*source);
    session_ = checked(Session::open(source, tokenizer_, device));
    prompt_ = checked(tokenizer_->encode("The old man looked at", {.add_special = true}));
  }

  GenerateResult run(const GenerateOptions& options) {
    pieces_.clear();
    return checked(session_->generate(prompt_, options, [&](std::string_view piece) {
      pieces_.emplace_back(piece);
      return true;
    }));
  }

  std::string streamed() const {
    std::string all;
    for (const std::string& piece : pieces_) all += piece;
    return all;
  }

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<Session> session_;
  std::vector<int32_t> prompt_;
  std::vector<std::string> pieces_;
};

TEST_F(Streaming, PiecesAreWholeCharactersAndAddUp) {
  const GenerateResult result =
      run({.max_new_tokens = 60, .sampler = {.temperature = 1.5, .seed = 4}, .stop = {}});
  EXPECT_EQ(streamed(), result.text);
  EXPECT_EQ(result.text, tokenizer_->decode(result.ids, /*skip_special=*/true));
  EXPECT_GT(pieces_.size(), 10u);
  for (const std::string& piece : pieces_) {
    EXPECT_FALSE(piece.empty());
    EXPECT_TRUE(is_valid_utf8(piece));
  }
}

TEST_F(Streaming, SameSeedSameText) {
  const GenerateOptions options{.max_new_tokens = 30,
                                .sampler = {.temperature = 1.0, .top_k = 50, .top_p = 0.95, .seed = 9},
                                .stop = {}};
  const std::string first = run(options).text;
  EXPECT_EQ(run(options).text, first);
  GenerateOptions other = options;
  other.sampler.seed = 10;
  EXPECT_NE(run(other).text, first);
}

TEST_F(Streaming, StopStringsEndTheTextBeforeThem) {
  const std::string free = run({.max_new_tokens = 40, .sampler = {}, .stop = {}}).text;
  ASSERT_GT(free.size(), 30u);
  for (const size_t at : {size_t{0}, size_t{3}, size_t{11}, free.size() / 2}) {
    const std::string stop = free.substr(at, 7);
    const GenerateResult result = run({.max_new_tokens = 40, .sampler = {}, .stop = {"never said", stop}});
    EXPECT_EQ(result.reason, StopReason::stop_string);
    EXPECT_EQ(result.text, free.substr(0, free.find(stop)));
    EXPECT_EQ(streamed(), result.text);
  }
}

TEST_F(Streaming, ReceiverMayStop) {
  int calls = 0;
  const auto result = session_->generate(prompt_, {.max_new_tokens = 40, .sampler = {}, .stop = {}},
                                         [&](std::string_view) { return ++calls < 3; });
  ASSERT_TRUE(result);
  EXPECT_EQ(result->reason, StopReason::interrupted);
  EXPECT_EQ(calls, 3);
}

TEST_F(Streaming, StopStringsMustNotBeEmpty) {
  const auto result = session_->generate(prompt_, {.max_new_tokens = 4, .sampler = {}, .stop = {""}}, {});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().exit, Exit::usage);
}

class Rules : public ::testing::Test {
 protected:
  void SetUp() override { device_ = test::use(test::arithmetics_of_this_host().front()); }
  std::unique_ptr<Session> open(const char* config = test::kTinyLlama, int64_t context = 0) {
    source_ = test::tiny_model(config);
    return checked(Session::open(source_, nullptr, device_, context));
  }
  Device device_;
  std::shared_ptr<test::MemorySource> source_;
};

TEST_F(Rules, ContextIsTheModelsOwnUnlessAsked) {
  EXPECT_EQ(open()->context(), 64);
  EXPECT_EQ(open(test::kTinyLlama, 10)->context(), 10);
  const auto beyond = Session::open(test::tiny_model(test::kTinyGpt2), nullptr, device_, 33);
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().exit, Exit::usage);
}

TEST_F(Rules, PromptMustLeaveRoomForOneToken) {
  auto session = open(test::kTinyLlama, 10);
  const std::vector<int32_t> prompt(10, 5);
  const auto full = session->generate(prompt, {.max_new_tokens = 4, .sampler = {}, .stop = {}}, {});
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().exit, Exit::usage);
  EXPECT_THAT(format_error(full.error()), HasSubstr("got 10 tokens, limit 9"));
  const auto fits = session->generate(
      std::span(prompt).first(9), {.max_new_tokens = 4, .sampler = {}, .stop = {}, .stop_at_eos = false}, {});
  ASSERT_TRUE(fits);
  EXPECT_EQ(fits->ids.size(), 1u);
  EXPECT_EQ(fits->reason, StopReason::context_full);
}

TEST_F(Rules, BadPromptsAreRefused) {
  auto session = open();
  const auto empty = session->generate({}, {}, {});
  ASSERT_FALSE(empty);
  EXPECT_EQ(empty.error().exit, Exit::malformed);
  for (const int32_t bad : {-1, 40}) {
    const std::vector<int32_t> prompt{1, bad};
    const auto result = session->generate(prompt, {}, {});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().exit, Exit::malformed);
    EXPECT_EQ(result.error().got, std::to_string(bad));
  }
  const std::vector<int32_t> prompt{1};
  const auto stop = session->generate(prompt, {.max_new_tokens = 4, .sampler = {}, .stop = {"x"}}, {});
  ASSERT_FALSE(stop);
  EXPECT_EQ(stop.error().exit, Exit::usage);
}

TEST_F(Rules, EveryStopIdStops) {
  auto session = open();
  const std::vector<int32_t> prompt{3, 4, 5};
  const GenerateOptions free{.max_new_tokens = 12, .sampler = {}, .stop = {}, .stop_at_eos = false};
  const std::vector<int32_t> ids = checked(session->generate(prompt, free, {})).ids;
  ASSERT_EQ(ids.size(), 12u);
  // the third new token becomes a stop id through generation_config.json
  source_->add_asset("generation_config.json", "{\"eos_token_id\": [" + std::to_string(ids[2]) + "]}");
  auto stopping = checked(Session::open(source_, nullptr, device_));
  const size_t first = size_t(std::find(ids.begin(), ids.end(), ids[2]) - ids.begin());
  const GenerateResult result =
      checked(stopping->generate(prompt, {.max_new_tokens = 12, .sampler = {}, .stop = {}}, {}));
  EXPECT_EQ(result.reason, StopReason::eos);
  EXPECT_EQ(result.ids, std::vector<int32_t>(ids.begin(), ids.begin() + std::ptrdiff_t(first)));
}

TEST_F(Rules, NoNewTokensIsAnEmptyAnswer) {
  const std::vector<int32_t> prompt{3};
  const GenerateResult result =
      checked(open()->generate(prompt, {.max_new_tokens = 0, .sampler = {}, .stop = {}}, {}));
  EXPECT_TRUE(result.ids.empty());
  EXPECT_EQ(result.reason, StopReason::length);
}

TEST_F(Rules, LongPromptsRunInChunksWithTheSameResult) {
  std::string config = test::kTinyLlama;
  const std::string from = "\"max_position_embeddings\": 64";
  config.replace(config.find(from), from.size(), "\"max_position_embeddings\": 2048");
  auto session = open(config.c_str());
  std::vector<int32_t> prompt;
  for (int i = 0; i < 1100; ++i) prompt.push_back((i * i + 3) % 40);  // three chunks, the last one ragged
  const GenerateResult result = checked(
      session->generate(prompt, {.max_new_tokens = 1, .sampler = {}, .stop = {}, .stop_at_eos = false}, {}));
  Tensor logits = checked(Tensor::allocate(DType::f32, {1100, 40}, device_));
  checked(session->score(test::tensor_of(prompt, device_), {.tokens_per_sequence = 1100}, logits));
  const float* last = logits.data<float>() + 1099 * 40;
  EXPECT_EQ(result.ids.front(), int32_t(std::max_element(last, last + 40) - last));
}

TEST_F(Rules, NaNWeightsEndInANumericError) {
  source_ = test::tiny_model(test::kTinyLlama);
  source_->dense("model.norm.weight").mutable_data<float>()[3] = std::nanf("");
  auto session = checked(Session::open(source_, nullptr, device_));
  const std::vector<int32_t> prompt{3};
  const auto result = session->generate(prompt, {}, {});
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().exit, Exit::numeric);
}

}  // namespace
}  // namespace pare
