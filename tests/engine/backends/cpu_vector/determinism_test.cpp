// The whole backend: the same bytes for any number of threads, and levels that agree within rounding.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/core/parallel.h"
#include "engine/tensor/quantized_tensor.h"
#include "tests/engine/backends/cpu_vector/support.h"

namespace pare::cpu {
namespace {

// Outputs of every vector op on inputs large enough to be cut into pieces, one after the other.
class Outputs {
 public:
  explicit Outputs(Backend& b) {
    norms(b);
    elementwise(b);
    logits(b);
    attention(b);
    embeddings(b);
  }
  std::vector<float> floats;
  std::vector<double> doubles;
  std::vector<int32_t> integers;

 private:
  static constexpr int64_t kTokens = 61;
  static constexpr int64_t kChannels = 1'003;
  static constexpr int64_t kCount = kTokens * kChannels;

  void keep(const std::vector<float>& out) { floats.insert(floats.end(), out.begin(), out.end()); }

  void norms(Backend& b) {
    const auto gain = random_floats(kChannels, 0.5f, 1.5f, 11);
    std::vector<float> out(x.size());
    b.rms_norm({.x = x.data(),
                .gain = gain.data(),
                .out = out.data(),
                .tokens = kTokens,
                .channels = kChannels,
                .x_stride = kChannels,
                .out_stride = kChannels,
                .eps = 1e-5f,
                .gain_plus_one = false});
    keep(out);
    b.layer_norm({.x = x.data(),
                  .gain = gain.data(),
                  .bias = gain.data(),
                  .out = out.data(),
                  .tokens = kTokens,
                  .channels = kChannels,
                  .x_stride = kChannels,
                  .out_stride = kChannels,
                  .eps = 1e-5f});
    keep(out);
    std::vector<int32_t> positions(kTokens);
    for (int32_t t = 0; t < kTokens; ++t) positions[size_t(t)] = t;
    const auto angles = random_floats(kTokens * 25, -1.0f, 1.0f, 12);
    out = x;
    b.rotary({.x = out.data(),
              .positions = positions.data(),
              .cosines = angles.data(),
              .sines = angles.data(),
              .tokens = kTokens,
              .heads = 17,
              .head_dim = 59,
              .rotary_dim = 50,
              .stride = kChannels});
    keep(out);
  }

  void elementwise(Backend& b) {
    std::vector<float> out(x.size());
    for (const Activation kind : {Activation::silu, Activation::gelu, Activation::gelu_tanh}) {
      b.activation({.x = x.data(),
                    .out = out.data(),
                    .rows = kTokens,
                    .columns = kChannels,
                    .x_stride = kChannels,
                    .out_stride = kChannels,
                    .kind = kind});
      keep(out);
    }
    b.gated_activation({.gate = x.data(),
                        .up = y.data(),
                        .out = out.data(),
                        .rows = kTokens,
                        .columns = kChannels,
                        .gate_stride = kChannels,
                        .up_stride = kChannels,
                        .out_stride = kChannels,
                        .kind = Activation::silu});
    keep(out);
    b.add({.x = x.data(), .y = y.data(), .out = out.data(), .count = kCount});
    keep(out);
    b.softcap({.x = out.data(), .count = kCount, .cap = 1.5f});
    keep(out);
    b.softmax({.x = x.data(),
               .out = out.data(),
               .rows = kTokens,
               .columns = kChannels,
               .x_stride = kChannels,
               .out_stride = kChannels});
    keep(out);
  }

  void logits(Backend& b) {
    std::vector<int32_t> targets(kTokens, 5);
    std::vector<int32_t> best(kTokens);
    std::vector<double> x_sums(kTokens);
    std::vector<double> y_sums(kTokens);
    std::vector<double> nll(kTokens);
    b.cross_entropy({.logits = y.data(),
                     .targets = targets.data(),
                     .log_sum_exp = y_sums.data(),
                     .nll = nll.data(),
                     .best = best.data(),
                     .rows = kTokens,
                     .columns = kChannels,
                     .stride = kChannels});
    b.cross_entropy({.logits = x.data(),
                     .targets = targets.data(),
                     .log_sum_exp = x_sums.data(),
                     .nll = nll.data(),
                     .best = best.data(),
                     .rows = kTokens,
                     .columns = kChannels,
                     .stride = kChannels});
    std::vector<double> kl(kTokens);
    b.divergence({.logits_p = x.data(),
                  .logits_q = y.data(),
                  .log_sum_exp_p = x_sums.data(),
                  .log_sum_exp_q = y_sums.data(),
                  .kl = kl.data(),
                  .rows = kTokens,
                  .columns = kChannels,
                  .p_stride = kChannels,
                  .q_stride = kChannels});
    integers = best;
    for (const auto& part : {x_sums, y_sums, nll, kl})
      doubles.insert(doubles.end(), part.begin(), part.end());
  }

