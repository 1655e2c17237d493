// Whole models through recorded steps: the same greedy ids as one operation after the other, and what a token
// costs.
#include "engine/run/decode_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/run/sequence_runner.h"
#include "engine/run/session.h"
#include "engine/tensor/float_formats.h"
#include "tests/engine/decode/decode_support.h"
#include "tests/support/tiny_model.h"
#ifndef PARE_TEST_GPU
#include <cuda_runtime.h>
#endif

namespace pare {
namespace {

using test::checked;

// Shapes that every fused kernel takes, small enough for the emulator.
constexpr const char* kLlama = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 70, "hidden_size": 64,
  "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
  "head_dim": 16, "max_position_embeddings": 640, "tie_word_embeddings": false})";
constexpr const char* kQwen3 = R"({
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 70, "hidden_size": 32,
  "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
  "head_dim": 16, "max_position_embeddings": 640, "tie_word_embeddings": true, "use_sliding_window": false})";
constexpr const char* kGpt2 = R"({
  "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "vocab_size": 70, "n_embd": 48, "n_layer": 2,
  "n_head": 3, "n_positions": 640})";

// Every matrix of a block, and the head, as codes of a scheme, rounded to the nearest.
std::shared_ptr<test::MemorySource> quantized(const std::string& config, const std::string& text) {
  auto source = test::tiny_model(config);
  const QuantScheme scheme = checked(QuantScheme::parse(text));
  std::vector<std::string> names;
  for (const StoredTensor& tensor : source->tensors()) {
    if (tensor.shape.rank() == 2 && !tensor.name.starts_with("model.embed")) names.push_back(tensor.name);
  }
  for (const std::string& name : names) {
    const Tensor weight = source->dense(name);
    QuantizedTensor codes = checked(QuantizedTensor::allocate(scheme, weight.size(0), weight.size(1)));
    const int64_t in = weight.size(1), width = scheme.group_width(in), groups = scheme.groups(in);
    std::vector<uint8_t> row(static_cast<size_t>(in));
    const int top = scheme.code_count() / 2 - 1;
    for (int64_t r = 0; r < weight.size(0); ++r) {
      const float* w = weight.data<float>() + r * in;
      for (int64_t g = 0; g < groups; ++g) {
        const int64_t begin = g * width, end = std::min(in, begin + width);
        float largest = 1e-3f;
        for (int64_t c = begin; c < end; ++c) largest = std::max(largest, std::fabs(w[c]));
        const uint16_t scale = float_to_f16(largest / float(top));
        codes.scales.mutable_data<uint16_t>()[r * groups + g] = scale;
        for (int64_t c = begin; c < end; ++c)
          row[size_t(c)] =
              uint8_t(std::clamp(int(std::lround(w[c] / f16_to_float(scale))), -top, top) + top + 1);
      }
      pack_codes(row.data(), in, scheme.bits, codes.codes.mutable_data<uint8_t>() + r * scheme.row_bytes(in));
    }
    source->add(name, std::move(codes), false);
  }
  return source;
}

std::shared_ptr<test::MemorySource> source_of(const std::string& name) {
  if (name == "llama") return test::tiny_model(kLlama);
  if (name == "qwen3") return test::tiny_model(kQwen3);
  if (name == "gpt2") return test::tiny_model(kGpt2);
  return quantized(kLlama, name);
}

std::vector<int32_t> prompt_of(int64_t length, uint64_t seed) {
  std::vector<int32_t> ids;
  const Random random(seed, RandomPurpose::test_data);
  for (int64_t i = 0; i < length; ++i) ids.push_back(int32_t(random.below(70, uint64_t(i))));
  return ids;
}

// Greedy ids one operation after the other, and how far apart the two best logits were at the closest.
std::vector<int32_t> ordinary_ids(Model& model, const std::vector<int32_t>& prompt, int64_t count) {
  SequenceRunner runner =
      checked(SequenceRunner::create(model, int64_t(prompt.size()), int64_t(prompt.size()) + count));
  checked(runner.run(prompt));
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < count; ++i) {
    const auto logits = runner.logits();
    ids.push_back(int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin()));
    checked(runner.run(std::span(&ids.back(), 1)));
  }
  return ids;
}

