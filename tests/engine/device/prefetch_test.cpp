// Host memory on its way to the device before it is asked for: the same bytes, within the ceiling, and
// nothing left behind.
#include <gtest/gtest.h>

#ifndef PARE_TEST_GPU
#include <cuda_runtime.h>
#endif

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "engine/backends/cpu/cpu_backend.h"
#include "engine/backends/cuda/cuda_backend.h"
#include "engine/core/random.h"
#include "engine/tensor/backend.h"
#include "engine/tensor/decode_backend.h"
#include "engine/tensor/transfer.h"
#include "evaluate/evaluate.h"
#include "tests/support/tiny_model.h"

namespace pare::test {
namespace {

using Bytes = std::vector<std::byte>;

std::shared_ptr<const Bytes> random_bytes(size_t count, uint64_t seed) {
  const Random random(seed, RandomPurpose::test_data);
  auto bytes = std::make_shared<Bytes>(count);
  for (size_t i = 0; i < count; i += 16) {
    const std::array<uint32_t, 4> words = random.bits(i / 16);
    std::memcpy(bytes->data() + i, words.data(), std::min<size_t>(16, count - i));
  }
  return bytes;
}

HostRange range_of(const std::shared_ptr<const Bytes>& bytes) {
  return {.bytes = *bytes, .keeper = bytes};
}

std::unique_ptr<Backend> gpu(uint64_t max_bytes = 0) {
  return checked(make_cuda_backend(0, {.math = cuda::MathMode::f32, .max_bytes = max_bytes}));
}

uint64_t held(const Backend& backend) {
  return cuda::memory_use(backend).held_bytes;
}

// What arrives when bytes [first, first + count) are uploaded.
Bytes uploaded(Backend& backend, const Bytes& from, size_t first, size_t count) {
  const auto there = checked(backend.allocate(count));
  checked(backend.upload(there->mutable_data(), from.data() + first, count));
  Bytes back(count);
  checked(backend.download(back.data(), there->data(), count));
  return back;
}

void expect_upload(Backend& backend, const Bytes& from, size_t first, size_t count) {
  const Bytes back = uploaded(backend, from, first, count);
  EXPECT_EQ(std::memcmp(back.data(), from.data() + first, count), 0) << first << " " << count;
}

TEST(Prefetch, UploadsAreServedWithTheSameBytes) {
  const auto backend = gpu();
  // Several pieces and a tail; less than one piece; odd.
  const std::vector<std::shared_ptr<const Bytes>> all{random_bytes((size_t{20} << 20) + 77, 1),
                                                      random_bytes(4096, 2), random_bytes(1, 3)};
  std::vector<HostRange> ranges;
  for (const auto& bytes : all) ranges.push_back(range_of(bytes));
  backend->prefetch(ranges);
  cuda::settle_prefetch(*backend);
  EXPECT_EQ(cuda::prefetch_use(*backend).ranges, 3u);
  EXPECT_GE(held(*backend), all[0]->size() + all[1]->size());
  // In parts, as transfers of slices come; the last of them gives the memory back.
  const size_t half = all[0]->size() / 2;
  expect_upload(*backend, *all[0], half, all[0]->size() - half);
  expect_upload(*backend, *all[0], 0, half);
  expect_upload(*backend, *all[1], 0, all[1]->size());
  EXPECT_EQ(held(*backend), 256u);
  expect_upload(*backend, *all[2], 0, 1);
  const cuda::PrefetchUse use = cuda::prefetch_use(*backend);
  EXPECT_EQ(use.served_uploads, 4u);
  EXPECT_EQ(use.served_bytes, all[0]->size() + all[1]->size() + 1);
  EXPECT_EQ(held(*backend), 0u);
  // Taken is taken: now it comes from the host again.
  expect_upload(*backend, *all[1], 0, all[1]->size());
  EXPECT_EQ(cuda::prefetch_use(*backend).served_uploads, 4u);
}

TEST(Prefetch, OtherBytesAreNotServed) {
  const auto backend = gpu();
  const auto bytes = random_bytes(4096, 4);
  backend->prefetch(std::vector<HostRange>{
      {.bytes = std::span(*bytes).subspan(1024, 1024), .keeper = bytes},
      {.bytes = std::span(*bytes).subspan(2048, 512), .keeper = bytes, .is_uploaded = false}});
  cuda::settle_prefetch(*backend);
  EXPECT_EQ(cuda::prefetch_use(*backend).ranges, 1u);
  expect_upload(*backend, *bytes, 1000, 100);  // begins before
  expect_upload(*backend, *bytes, 2000, 100);  // ends behind
  expect_upload(*backend, *bytes, 0, 4096);    // around it
  expect_upload(*backend, *bytes, 2048, 512);  // was only to be read ahead
  expect_upload(*backend, *random_bytes(1024, 5), 0, 1024);
  EXPECT_EQ(cuda::prefetch_use(*backend).served_uploads, 0u);
  expect_upload(*backend, *bytes, 1500, 100);
  EXPECT_EQ(cuda::prefetch_use(*backend).served_uploads, 1u);
}

TEST(Prefetch, WhatNobodyTakesIsGivenBack) {
  const auto backend = gpu();
  std::weak_ptr<const Bytes> first, second;
  {
    const auto a = random_bytes(10'000, 6), b = random_bytes(20'000, 7);
    first = a, second = b;
    backend->prefetch(std::vector<HostRange>{range_of(a)});
    backend->prefetch(std::vector<HostRange>{range_of(b)});
  }
  // Whoever had them is gone; they stay readable as long as they may be read.
  EXPECT_TRUE(first.expired());
  EXPECT_FALSE(second.expired());
  cuda::settle_prefetch(*backend);
  EXPECT_EQ(held(*backend), 20'224u);
  backend->prefetch({});
  EXPECT_TRUE(second.expired());
  EXPECT_EQ(held(*backend), 0u);
  EXPECT_EQ(cuda::prefetch_use(*backend).ranges, 2u);
  EXPECT_EQ(cuda::prefetch_use(*backend).served_uploads, 0u);
  checked(backend->finish());
}

TEST(Prefetch, TakesWhatThereIsRoomFor) {
  const auto backend = gpu(10'240);
  const std::vector<std::shared_ptr<const Bytes>> all{random_bytes(4096, 8), random_bytes(4096, 9),
                                                      random_bytes(4096, 10)};
  std::vector<HostRange> ranges;
  for (const auto& bytes : all) ranges.push_back(range_of(bytes));
  backend->prefetch(ranges);
  cuda::settle_prefetch(*backend);
  EXPECT_EQ(cuda::prefetch_use(*backend).ranges, 2u);
  EXPECT_EQ(held(*backend), 8192u);
  {
    // Whoever needs memory comes first.
    const auto needed = checked(backend->allocate(10'000));
    EXPECT_EQ(held(*backend), 10'240u);
    EXPECT_FALSE(backend->allocate(1).has_value());
  }
  for (const auto& bytes : all) expect_upload(*backend, *bytes, 0, bytes->size());
  EXPECT_EQ(cuda::prefetch_use(*backend).served_uploads, 0u);
  EXPECT_LE(cuda::memory_use(*backend).peak_bytes, 10'240u);
  EXPECT_EQ(held(*backend), 0u);
  checked(backend->finish());
}

TEST(Prefetch, AnyOfItsAllocationsMayFail) {
  const std::vector<std::shared_ptr<const Bytes>> all{random_bytes(4096, 11), random_bytes(5000, 12),
                                                      random_bytes(6000, 13)};
  for (int64_t n = 1; n <= 3; ++n) {
    const auto backend = gpu();
    std::vector<HostRange> ranges;
    for (const auto& bytes : all) ranges.push_back(range_of(bytes));
    cuda::fail_allocation(n);
    backend->prefetch(ranges);
    cuda::fail_allocation(0);
    cuda::settle_prefetch(*backend);
    EXPECT_EQ(cuda::prefetch_use(*backend).ranges, uint64_t(n - 1));
    for (const auto& bytes : all) expect_upload(*backend, *bytes, 0, bytes->size());
    EXPECT_EQ(cuda::prefetch_use(*backend).served_uploads, uint64_t(n - 1));
    EXPECT_EQ(held(*backend), 0u);
    checked(backend->finish());
  }
}

// Nobody waits for anything here: uploads meet ranges that have not begun, are under way, are there or gone.
TEST(Prefetch, AnyMomentGivesTheSameBytes) {
  const auto backend = gpu(size_t{24} << 20);
  std::vector<std::shared_ptr<const Bytes>> all;
  for (uint64_t i = 0; i < 6; ++i)
    all.push_back(random_bytes((size_t{1} << 20) * (i == 2 ? 9 : 1) + i, 20 + i));
  const Random random(1, RandomPurpose::test_data);
  for (uint64_t round = 0; round < 24; ++round) {
    std::vector<HostRange> ranges;
    for (const auto& bytes : all) ranges.push_back(range_of(bytes));
    backend->prefetch(ranges);
    const uint64_t word = random.bits(round)[0];
    if (word % 5 == 0) cuda::settle_prefetch(*backend);
    for (size_t i = word % 3; i < all.size(); i += 1 + word / 3 % 2) {
      const size_t first = word / 7 % 1000;
      expect_upload(*backend, *all[i], first, all[i]->size() - first);
    }
    if (word % 4 == 0) backend->prefetch({});
  }
  backend->prefetch({});
  EXPECT_EQ(held(*backend), 0u);
  EXPECT_LE(cuda::memory_use(*backend).peak_bytes, size_t{24} << 20);
  checked(backend->finish());
}

TEST(Prefetch, ABackendMayGoWhileItIsUnderWay) {
  std::weak_ptr<const Bytes> kept;
  for (int round = 0; round < 10; ++round) {
    auto backend = gpu();
    {
      const auto bytes = random_bytes(size_t{17} << 20, 30);
      kept = bytes;
      backend->prefetch(std::vector<HostRange>{range_of(bytes)});
    }
    backend.reset();
    EXPECT_TRUE(kept.expired());
  }
}

TEST(Prefetch, NothingIsPrefetchedWithinARecording) {
  const auto backend = gpu();
  ASSERT_NE(backend->decoding(), nullptr);
  const auto bytes = random_bytes(4096, 31);
  backend->prefetch(std::vector<HostRange>{range_of(bytes)});
  checked(backend->decoding()->begin_capture());
  EXPECT_EQ(held(*backend), 0u);
  backend->prefetch(std::vector<HostRange>{range_of(bytes)});
  EXPECT_EQ(held(*backend), 0u);
  (void)checked(backend->decoding()->end_capture());
  EXPECT_EQ(cuda::prefetch_use(*backend).ranges, 1u);
}

#ifndef PARE_TEST_GPU
TEST(Prefetch, AFailedCopyIsToldOnce) {
  const auto backend = gpu();
  const auto bytes = random_bytes(4096, 32);
  emulator::fail_copy(1);
  backend->prefetch(std::vector<HostRange>{range_of(bytes)});
  cuda::settle_prefetch(*backend);
  emulator::fail_copy(0);
  const Status status = backend->finish();
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().exit, Exit::resource);
  EXPECT_NE(format_error(status.error()).find("prefetch"), std::string::npos) << format_error(status.error());
  expect_upload(*backend, *bytes, 0, bytes->size());
  EXPECT_EQ(cuda::prefetch_use(*backend).served_uploads, 0u);
  backend->prefetch({});
  EXPECT_EQ(held(*backend), 0u);
}
#endif

// --- models --------------------------------------------------------------------------------------------

// The same model without a word about where its bytes lie.
class SilentSource final : public MemorySource {
 public:
  explicit SilentSource(const MemorySource& source) : MemorySource(source) {}
  std::vector<HostRange> host_ranges(std::string_view) const override { return {}; }
};

class PrefetchModel : public ::testing::TestWithParam<const char*> {
 protected:
  static const Backend& install(uint64_t max_bytes = 0) {
    install_backend(make_cpu_backend());
    auto backend = gpu(max_bytes);
    const Backend& installed = *backend;
    install_backend(std::move(backend));
    return installed;
  }
};

// Block by block; the next one is there before this one has computed.
Tensor walked(const std::shared_ptr<const WeightSource>& source, bool settles) {
  const Device device = Device::cuda(0);
  const auto model = checked(Model::open(source, device));
  const Batch batch{.sequences = 2, .tokens_per_sequence = 5};
  std::vector<int32_t> ids(size_t(batch.tokens()));
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(3 * i + 1);
  Workspace workspace = checked(Workspace::reserve(model->workspace_bytes(batch, 0), device));
  Tensor hidden =
      checked(Tensor::allocate(DType::f32, {batch.tokens(), model->config().hidden_size}, device));
  checked(model->load_embedding());
  checked(model->embed(tensor_of(ids, Device::cpu()), batch, hidden, workspace));
  for (int block = 0; block < int(model->config().block_count()); ++block) {
    checked(model->load_block(block));
    model->prefetch_block(block + 1);
    if (settles) cuda::settle_prefetch(backend_for(device));
    checked(model->run_block(block, batch, hidden, nullptr, workspace));
    model->drop_block(block);
  }
  return checked(moved(hidden, Device::cpu()));
}

TEST_P(PrefetchModel, AWalkGivesTheSameBytes) {
  const auto source = tiny_model(GetParam());
  // One matrix as codes, which are repacked on the device.
  for (const StoredTensor& stored : std::vector<StoredTensor>(source->tensors()))
    if (stored.name.ends_with("1.self_attn.o_proj.weight"))
      source->add(stored.name, int8_of(source->dense(stored.name)), false);
  install();
  const Tensor want = walked(std::make_shared<SilentSource>(*source), true);
  EXPECT_EQ(cuda::prefetch_use(backend_for(Device::cuda(0))).ranges, 0u);
  const uint64_t scratch = held(backend_for(Device::cuda(0)));  // of operations, kept for the next
  const Backend& backend = install();
  const Tensor got = walked(source, true);
  EXPECT_EQ(std::memcmp(want.raw(), got.raw(), want.size_bytes()), 0);
  const cuda::PrefetchUse use = cuda::prefetch_use(backend);
  // Those of GPT-2 are turned by the host.
  EXPECT_EQ(use.ranges > 0, std::string(GetParam()) != kTinyGpt2);
  EXPECT_EQ(use.served_uploads, use.ranges);  // every matrix, and each once
  EXPECT_EQ(held(backend), scratch);
  install();
  const Tensor racing = walked(source, false);
  EXPECT_EQ(std::memcmp(want.raw(), racing.raw(), want.size_bytes()), 0);
}

// From the smallest ceiling that the walk fits into: nothing is needed more, nothing goes above.
TEST_P(PrefetchModel, CeilingsHold) {
  const auto source = tiny_model(GetParam());
  const Backend& free = install();
  const Tensor want = walked(std::make_shared<SilentSource>(*source), true);
  const uint64_t floor = cuda::memory_use(free).peak_bytes, scratch = held(free);
  for (const uint64_t ceiling : {floor, floor + 2048, floor + 8192, 2 * floor}) {
    const Backend& backend = install(ceiling);
    const Tensor got = walked(source, true);
    EXPECT_EQ(std::memcmp(want.raw(), got.raw(), want.size_bytes()), 0) << ceiling;
    EXPECT_LE(cuda::memory_use(backend).peak_bytes, ceiling);
    EXPECT_EQ(held(backend), scratch);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families, PrefetchModel, ::testing::Values(kTinyLlama, kTinyGpt2, kTinyMixtral), [](const auto& info) {
      return std::string(info.index == 0 ? "llama" : info.index == 1 ? "gpt2" : "mixtral");
    });

TEST(PrefetchEvaluation, EqualsTheModelLoadedWhole) {
  install_backend(make_cpu_backend());
  install_backend(gpu());
  const auto source = tiny_model(kTinyLlama);
  std::vector<int32_t> ids(24);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(i + 1);
  const Tensor tokens = tensor_of(ids, Device::cpu()).reshaped({2, 12});
  const auto whole = checked(Model::open(source, Device::cuda(0)));
  checked(whole->load_all());
  const auto streamed = checked(Model::open(source, Device::cuda(0)));
  const Tensor want = checked(all_logits(*whole, tokens, {}));
  const Tensor got = checked(all_logits(*streamed, tokens, {}));
  EXPECT_EQ(std::memcmp(want.raw(), got.raw(), want.size_bytes()), 0);
  EXPECT_GT(cuda::prefetch_use(backend_for(Device::cuda(0))).ranges, 0u);
}

// A model that is closed in the middle of its walk leaves nothing behind.
TEST(PrefetchEvaluation, AModelMayGoInTheMiddle) {
  install_backend(make_cpu_backend());
  install_backend(gpu());
  const Backend& backend = backend_for(Device::cuda(0));
  auto source = tiny_model(kTinyLlama);
  const std::weak_ptr<const WeightSource> watched = source;
  {
    const auto model = checked(Model::open(std::move(source), Device::cuda(0)));
    checked(model->load_block(0));
    model->prefetch_block(1);
  }
  EXPECT_TRUE(watched.expired());
  EXPECT_EQ(held(backend), 0u);
}

// GPT-2's matrices are turned by the host, so they are only read ahead.
TEST(PrefetchEvaluation, NamesWhatIsUploadedAsItIs) {
  install_backend(make_cpu_backend());
  const auto llama = checked(Model::open(tiny_model(kTinyLlama), Device::cpu()));
  const auto gpt2 = checked(Model::open(tiny_model(kTinyGpt2), Device::cpu()));
  const auto uploads = [](const Model& model) {
    int count = 0;
    for (const HostRange& range : model.block_ranges(1)) count += range.is_uploaded ? 1 : 0;
    return count;
  };
  EXPECT_EQ(llama->block_ranges(1).size(), 9u);
  EXPECT_EQ(uploads(*llama), 7);
  EXPECT_EQ(gpt2->block_ranges(1).size(), 12u);
  EXPECT_EQ(uploads(*gpt2), 0);
  EXPECT_TRUE(llama->block_ranges(3).empty());
  EXPECT_EQ(llama->prefetch_bytes(), 4u * (24 * 32 * 2 + 24 * 16 * 2 + 3 * 24 * 40 + 2 * 24));
}

}  // namespace
}  // namespace pare::test
