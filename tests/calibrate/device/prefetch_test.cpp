// Walks whose next block is on its way: the bytes of walks without, within the same ceilings.
#include <gtest/gtest.h>

#include "calibrate/block_pipeline.h"
#include "tests/calibrate/device/device.h"
#include "tests/quantize/problem.h"
#include "tests/quantize/tiny_job.h"

namespace pare::test {
namespace {

constexpr uint64_t kEnough = uint64_t(1) << 30;
constexpr int64_t kContext = 16;

// The same model without a word about where its bytes lie.
class SilentSource final : public MemorySource {
 public:
  explicit SilentSource(const MemorySource& source) : MemorySource(source) {}
  std::vector<HostRange> host_ranges(std::string_view) const override { return {}; }
};

class DevicePrefetch : public DeviceTest {
 protected:
  std::shared_ptr<MemorySource> source_ = tiny_model(kTinyLlama);
  std::shared_ptr<MemorySource> silent_ = std::make_shared<SilentSource>(*source_);

  static cuda::PrefetchUse use() { return cuda::prefetch_use(backend_for(kGpu)); }
  static cuda::MemoryUse memory() { return cuda::memory_use(backend_for(kGpu)); }

  uint64_t floor_bytes(bool original) {
    return pipeline_device_bytes(*checked(Model::open(source_, kGpu)), kContext, original);
  }