// Some sequences of one model, their prompts run in the ordinary way.
struct Sequences {
  Sequences(Model& model, DecodeBackend& decoding, const std::vector<std::vector<int32_t>>& prompts,
            int64_t capacity, const SamplerOptions& options = {})
      : prompts(prompts) {
    const ModelConfig& config = model.config();
    checked(model.reserve_positions(capacity));
    cache = checked(KvCache::allocate(config, int64_t(prompts.size()), capacity, model.device()));
    runner = checked(DecodeRunner::create(model, cache, int64_t(prompts.size()), decoding));
    for (size_t row = 0; row < prompts.size(); ++row) {
      const int64_t tokens = int64_t(prompts[row].size());
      const Batch batch{.sequences = 1, .tokens_per_sequence = tokens, .first_position = 0};
      Workspace workspace = checked(Workspace::reserve(model.workspace_bytes(batch, 1), model.device()));
      Tensor ids = checked(Tensor::allocate(DType::i32, {tokens}));
      std::copy(prompts[row].begin(), prompts[row].end(), ids.mutable_data<int32_t>());
      Tensor hidden = checked(Tensor::allocate(DType::f32, {tokens, config.hidden_size}, model.device()));
      Tensor logits = checked(Tensor::allocate(DType::f32, {1, config.vocabulary_size}, model.device()));
      checked(model.embed(ids, batch, hidden, workspace));
      for (int i = 0; i < int(config.block_count()); ++i) {
        BlockCache own = cache.block(i);
        own.keys = own.keys.rows(int64_t(row), int64_t(row) + 1);
        own.values = own.values.rows(int64_t(row), int64_t(row) + 1);
        checked(model.run_block(i, batch, hidden, &own, workspace));
      }
      checked(model.run_head(hidden.rows(tokens - 1, tokens), logits, workspace));
      checked(runner->start(int64_t(row), prompts[row], options, logits));
    }
  }
  // Ids 0 .. count - 1 of every row; each is read while the step behind it is under way.
  std::vector<std::vector<int32_t>> generate(int64_t count) {
    std::vector<std::vector<int32_t>> ids(prompts.size());
    for (int64_t i = 0; i < count; ++i) {
      if (i + 1 < count) checked(runner->step(int64_t(prompts.size())));
      for (size_t row = 0; row < prompts.size(); ++row)
        ids[row].push_back(checked(runner->id(int64_t(row), i)));
    }
    return ids;
  }

  std::vector<std::vector<int32_t>> prompts;
  KvCache cache;
  std::unique_ptr<DecodeRunner> runner;
};

class RecordedSteps : public ::testing::TestWithParam<std::string> {};

TEST_P(RecordedSteps, GiveTheIdsOfOrdinaryOnes) {
  constexpr int64_t kCount = 6;
  Backend& backend = test::gpu();
  auto model = checked(Model::open(source_of(GetParam()), Device::cuda(0)));
  checked(model->load_all());
  ASSERT_EQ(DecodeRunner::why_not(*model, 64), "");
  const std::vector<std::vector<int32_t>> prompts{prompt_of(5, 1), prompt_of(9, 2), prompt_of(1, 3)};
  std::vector<std::vector<int32_t>> want;
  for (const auto& prompt : prompts) want.push_back(ordinary_ids(*model, prompt, kCount));

  Sequences one(*model, *backend.decoding(), {prompts[0]}, 64);
  EXPECT_EQ(one.generate(kCount)[0], want[0]);
  EXPECT_THAT(one.runner->notes(), ::testing::IsEmpty());

  Sequences three(*model, *backend.decoding(), prompts, 64);
  EXPECT_EQ(three.generate(kCount), want);
}

TEST(RecordedStep, GivesTheSameIdsForTheSameSeed) {
  Backend& backend = test::gpu();
  auto model = checked(Model::open(source_of("int4-g32-sym"), Device::cuda(0)));
  checked(model->load_all());
  std::vector<std::vector<std::vector<int32_t>>> ids;
  for (const uint64_t seed : {5, 5, 6}) {
    Sequences sequences(*model, *backend.decoding(), {prompt_of(3, 1)}, 64,
                        {.temperature = 1.5, .seed = seed});
    ids.push_back(sequences.generate(6));
  }
  EXPECT_EQ(ids[0], ids[1]);
  EXPECT_NE(ids[0], ids[2]);
}

