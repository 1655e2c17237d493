// Whole models in the memory of a device: against Hugging Face, and against the host.
#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cmath>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/cuda/cuda_backend.h"
#include "engine/run/session.h"
#include "evaluate/evaluate.h"
#include "tests/support/backends.h"
#include "tests/support/compare.h"
#include "tests/support/memory_source.h"
#include "tests/support/shared_data.h"
#include "tests/support/walk.h"

namespace pare {
namespace {

using test::checked;

// ||a - b|| / ||b||. What bf16 products are judged by: every operand is off by up to 2^-8, which in models of
// random weights moves single logits much further than their norm.
double norm_error(const Tensor& a, const Tensor& b) {
  double difference = 0.0, norm = 0.0;
  for (int64_t i = 0; i < a.numel(); ++i) {
    const double x = double(a.data<float>()[i]), y = double(b.data<float>()[i]);
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  return std::sqrt(difference / norm);
}

Device use_gpu(cuda::MathMode math) {
  install_backend(make_cpu_backend());
  install_backend(checked(make_cuda_backend(0, {.math = math})));
  return Device::cuda(0);
}

struct Golden {
  const char* folder;
  size_t prompt;
  // PyTorch's own bf16 forward of these fixtures is off by 0.012 (gpt2) to 0.025, and by 0.061 for mixtral,
  // where a rounded router takes another expert.
  double bf16_error = 2e-2;
};

class OnDevice : public ::testing::TestWithParam<std::tuple<Golden, cuda::MathMode>> {};

TEST_P(OnDevice, EqualsHuggingFace) {
  const auto& [golden, math] = GetParam();
  PARE_SHARED_OR_SKIP(folder, std::string(golden.folder));
  const Device device = use_gpu(math);
  const auto expected = test::read_tensors(folder + "/expected.safetensors");
  auto session = checked(Session::open(test::MemorySource::read(folder), nullptr, device));
  const Tensor& input = expected.at("input_ids");
  Tensor logits =
      checked(Tensor::allocate(DType::f32, {input.numel(), session->model().config().vocabulary_size}));
  checked(session->score(test::tensor_of(test::ids_of(input), Device::cpu()),
                         {.sequences = input.size(0), .tokens_per_sequence = input.size(1)}, logits));
  if (math == cuda::MathMode::f32) {
    EXPECT_LE(test::relative_error(logits, expected.at("logits")), 1e-5);
  } else {
    EXPECT_LE(norm_error(logits, expected.at("logits")), golden.bf16_error);
  }

  const std::vector<int32_t> want = test::ids_of(expected.at("greedy_ids"));
  const size_t count = std::min(want.size() - golden.prompt, size_t(math == cuda::MathMode::f32 ? 24 : 4));
  const GenerateResult result = checked(session->generate(
      std::span(want).first(golden.prompt),
      {.max_new_tokens = int64_t(count), .sampler = {}, .stop = {}, .stop_at_eos = false}, {}));
  ASSERT_EQ(result.ids.size(), count);
  // Rounded products may part ways later; a router may take another expert at once.
  if (golden.bf16_error < 0.05) {
    EXPECT_EQ(result.ids[0], want[golden.prompt]);
  }
  if (math == cuda::MathMode::f32) {
    EXPECT_EQ(result.ids, std::vector<int32_t>(want.begin() + std::ptrdiff_t(golden.prompt),
                                               want.begin() + std::ptrdiff_t(golden.prompt + count)));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families, OnDevice,
    ::testing::Combine(::testing::Values(Golden{"fixtures/llama", 8}, Golden{"fixtures/llama-tied", 8},
                                         Golden{"fixtures/mistral", 8}, Golden{"fixtures/mixtral", 8, 1e-1},
                                         Golden{"fixtures/qwen2", 8}, Golden{"fixtures/qwen3", 8},
                                         Golden{"fixtures/gpt2", 8}, Golden{"stories260K-hf", 5}),
                       ::testing::Values(cuda::MathMode::f32, cuda::MathMode::bf16)),
    [](const auto& info) {
      return test::test_name(std::string(std::get<0>(info.param).folder) +
                             (std::get<1>(info.param) == cuda::MathMode::f32 ? "_f32" : "_bf16"));
    });

TEST(OnDeviceEvaluation, EqualsTheHost) {
  PARE_SHARED_OR_SKIP(folder, "fixtures/llama");
  const Device device = use_gpu(cuda::MathMode::f32);
  const auto expected = test::read_tensors(folder + "/expected.safetensors");
  const std::vector<int32_t> ids = test::ids_of(expected.at("input_ids"));
  const int64_t tokens = int64_t(ids.size());
  const std::vector<EvaluationWindow> windows{{.begin = 0,
                                               .length = tokens,
                                               .score_begin = 0,
                                               .score_end = tokens - 1,
                                               .replace_first_with_bos = false}};
  auto here = checked(Model::open(test::MemorySource::read(folder), Device::cpu()));
  auto there = checked(Model::open(test::MemorySource::read(folder), device));
  const EvaluateResult want = checked(evaluate(*here, nullptr, ids, windows, {}, [](int64_t) {}));
  const EvaluateResult got = checked(evaluate(*there, here.get(), ids, windows, {}, [](int64_t) {}));
  EXPECT_NEAR(got.perplexity.value, want.perplexity.value, 1e-4 * want.perplexity.value);
  ASSERT_TRUE(got.damage.has_value());
  EXPECT_LT(got.damage->kl.value, 1e-8);
}

TEST(OnDeviceMemory, IsLimitedAndGivenBack) {
  PARE_SHARED_OR_SKIP(folder, "fixtures/llama");
  install_backend(make_cpu_backend());
  auto backend = checked(make_cuda_backend(0, {.math = cuda::MathMode::f32, .max_bytes = 100'000}));
  const Backend& gpu = *backend;
  install_backend(std::move(backend));
  {
    auto model = checked(Model::open(test::MemorySource::read(folder), Device::cuda(0)));
    const Status loaded = model->load_all();
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error().exit, Exit::resource);
    EXPECT_LE(cuda::memory_use(gpu).peak_bytes, 100'000u);
  }
  EXPECT_EQ(cuda::memory_use(gpu).held_bytes, 0u);
}

// Whichever allocation fails, the model says so and gives everything back.
TEST(OnDeviceMemory, AnyAllocationMayFail) {
  PARE_SHARED_OR_SKIP(folder, "fixtures/llama");
  install_backend(make_cpu_backend());
  auto backend = checked(make_cuda_backend(0, {.math = cuda::MathMode::f32}));
  const Backend& gpu = *backend;
  install_backend(std::move(backend));
  int failed = 0;
  for (int64_t n = 1; n < 200; ++n) {
    cuda::fail_allocation(n);
    auto session = Session::open(test::MemorySource::read(folder), nullptr, Device::cuda(0));
    cuda::fail_allocation(0);
    if (session) break;
    ++failed;
    EXPECT_EQ(session.error().exit, Exit::resource);
    EXPECT_EQ(cuda::memory_use(gpu).held_bytes, 0u) << "after failure of allocation " << n;
  }
  EXPECT_GT(failed, 10);
  EXPECT_LT(failed, 199);
}

}  // namespace
}  // namespace pare
