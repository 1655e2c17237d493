// Rows that several linears read, rounded once: the bytes of rounding per product, in fewer launches.
#include <gtest/gtest.h>

#include <array>
#include <functional>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/cuda/cuda_backend.h"
#include "engine/core/random.h"
#include "engine/models/layers/linear_input.h"
#include "engine/run/sequence_runner.h"
#include "engine/run/session.h"
#include "engine/tensor/transfer.h"
#include "tests/support/counting_backend.h"
#include "tests/support/tiny_model.h"
#ifndef PARE_TEST_GPU
#include <cuda_runtime.h>
#endif

namespace pare {
namespace {

using test::checked;
using test::RowCounts;

// The GPU, with or without rounded rows.
RowCounts& use_gpu(bool has_rounded_rows) {
  static std::array<RowCounts, 2> counts;
  RowCounts& own = counts[has_rounded_rows ? 1 : 0];
  own = {};
  install_backend(make_cpu_backend());
  install_backend(test::make_counting_backend(checked(make_cuda_backend(0, {})), has_rounded_rows, own));
  return own;
}

Tensor random(const Shape& shape, const std::string& name, float mean = 0.0f) {
  return test::random_normal(shape, name, mean, 1.0f);
}
Tensor there(const Tensor& tensor) {
  return checked(moved(tensor, Device::cuda(0)));
}
testing::AssertionResult same_bits(const Tensor& a, const Tensor& b) {
  if (a.numel() != b.numel()) return testing::AssertionFailure() << a.numel() << " and " << b.numel();
  const Tensor here = checked(moved(a, Device::cpu())), other = checked(moved(b, Device::cpu()));
  for (int64_t i = 0; i < here.numel(); ++i) {
    if (std::memcmp(here.data<float>() + i, other.data<float>() + i, sizeof(float)) == 0) continue;
    return testing::AssertionFailure()
           << "element " << i << ": " << here.data<float>()[i] << " and " << other.data<float>()[i];
  }
  return testing::AssertionSuccess();
}

const std::vector<ActivationQuant>& activations() {
  static const std::vector<ActivationQuant> all{
      {},
      {.symmetric = false},
      {.mode = ActivationQuant::Mode::static_tensor, .symmetric = true, .scale = 0.02f}};
  return all;
}

QuantizedTensor codes_of(const std::string& scheme, int64_t out, int64_t in,
                         const ActivationQuant& activation) {
  const Random draw(3, RandomPurpose::test_data);
  QuantizedTensor codes = checked(QuantizedTensor::allocate(checked(QuantScheme::parse(scheme)), out, in));
  auto* bytes = codes.codes.mutable_data<uint8_t>();
  for (int64_t i = 0; i < codes.codes.numel(); ++i) bytes[i] = uint8_t(1 + draw.below(255, uint64_t(i)));
  for (int64_t i = 0; i < codes.scales.numel(); ++i)
    codes.scales.mutable_data<float>()[i] = 0.01f + draw.uniform(uint64_t(i), 1);
  if (codes.zero_points.defined()) {
    for (int64_t i = 0; i < codes.zero_points.numel(); ++i)
      codes.zero_points.mutable_data<uint8_t>()[i] = uint8_t(draw.below(256, uint64_t(i), 2));
  }
  codes.activation = activation;
  return codes;
}

// A product of rows that norm or rounding have rounded, against norm and product one after the other.
struct OneProduct {
  int64_t m, k, padding;
};
class RoundedRows : public ::testing::TestWithParam<OneProduct> {};

TEST_P(RoundedRows, GiveTheBytesOfRoundingPerProduct) {
  const auto [m, k, padding] = GetParam();
  constexpr int64_t kOut = 21;
  use_gpu(true);
  Backend& gpu = backend_for(Device::cuda(0));
  Workspace workspace = checked(Workspace::reserve(size_t(1) << 22, Device::cuda(0)));
  const Tensor whole = there(random({m, k + padding}, "x"));
  const Tensor x = padding == 0 ? whole : whole.columns(padding / 2, padding / 2 + k);
  const Tensor gain = there(random({k}, "gain", 1.0f)), shift = there(random({k}, "shift"));
  const Tensor bias = there(random({kOut}, "bias"));
  for (const std::string scheme : {"int8-ch-sf32", "int8-g32-sf32-asym"}) {
    for (const ActivationQuant& activation : activations()) {
      SCOPED_TRACE(testing::Message()
                   << m << "x" << k << "+" << padding << " " << scheme << " " << activation.text());
      const PackedMatrix weight = checked(
          gpu.prepack(std::make_shared<const QuantizedTensor>(codes_of(scheme, kOut, k, activation))));
      ASSERT_TRUE(ops::reads_rounded(Device::cuda(0), weight));
      const auto product = [&](const std::function<void(Tensor&)>& norm, bool accumulate) {
        const Workspace::Scope scope(workspace);
        Tensor normed = workspace.take(DType::f32, {m, k}), out = there(random({m, kOut + 3}, "out"));
        Tensor target = out.columns(2, 2 + kOut);
        norm(normed);
        ops::matmul(normed, weight, bias, accumulate, target, workspace);
        return out;
      };
      const auto rounded = [&](const std::function<ops::RoundedRows()>& rows, bool accumulate) {
        const Workspace::Scope scope(workspace);
        Tensor out = there(random({m, kOut + 3}, "out")), target = out.columns(2, 2 + kOut);
        ops::matmul(rows(), weight, bias, accumulate, target);
        return out;
      };
      for (const bool plus_one : {false, true}) {
        EXPECT_TRUE(same_bits(
            rounded([&] { return ops::rms_norm_rounded(x, gain, 1e-5f, plus_one, weight, workspace); },
                    plus_one),
            product([&](Tensor& to) { ops::rms_norm(x, gain, 1e-5f, plus_one, to); }, plus_one)));
      }
      for (const Tensor& offset : {shift, Tensor()}) {
        EXPECT_TRUE(same_bits(
            rounded([&] { return ops::layer_norm_rounded(x, gain, offset, 1e-5f, weight, workspace); },
                    false),
            product([&](Tensor& to) { ops::layer_norm(x, gain, offset, 1e-5f, to); }, false)));
      }
      EXPECT_TRUE(same_bits(rounded([&] { return ops::round_rows(x, weight, workspace); }, true),
                            product([&](Tensor& to) { checked(copy_into(x, to)); }, true)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, RoundedRows,
                         ::testing::Values(OneProduct{1, 1, 0}, OneProduct{1, 40, 3}, OneProduct{5, 129, 0},
                                           OneProduct{3, 64, 4}, OneProduct{17, 300, 5},
                                           OneProduct{70, 33, 1}, OneProduct{2, 1500, 0},
                                           OneProduct{1, 17000, 0}),
                         [](const auto& info) {
                           return "m" + std::to_string(info.param.m) + "_k" + std::to_string(info.param.k) +
                                  "_padding" + std::to_string(info.param.padding);
                         });

TEST(RoundedRowsForms, AreSharedOnlyByWeightsThatRoundAlike) {
  use_gpu(true);
  const Device device = Device::cuda(0);
  const auto packed = [&](const std::string& scheme, const ActivationQuant& activation, int64_t in) {
    return checked(backend_for(device).prepack(
        std::make_shared<const QuantizedTensor>(codes_of(scheme, 4, in, activation))));
  };
  const PackedMatrix plain = packed("int8-ch-sf32", {}, 64);
  EXPECT_TRUE(ops::rounds_alike(device, plain, packed("int8-tensor-sf32", {}, 64)));
  EXPECT_FALSE(ops::rounds_alike(device, plain, packed("int8-ch-sf32", {.symmetric = false}, 64)));
  EXPECT_FALSE(ops::rounds_alike(device, plain, packed("int8-g32-sf32", {}, 64)));
  EXPECT_FALSE(ops::rounds_alike(device, plain, packed("int8-ch-sf32", {}, 65)));
  QuantizedTensor no_rounding = codes_of("int8-ch-sf32", 4, 64, {});
  no_rounding.activation.reset();
  const PackedMatrix other =
      checked(backend_for(device).prepack(std::make_shared<const QuantizedTensor>(std::move(no_rounding))));
  EXPECT_FALSE(ops::reads_rounded(device, other));
  EXPECT_FALSE(ops::reads_rounded(Device::cpu(), plain));
}

// Every matrix of the blocks, and the head where asked, as int8 with inputs rounded per token.
std::shared_ptr<test::MemorySource> w8a8(const char* config, bool with_head,
                                         const std::function<bool(const std::string&)>& leaves = {}) {
  auto source = test::tiny_model(config);
  std::vector<std::string> names;
  for (const StoredTensor& tensor : source->tensors()) {
    const bool is_block =
        tensor.name.find(".layers.") != std::string::npos || tensor.name.find("h.") != std::string::npos;
    const bool is_head = tensor.name == "lm_head.weight";
    if (tensor.shape.rank() == 2 && (is_block || (is_head && with_head)) &&
        !(leaves && leaves(tensor.name)) && tensor.name.find("gate.weight") == std::string::npos)
      names.push_back(tensor.name);
  }
  for (const std::string& name : names) {
    Tensor weight = source->dense(name);
    const bool is_transposed = std::string(config).find("gpt2") != std::string::npos;
    if (is_transposed) weight = checked(transposed(weight));
    QuantizedTensor codes = test::int8_of(weight);
    codes.activation = ActivationQuant{};
    source->add(name, std::move(codes), is_transposed);
  }
  return source;
}

struct Outcome {
  Tensor logits;
  RowCounts counts;
  int64_t launches = 0;
};

int64_t launches() {
#ifdef PARE_TEST_GPU
  return 0;
#else
  return emulator::counts().launches;
#endif
}

Outcome score(const std::shared_ptr<test::MemorySource>& source, bool has_rounded_rows, int64_t sequences,
              int64_t tokens) {
  RowCounts& counts = use_gpu(has_rounded_rows);
  auto session = checked(Session::open(source, nullptr, Device::cuda(0)));
  const int64_t vocabulary = session->model().config().vocabulary_size;
  Tensor ids = checked(Tensor::allocate(DType::i32, {sequences * tokens}));
  for (int64_t i = 0; i < ids.numel(); ++i) ids.mutable_data<int32_t>()[i] = int32_t(i * 7 % vocabulary);
  Outcome outcome;
  outcome.logits = checked(Tensor::allocate(DType::f32, {ids.numel(), vocabulary}));
  counts = {};
  const int64_t before = launches();
  checked(session->score(ids, {.sequences = sequences, .tokens_per_sequence = tokens}, outcome.logits));
  outcome.launches = launches() - before;
  outcome.counts = counts;
  return outcome;
}

// Per block of a gated MLP: a norm that rounds for q, k and v, one for gate and up; the output projection and
// down round for themselves.
TEST(RoundedModel, TakesTheFusedPathAndGivesTheSameBytes) {
  const auto source = w8a8(test::kTinyLlama, /*with_head=*/false);
  constexpr int64_t kBlocks = 3;
  for (const auto& [sequences, tokens] : {std::pair<int64_t, int64_t>{2, 11}, {1, 1}, {5, 13}}) {
    const Outcome fused = score(source, true, sequences, tokens);
    const Outcome apart = score(source, false, sequences, tokens);
    EXPECT_EQ(fused.counts, (RowCounts{.norms = 1,
                                       .packed_products = 2 * kBlocks,
                                       .rounded_norms = 2 * kBlocks,
                                       .roundings = 0,
                                       .rounded_products = 5 * kBlocks}));
    EXPECT_EQ(apart.counts, (RowCounts{.norms = 1 + 2 * kBlocks, .packed_products = 7 * kBlocks}));
    EXPECT_TRUE(same_bits(fused.logits, apart.logits));
#ifndef PARE_TEST_GPU
    EXPECT_EQ(apart.launches - fused.launches, 5 * kBlocks);  // the roundings of q, k, v, gate and up
#endif
  }
}

TEST(RoundedModel, RoundsForTheHeadToo) {
  const auto source = w8a8(test::kTinyLlama, /*with_head=*/true);
  const Outcome fused = score(source, true, 1, 9), apart = score(source, false, 1, 9);
  EXPECT_EQ(fused.counts.norms, 0);
  EXPECT_EQ(fused.counts.rounded_norms, 7);
  EXPECT_EQ(fused.counts.rounded_products, 16);
  EXPECT_TRUE(same_bits(fused.logits, apart.logits));
}

TEST(RoundedModel, LayerNormsRoundToo) {
  const auto source = w8a8(test::kTinyGpt2, false);
  const Outcome fused = score(source, true, 2, 7), apart = score(source, false, 2, 7);
  EXPECT_EQ(fused.counts,
            (RowCounts{.norms = 1, .packed_products = 4, .rounded_norms = 4, .rounded_products = 4}));
  EXPECT_EQ(apart.counts, (RowCounts{.norms = 5, .packed_products = 8}));
  EXPECT_TRUE(same_bits(fused.logits, apart.logits));
}

// Experts read gathered rows: rounded once for gate and up, not in the norm, whose floats the router reads.
TEST(RoundedModel, ExpertsRoundOnceForGateAndUp) {
  const auto source = w8a8(test::kTinyMixtral, false);
  const Outcome fused = score(source, true, 1, 6), apart = score(source, false, 1, 6);
  EXPECT_EQ(fused.counts.rounded_norms, 2);
  EXPECT_GT(fused.counts.roundings, 0);
  EXPECT_EQ(fused.counts.rounded_products, 3 * 2 + 2 * fused.counts.roundings);
  EXPECT_TRUE(same_bits(fused.logits, apart.logits));
}

// One linear of a site that reads floats keeps the norm as it is.
TEST(RoundedModel, MixedSitesAreNotFused) {
  const auto source = w8a8(test::kTinyLlama, false,
                           [](const std::string& name) { return name.find("k_proj") != std::string::npos; });
  const Outcome fused = score(source, true, 1, 8), apart = score(source, false, 1, 8);
  EXPECT_EQ(
      fused.counts,
      (RowCounts{.norms = 1 + 3, .packed_products = 4 * 3, .rounded_norms = 3, .rounded_products = 2 * 3}));
  EXPECT_TRUE(same_bits(fused.logits, apart.logits));
}

// Block by block, as --max-vram and evaluation walk: what is planned covers what is taken.
TEST(RoundedModel, WorkspaceIsPlannedBeforeBlocksAreLoaded) {
  for (const char* config : {test::kTinyLlama, test::kTinyGpt2, test::kTinyMixtral}) {
    use_gpu(true);
    auto model = checked(Model::open(w8a8(config, false), Device::cuda(0)));
    const Batch batch{.sequences = 2, .tokens_per_sequence = 5, .first_position = 0};
    const size_t planned = model->workspace_bytes(batch, batch.tokens());
    checked(model->load_all());
    EXPECT_GE(planned, model->workspace_bytes(batch, batch.tokens()));
  }
}

// Staged as calibration walks: norm and linears apart, with the bytes of the whole.
TEST(RoundedModel, StagesGiveTheSameBytes) {
  use_gpu(true);
  auto model = checked(Model::open(w8a8(test::kTinyLlama, false), Device::cuda(0)));
  checked(model->load_all());
  const Batch batch{.sequences = 1, .tokens_per_sequence = 7, .first_position = 0};
  Workspace workspace = checked(Workspace::reserve(model->workspace_bytes(batch, 1), Device::cuda(0)));
  Tensor whole = there(random({7, 24}, "hidden")), staged = there(random({7, 24}, "hidden"));
  checked(model->run_block(1, batch, whole, nullptr, workspace));
  const auto made = [&](Site site) {
    return checked(Tensor::allocate(DType::f32, {7, model->site_channels(1, site)}, Device::cuda(0)));
  };
  for (const auto& [in, out] :
       {std::pair{Site::attention_in, Site::attention_out}, std::pair{Site::mlp_in, Site::mlp_out}}) {
    Tensor first = made(in), second = made(out);
    checked(model->produce(1, in, batch, staged, first, workspace));
    checked(model->produce(1, out, batch, first, second, workspace));
    model->consume(1, out, second, staged, workspace);
  }
  EXPECT_TRUE(same_bits(whole, staged));
}

// Decoding: recorded steps take the same path.
TEST(RoundedModel, DecodingTakesTheFusedPath) {
  const auto source = w8a8(test::kTinyLlama, false);
  std::vector<std::vector<int32_t>> ids;
  std::vector<RowCounts> seen;
  for (const bool has_rounded_rows : {true, false}) {
    RowCounts& counts = use_gpu(has_rounded_rows);
    auto session = checked(Session::open(source, nullptr, Device::cuda(0), 32));
    const std::vector<int32_t> prompt{3, 1, 4, 1, 5};
    const GenerateResult result = checked(session->generate(
        prompt, {.max_new_tokens = 6, .sampler = {}, .stop = {}, .stop_at_eos = false}, {}));
    EXPECT_TRUE(result.is_recorded);
    ids.push_back(result.ids);
    seen.push_back(counts);
  }
  EXPECT_EQ(ids[0], ids[1]);
  // The prompt, the first step by itself, and the recording of the second.
  EXPECT_EQ(seen[0].rounded_norms, 3 * 6);
  EXPECT_EQ(seen[0].rounded_products, 3 * 15);
  EXPECT_EQ(seen[1].rounded_products, 0);
}

}  // namespace
}  // namespace pare