// The same steps put together over the definition of every operation, on the host.
TEST_P(RecordedSteps, FollowTheModel) {
  constexpr int64_t kCount = 10;
  test::gpu();
  auto model = checked(Model::open(source_of(GetParam()), Device::reference()));
  checked(model->load_all());
  const std::vector<std::vector<int32_t>> prompts{prompt_of(5, 1), prompt_of(9, 2), prompt_of(1, 3)};
  Sequences sequences(*model, test::definition(), prompts, 40);
  const auto ids = sequences.generate(kCount);
  for (size_t row = 0; row < prompts.size(); ++row)
    EXPECT_EQ(ids[row], ordinary_ids(*model, prompts[row], kCount));
}

INSTANTIATE_TEST_SUITE_P(Models, RecordedSteps,
                         ::testing::Values("llama", "qwen3", "gpt2", "int4-g32-sym", "int8-ch-sym"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(RecordedStep, IsAtMostSixKernelsPerBlock) {
  Backend& backend = test::gpu();
  for (const std::string name : {"llama", "gpt2", "int4-g32-sym"}) {
    auto model = checked(Model::open(source_of(name), Device::cuda(0)));
    checked(model->load_all());
    Sequences sequences(*model, *backend.decoding(), {prompt_of(4, 1)}, 64);
    sequences.generate(4);
    const int64_t kernels = sequences.runner->kernels_per_step(1);
    // embedding, head, and two of the choice around the blocks
    EXPECT_LE(kernels, 4 + 6 * model->config().block_count()) << name;
    EXPECT_GE(kernels, 4 + 5 * model->config().block_count()) << name;
  }
}

#ifndef PARE_TEST_GPU
TEST(RecordedStep, IsOneLaunchAndAllocatesNothing) {
  Backend& backend = test::gpu();
  auto model = checked(Model::open(source_of("int4-g32-sym"), Device::cuda(0)));
  checked(model->load_all());
  Sequences sequences(*model, *backend.decoding(), {prompt_of(4, 1), prompt_of(6, 2)}, 64);
  sequences.generate(4);  // the first step runs by itself, the second is recorded
  const emulator::Counts before = emulator::counts();
  int64_t number = 3;
  for (int i = 0; i < 5; ++i) {
    checked(sequences.runner->step(2));
    ASSERT_GE(checked(sequences.runner->id(0, ++number)), 0);
  }
  const emulator::Counts after = emulator::counts();
  EXPECT_EQ(after.graph_launches - before.graph_launches, 5);
  // embedding, head and two of the choice around the blocks, five per block at so short a context
  EXPECT_EQ(sequences.runner->kernels_per_step(2), 4 + 5 * model->config().block_count());
  EXPECT_EQ(after.launches - before.launches,
            5 * sequences.runner->kernels_per_step(2));  // all of them replayed
  EXPECT_EQ(after.allocations - before.allocations, 0);
  EXPECT_EQ(after.copies - before.copies, 0);
  EXPECT_EQ(sequences.runner->recordings(), 1);
}
#endif

TEST(RecordedStep, IsMadeAgainForALongerContextAndForMoreRows) {
  Backend& backend = test::gpu();
  auto model = checked(Model::open(source_of("llama"), Device::cuda(0)));
  checked(model->load_all());
  const std::vector<int32_t> prompt = prompt_of(252, 4);
  const std::vector<int32_t> want = ordinary_ids(*model, prompt, 9);
  Sequences sequences(*model, *backend.decoding(), {prompt, prompt_of(3, 5)}, 300);
  std::vector<int32_t> ids{checked(sequences.runner->id(0, 0))};
  for (int64_t i = 1; i < 9; ++i) {
    checked(sequences.runner->step(1));
    ids.push_back(checked(sequences.runner->id(0, i)));
  }
  EXPECT_EQ(ids, want);  // positions 252 .. 259 pass the bucket of 256
  EXPECT_EQ(sequences.runner->recordings(), 2);
  checked(sequences.runner->step(2));
  EXPECT_EQ(sequences.runner->recordings(), 3);
  EXPECT_GE(checked(sequences.runner->id(1, 1)), 0);
}

TEST(RecordedStep, StopsAtTheEndOfItsCache) {
  Backend& backend = test::gpu();
  auto model = checked(Model::open(source_of("llama"), Device::cuda(0)));
  checked(model->load_all());
  Sequences sequences(*model, *backend.decoding(), {prompt_of(4, 1)}, 6);
  sequences.generate(8);  // two more than there is room for
  EXPECT_GE(checked(sequences.runner->id(0, 7)), 0);
}

TEST(RecordedStep, ProductsThatAreNotFusedRunByThemselves) {
  constexpr int64_t kCount = 6;
  Backend& backend = test::gpu();
  auto model = checked(Model::open(quantized(kLlama, "int3-g32-sym"), Device::cuda(0)));
  checked(model->load_all());
  const std::vector<int32_t> prompt = prompt_of(5, 1);
  const std::vector<int32_t> want = ordinary_ids(*model, prompt, kCount);
  Sequences sequences(*model, *backend.decoding(), {prompt}, 64);
  EXPECT_EQ(sequences.generate(kCount)[0], want);
  ASSERT_FALSE(sequences.runner->notes().empty());
  EXPECT_THAT(sequences.runner->notes()[0], ::testing::HasSubstr("codes of neither 4 nor 8 bits"));
}

TEST(RecordedStep, ManySequencesRunUnfused) {
  constexpr int64_t kRows = 18, kCount = 3;
  Backend& backend = test::gpu();
  auto model = checked(Model::open(source_of("llama"), Device::cuda(0)));
  checked(model->load_all());
  std::vector<std::vector<int32_t>> prompts;
  for (int64_t row = 0; row < kRows; ++row) prompts.push_back(prompt_of(1 + row % 2, uint64_t(row)));
  Sequences sequences(*model, *backend.decoding(), prompts, 16);
  const auto ids = sequences.generate(kCount);
  for (const size_t row : {size_t{0}, size_t{17}})
    EXPECT_EQ(ids[row], ordinary_ids(*model, prompts[row], kCount)) << row;
}

TEST(RecordedStep, SaysWhatItDoesNotDo) {
  test::gpu();
  auto config = std::string(kLlama);
  config.insert(config.size() - 1, R"(, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0})");
  auto model = checked(Model::open(test::tiny_model(config), Device::cuda(0)));
  EXPECT_EQ(DecodeRunner::why_not(*model, 640), "");
  EXPECT_EQ(DecodeRunner::why_not(*model, 641), "rotary frequencies depend on the length of the sequence");
}

// Through a session: the best ids are the host's; drawn ones are the same for a seed, and others for another
// (that the same logits give the host's draws is tested with the operation itself).
TEST(RecordedSession, GreedyAsTheHostAndDrawnBySeed) {
  test::gpu();
  for (const SamplerOptions& sampler :
       {SamplerOptions{},
        SamplerOptions{
            .temperature = 0.8, .top_k = 20, .top_p = 0.9, .repetition_penalty = 1.2, .seed = 9}}) {
    const GenerateOptions options{.max_new_tokens = 6, .sampler = sampler, .stop = {}, .stop_at_eos = false};
    std::vector<std::vector<int32_t>> ids;
    for (const Device device : {Device::cuda(0), Device::cpu()}) {
      auto session = checked(Session::open(source_of("llama"), nullptr, device, 64));
      const GenerateResult result = checked(session->generate(prompt_of(6, 8), options, {}));
      EXPECT_EQ(result.decode_steps, 5);
      EXPECT_EQ(result.is_recorded, device == Device::cuda(0));
      ids.push_back(result.ids);
    }
    EXPECT_EQ(ids[0].size(), 6u);
    if (sampler.temperature == 0.0) {
      EXPECT_EQ(ids[0], ids[1]);
      continue;
    }
    for (const uint64_t seed : {sampler.seed, sampler.seed + 1}) {
      GenerateOptions again = options;
      again.sampler.seed = seed;
      auto session = checked(Session::open(source_of("llama"), nullptr, Device::cuda(0), 64));
      const auto drawn = checked(session->generate(prompt_of(6, 8), again, {})).ids;
      EXPECT_EQ(drawn == ids[0], seed == sampler.seed) << seed;
    }
  }
}

}  // namespace
}  // namespace pare