  // Hidden states after a walk that observes each block, and the moments, as bytes.
  static std::string observed(const std::shared_ptr<MemorySource>& source, uint64_t device_limit,
                              uint64_t memory_limit = uint64_t(1) << 40) {
    PipelineOptions options;
    options.memory_limit = memory_limit;
    options.spill_folder = memory_folder();
    options.device = kGpu;
    options.device_limit = device_limit;
    // The next block has arrived before this one is done, so that counts do not depend on time.
    options.advance = [](int64_t) {
      cuda::settle_prefetch(backend_for(kGpu));
      return Status();
    };
    const auto pipeline = checked(BlockPipeline::create(std::make_shared<EditedSource>(source), source,
                                                        tiny_windows(3, kContext), std::move(options)));
    checked(pipeline->embed());
    std::string bytes;
    const auto add = [&](const Tensor& tensor) {
      bytes.append(reinterpret_cast<const char*>(tensor.raw()), tensor.size_bytes());
    };
    for (int block = 0; block < pipeline->block_count(); ++block) {
      std::map<Site, SiteStatistics> found;
      checked(pipeline->observe_block(
          block, [](Site) { return StatisticSet{Statistic::second_moment}; }, found));
      for (const auto& [site, statistics] : found) add(statistics.second_moment);
    }
    for (int64_t i = 0; i < pipeline->state_chunks(); ++i) add(checked(pipeline->state_chunk(i)));
    return bytes;
  }
};

TEST_F(DevicePrefetch, AWalkGivesTheSameBytes) {
  const std::string want = observed(silent_, kEnough);
  const uint64_t scratch = memory().held_bytes;  // of operations, kept for the next
  EXPECT_EQ(use().ranges, 0u);
  const std::string got = observed(source_, kEnough);
  EXPECT_TRUE(want == got);
  EXPECT_EQ(use().ranges, 14u);  // seven matrices of the second and of the third block
  EXPECT_EQ(use().served_uploads, 14u);
  EXPECT_EQ(memory().held_bytes, scratch);
}

// The floor is that of a walk without; the next block is taken from where there is room for it.
TEST_F(DevicePrefetch, ThePlanCountsTheNextBlockWhereThereIsRoom) {
  const uint64_t floor = floor_bytes(false);
  const uint64_t block = checked(Model::open(source_, kGpu))->prefetch_bytes();
  ASSERT_GT(block, 0u);
  const std::string want = observed(silent_, kEnough);
  const uint64_t scratch = memory().held_bytes;
  for (const uint64_t limit : {floor, floor + block - 1, floor + block, floor + 4 * block}) {
    install_gpu({.math = cuda::MathMode::f32, .max_bytes = limit});
    EXPECT_TRUE(observed(source_, limit) == want) << limit - floor;
    EXPECT_EQ(use().ranges, limit < floor + block ? 0u : 14u);
    EXPECT_EQ(use().served_uploads, use().ranges);
    EXPECT_LE(memory().peak_bytes, limit);
    EXPECT_EQ(memory().held_bytes, scratch);
  }
}

TEST_F(DevicePrefetch, NothingIsReadAheadUnderATightCeilingOfTheHost) {
  const std::string want = observed(silent_, kEnough);
  EXPECT_TRUE(observed(source_, kEnough, 0) == want);
  EXPECT_EQ(use().ranges, 0u);
}

std::string bytes_of(const MemorySink& sink) {
  std::string bytes;
  for (const auto& [name, data] : sink.weights) {
    const auto add = [&](const Tensor& tensor) {
      if (tensor.defined()) bytes.append(reinterpret_cast<const char*>(tensor.raw()), tensor.size_bytes());
    };
    if (data.is_dense()) add(data.dense());
    if (data.is_quantized()) {
      add(data.quantized()->codes);
      add(data.quantized()->scales);
      add(data.quantized()->zero_points);
    }
  }
  return bytes;
}

// A job that edits blocks: what it has edited is never taken from what was brought before.
TEST_F(DevicePrefetch, JobsGiveTheSameBytes) {
  for (const char* method : {"gptq", "smoothquant+gptq"}) {
    std::string bytes[2];
    for (const bool is_silent : {true, false}) {
      install_gpu();
      QuantizeJob job = tiny_job(is_silent ? silent_ : source_, method, "int4-g8-asym");
      job.device = kGpu;
      job.device_limit = kEnough;
      job.advance = [](int64_t) {
        cuda::settle_prefetch(backend_for(kGpu));
        return Status();
      };
      const JobOutcome outcome = run_job(job, is_silent ? "silent" : "ahead");
      ASSERT_FALSE(outcome.error) << format_error(*outcome.error);
      bytes[is_silent ? 0 : 1] = bytes_of(outcome.sink);
      EXPECT_EQ(use().ranges > 0, !is_silent) << method;
      EXPECT_EQ(use().served_uploads > 0, !is_silent) << method;
    }
    EXPECT_TRUE(bytes[0] == bytes[1]) << method;
  }
}

// Whichever allocation fails, the walk says so or does without, and gives everything back.
TEST_F(DevicePrefetch, AnyAllocationMayFail) {
  observed(silent_, kEnough);
  const uint64_t scratch = memory().held_bytes;  // kept from here on
  int failed = 0, passed = 0;
  for (int64_t n = 1; n < 400; n += 13) {
    {
      PipelineOptions options;
      options.memory_limit = uint64_t(1) << 40;
      options.spill_folder = memory_folder();
      options.device = kGpu;
      options.device_limit = kEnough;
      cuda::fail_allocation(n);
      const auto run = [&]() -> Status {
        PARE_TRY(const auto pipeline, BlockPipeline::create(std::make_shared<EditedSource>(source_), source_,
                                                            tiny_windows(3, kContext), std::move(options)));
        PARE_CHECK(pipeline->embed());
        for (int block = 0; block < pipeline->block_count(); ++block) {
          std::map<Site, SiteStatistics> found;
          PARE_CHECK(pipeline->observe_block(
              block, [](Site) { return StatisticSet{Statistic::second_moment}; }, found));
        }
        return {};
      };
      const Status status = run();
      cuda::fail_allocation(0);
      status ? ++passed : ++failed;
      if (!status) {
        EXPECT_EQ(status.error().exit, Exit::resource) << format_error(status.error());
      }
    }
    EXPECT_EQ(memory().held_bytes, scratch) << "after failure of allocation " << n;
  }
  EXPECT_GT(failed, 2);
  EXPECT_GT(passed, 5);
}

}  // namespace
}  // namespace pare::test