  void attention(Backend& b) {
    const int64_t tokens = 150;
    const auto q = random_floats(2 * tokens * 4 * 32, -1.0f, 1.0f, 13);
    const auto k = random_floats(2 * tokens * 2 * 32, -1.0f, 1.0f, 14);
    const auto v = random_floats(2 * tokens * 2 * 32, -1.0f, 1.0f, 15);
    std::vector<float> out(q.size());
    b.attention({.q = q.data(),
                 .k = k.data(),
                 .v = v.data(),
                 .out = out.data(),
                 .kv_dtype = DType::f32,
                 .sequences = 2,
                 .query_tokens = tokens,
                 .key_tokens = tokens,
                 .query_offset = 0,
                 .heads = 4,
                 .kv_heads = 2,
                 .head_dim = 32,
                 .q_stride = 128,
                 .out_stride = 128,
                 .kv_sequence_stride = tokens * 64,
                 .kv_head_stride = 32,
                 .kv_position_stride = 64,
                 .scale = 0.2f,
                 .softcap = 0.0f,
                 .window = 0,
                 .causal = true});
    keep(out);
  }

  void embeddings(Backend& b) {
    std::vector<int32_t> ids(kTokens);
    for (int32_t t = 0; t < kTokens; ++t) ids[size_t(t)] = (t * 7) % 20;
    std::vector<float> out(x.size(), 0.5f);
    b.embedding({.ids = ids.data(),
                 .table = x.data(),
                 .table_dtype = DType::f32,
                 .out = out.data(),
                 .tokens = kTokens,
                 .rows = 20,
                 .channels = kChannels,
                 .out_stride = kChannels,
                 .scale = 1.25f,
                 .accumulate = true});
    keep(out);
    QuantScheme scheme;
    scheme.bits = 8;
    scheme.granularity = QuantScheme::Granularity::channel;
    auto table = QuantizedTensor::allocate(scheme, 20, 1'200);
    ASSERT_TRUE(table.has_value());
    auto* codes = reinterpret_cast<uint8_t*>(table->codes.mutable_data<uint8_t>());
    for (int64_t i = 0; i < table->codes.numel(); ++i) codes[i] = uint8_t(i * 31 % 251);
    const std::vector<float> before = random_floats(kTokens * 1'203, -1.0f, 1.0f, 16);
    std::vector<float> rows = before;
    b.quantized_embedding({.ids = ids.data(),
                           .table = &*table,
                           .out = rows.data(),
                           .tokens = kTokens,
                           .out_stride = 1'203,
                           .scale = 1.25f,
                           .accumulate = true});
    std::vector<float> dense(1'200);
    for (int64_t t = 0; t < kTokens; ++t) {
      table->dequantize_rows(ids[size_t(t)], ids[size_t(t)] + 1, dense.data());
      for (int64_t c = 0; c < 1'203; ++c) {
        const size_t at = size_t(t * 1'203 + c);
        ASSERT_EQ(rows[at], c < 1'200 ? dense[size_t(c)] * 1.25f + before[at] : before[at]);
      }
    }
    keep(rows);
  }

  std::vector<float> x = random_floats(kCount, -4.0f, 4.0f, 1);
  std::vector<float> y = random_floats(kCount, -4.0f, 4.0f, 2);
};

class DeterminismTest : public testing::TestWithParam<Isa> {
 protected:
  void TearDown() override { set_thread_count(0); }
};

template <typename T>
bool same_bytes(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

TEST_P(DeterminismTest, AnyNumberOfThreadsGivesTheSameBytes) {
  const auto backend = make_cpu_backend(GetParam());
  set_thread_count(1);
  const Outputs one(*backend);
  for (const int threads : {2, 3, 8}) {
    set_thread_count(threads);
    const Outputs many(*backend);
    EXPECT_TRUE(same_bytes(one.floats, many.floats)) << threads << " threads";
    EXPECT_TRUE(same_bytes(one.doubles, many.doubles)) << threads << " threads";
    EXPECT_TRUE(same_bytes(one.integers, many.integers)) << threads << " threads";
  }
}

TEST_P(DeterminismTest, LevelsAgreeWithinRounding) {
  const Outputs generic(*make_cpu_backend(Isa::generic));
  const Outputs level(*make_cpu_backend(GetParam()));
  ASSERT_EQ(generic.floats.size(), level.floats.size());
  for (size_t i = 0; i < level.floats.size(); ++i) {
    ASSERT_NEAR(level.floats[i], generic.floats[i], 2e-6 * (1.0 + std::abs(double(generic.floats[i])))) << i;
  }
  for (size_t i = 0; i < level.doubles.size(); ++i)
    ASSERT_NEAR(level.doubles[i], generic.doubles[i], 1e-6) << i;
  EXPECT_EQ(level.integers, generic.integers);
}

INSTANTIATE_TEST_SUITE_P(Levels, DeterminismTest, testing::ValuesIn(host_levels()),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

}  // namespace
}  // namespace pare::cpu
