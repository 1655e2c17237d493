// Activations in memory and on disk read back the same; what a disk can do wrong is an error with its text.
#include "calibrate/activation_store.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>

#include "engine/core/file.h"
#include "tests/support/shared_data.h"

namespace pare {
namespace {

using testing::HasSubstr;

constexpr int64_t kChannels = 5;
const std::vector<int64_t> kRows = {4, 4, 4, 3};

class ActivationStores : public ::testing::Test {
 protected:
  void TearDown() override { set_io_fault({}); }
  ActivationStore make(uint64_t budget) {
    budget_ = {.left = budget, .spill_folder = folder_};
    return ActivationStore::create(kRows, kChannels, budget_).value();
  }
  static Tensor values(int64_t chunk) {
    Tensor tensor = Tensor::allocate(DType::f32, {kRows[size_t(chunk)], kChannels}).value();
    for (int64_t i = 0; i < tensor.numel(); ++i)
      tensor.mutable_data<float>()[i] = float(100 * chunk + i) + 0.25f;
    return tensor;
  }
  static void expect_values(const Tensor& tensor, int64_t chunk) {
    ASSERT_EQ(tensor.size(0), kRows[size_t(chunk)]);
    for (int64_t i = 0; i < tensor.numel(); ++i)
      ASSERT_EQ(tensor.data<float>()[i], float(100 * chunk + i) + 0.25f) << chunk;
  }

  std::string folder_ = test::memory_folder();
  MemoryBudget budget_;
  Tensor scratch_ = Tensor::allocate(DType::f32, {4, kChannels}).value();
};

TEST_F(ActivationStores, ReadBackTheSameWhereverTheyLie) {
  constexpr uint64_t kChunk = 4 * kChannels * sizeof(float), kAll = 15 * kChannels * sizeof(float);
  for (const auto& [budget, resident] : {std::pair<uint64_t, uint64_t>{0, 0},
                                         {kChunk - 1, 0},
                                         {kChunk, kChunk},
                                         {2 * kChunk + 7, 2 * kChunk},
                                         {kAll, kAll},
                                         {kAll + 100, kAll}}) {
    ActivationStore store = make(budget);
    EXPECT_EQ(store.memory_bytes(), resident);
    EXPECT_EQ(store.spilled_bytes(), kAll - resident);
    EXPECT_EQ(budget_.left, budget - resident);
    for (const int64_t chunk : {2, 0, 3, 1}) ASSERT_TRUE(store.write(chunk, values(chunk)));
    for (const int64_t chunk : {1, 3, 0, 2, 2}) expect_values(store.read(chunk, scratch_).value(), chunk);
    // Computed in place, then kept.
    Tensor place = store.place(3, scratch_);
    EXPECT_EQ(place.size(0), 3);
    for (int64_t i = 0; i < place.numel(); ++i) place.mutable_data<float>()[i] = float(i);
    ASSERT_TRUE(store.write(3, place));
    for (int64_t i = 0; i < scratch_.numel(); ++i) scratch_.mutable_data<float>()[i] = -1.0f;
    EXPECT_EQ(store.read(3, scratch_).value().data<float>()[7], 7.0f);
  }
}

TEST_F(ActivationStores, ScratchFilesHaveNoName) {
  ActivationStore store = make(0);
  ASSERT_TRUE(store.write(0, values(0)));
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

TEST_F(ActivationStores, ShortTransfersAreContinued) {
  ActivationStore store = make(0);
  int calls = 0;
  set_io_fault([&](std::string_view call, const std::string&) {
    return (call == "pwrite" || call == "pread") && ++calls % 2 == 1 ? kShortTransfer : 0;
  });
  for (int64_t chunk = 0; chunk < 4; ++chunk) ASSERT_TRUE(store.write(chunk, values(chunk)));
  for (int64_t chunk = 0; chunk < 4; ++chunk) expect_values(store.read(chunk, scratch_).value(), chunk);
  EXPECT_GT(calls, 8);
}

TEST_F(ActivationStores, FaultsOfTheDiskAreErrors) {
  for (const int fault : {ENOSPC, EIO, EDQUOT, EFBIG}) {
    ActivationStore store = make(0);
    set_io_fault([&](std::string_view call, const std::string&) { return call == "pwrite" ? fault : 0; });
    const Status status = store.write(1, values(1));
    set_io_fault({});
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().exit, Exit::io);
    EXPECT_EQ(status.error().path, folder_);
    EXPECT_THAT(format_error(status.error()), HasSubstr("write scratch data"));
    ASSERT_TRUE(store.write(1, values(1))) << "the next try may succeed";
    expect_values(store.read(1, scratch_).value(), 1);
  }
  ActivationStore store = make(0);
  ASSERT_TRUE(store.write(0, values(0)));
  set_io_fault([](std::string_view call, const std::string&) { return call == "pread" ? EIO : 0; });
  const auto read = store.read(0, scratch_);
  set_io_fault({});
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().exit, Exit::io);
  EXPECT_FALSE(store.read(3, scratch_)) << "beyond what was written";
}

TEST_F(ActivationStores, NoFileNoStore) {
  for (const int fault : {EMFILE, EACCES, ENOSPC}) {
    set_io_fault(
        [&](std::string_view call, const std::string&) { return call.starts_with("open") ? fault : 0; });
    budget_ = {.left = 0, .spill_folder = folder_};
    const auto store = ActivationStore::create(kRows, kChannels, budget_);
    set_io_fault({});
    ASSERT_FALSE(store);
    EXPECT_TRUE(std::filesystem::is_empty(folder_));
  }
  budget_ = {.left = 0, .spill_folder = folder_ + "/nowhere"};
  const auto store = ActivationStore::create(kRows, kChannels, budget_);
  ASSERT_FALSE(store);
  EXPECT_EQ(store.error().exit, Exit::io);
  // Nothing is opened when everything fits.
  budget_.left = 1 << 20;
  EXPECT_TRUE(ActivationStore::create(kRows, kChannels, budget_));
}

}  // namespace
}  // namespace pare
