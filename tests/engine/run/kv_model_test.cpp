// Whole models with keys and values as codes: the cache and the pass without one score the same.
#include <gtest/gtest.h>

#include <cstring>

#include "engine/run/session.h"
#include "tests/support/backends.h"
#include "tests/support/compare.h"
#include "tests/support/tiny_model.h"
#include "tests/support/walk.h"

namespace pare {
namespace {

using test::Arithmetic;
using test::checked;

constexpr int64_t kTokens = 13;
constexpr KvQuant kInt8{KvQuant::Kind::int8}, kInt4{KvQuant::Kind::int4};

constexpr const char* kGrouped =
    R"({"architectures": ["Qwen3ForCausalLM"], "vocab_size": 40, "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 10})";

std::vector<int32_t> some_ids() {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < kTokens; ++i) ids.push_back(int32_t((i * 17 + 5) % 40));
  return ids;
}

bool same(const Tensor& a, const Tensor& b) {
  return a.numel() == b.numel() && std::memcmp(a.raw(), b.raw(), a.size_bytes()) == 0;
}

// Logits of all tokens, in steps of this many with a cache; 0: at once without one.
std::vector<Tensor> logits_of(const char* config, Device device, KvQuant kv, int64_t step) {
  auto model = checked(Model::open(test::tiny_model(config), device, kv));
  checked(model->load_all());
  const std::vector<int32_t> ids = some_ids();
  std::vector<BlockCache> blocks;
  if (step > 0) {
    KvCache cache = checked(KvCache::allocate(model->config(), 1, kTokens + 2, device));
    for (int i = 0; i < int(model->config().block_count()); ++i) blocks.push_back(cache.block(i));
  }
  std::vector<Tensor> rows;
  const int64_t width = step > 0 ? step : kTokens;
  for (int64_t done = 0; done < kTokens; done += width) {
    const int64_t count = std::min(width, kTokens - done);
    const test::Trace part =
        test::walk(*model, test::tensor_of(std::span(ids).subspan(size_t(done), size_t(count)), device),
                   {.tokens_per_sequence = count, .first_position = done}, blocks);
    for (int64_t r = 0; r < count; ++r)
      rows.push_back(checked(converted(part.logits.rows(r, r + 1), DType::f32)));
  }
  return rows;
}

class KvModel : public ::testing::TestWithParam<Arithmetic> {
 protected:
  void SetUp() override { device_ = test::use(GetParam()); }
  Device device_;
};

// Same kernels, same number of rows: what the cache gives back is what is rounded without one.
TEST_P(KvModel, CacheOfAWholePassEqualsNoCache) {
  for (const char* config : {test::kTinyLlama, test::kTinyGpt2, kGrouped}) {
    for (const KvQuant kv : {KvQuant{}, kInt8, kInt4}) {
      const auto cached = logits_of(config, device_, kv, kTokens), whole = logits_of(config, device_, kv, 0);
      for (size_t i = 0; i < whole.size(); ++i)
        EXPECT_TRUE(same(cached[i], whole[i])) << kv.name() << " " << i;
    }
  }
}

// The reference sums in an order that does not depend on how many tokens there are.
TEST(KvModelReference, PrefillEqualsDecodeStepsBitForBit) {
  const Device device = test::use(test::arithmetics_of_this_host().front());
  ASSERT_EQ(device, Device::reference());
  for (const char* config : {test::kTinyLlama, test::kTinyGpt2, kGrouped}) {
    for (const KvQuant kv : {KvQuant{}, kInt8, kInt4}) {
      const auto whole = logits_of(config, device, kv, 0);
      for (const int64_t step : {1, 4}) {
        const auto steps = logits_of(config, device, kv, step);
        for (size_t i = 0; i < whole.size(); ++i)
          EXPECT_TRUE(same(steps[i], whole[i])) << kv.name() << " " << i;
      }
    }
  }
}

TEST_P(KvModel, CodesDoDamageAndNoneDoesNot) {
  const auto plain = logits_of(kGrouped, device_, KvQuant{}, 0);
  auto model = checked(Model::open(test::tiny_model(kGrouped), device_));
  EXPECT_TRUE(model->config().kv.is_none());
  double last = 0.0;
  for (const KvQuant kv : {kInt8, kInt4}) {
    const double error = test::relative_error(logits_of(kGrouped, device_, kv, 0).back(), plain.back());
    EXPECT_GT(error, last);
    EXPECT_LT(error, kv == kInt8 ? 0.02 : 0.3);
    last = error;
  }
}

TEST_P(KvModel, GenerationUsesTheCodes) {
  std::vector<std::vector<int32_t>> texts;
  for (const KvQuant kv : {KvQuant{}, kInt8}) {
    auto session = checked(Session::open(test::tiny_model(kGrouped), nullptr, device_, 64, kv));
    const GenerateResult result = checked(session->generate(
        some_ids(), {.max_new_tokens = 5, .sampler = {}, .stop = {}, .stop_at_eos = false}, {}));
    EXPECT_EQ(result.cache_bytes, KvCache::bytes_for(session->model().config(), 1, kTokens + 4));
    EXPECT_EQ(result.cache_bytes, uint64_t(2 * 2 * 2 * (kTokens + 4) * (kv.is_none() ? 40 : 12)));
    EXPECT_EQ(result.ids.size(), 5u);
  }
}

INSTANTIATE_TEST_SUITE_P(Arithmetics, KvModel, ::testing::ValuesIn(test::arithmetics_of_this_host()),
                         [](const auto& info) { return test::test_name(std::string(info.param.name)); });

}  // namespace
}  // namespace pare
