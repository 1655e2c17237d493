// Walks over blocks on a device against the same walks on the CPU: statistics, quantization, pruning,
// ceilings, and jobs that are resumed.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "calibrate/block_pipeline.h"
#include "prune/prune_step.h"
#include "tests/calibrate/device/device.h"
#include "tests/quantize/problem.h"
#include "tests/quantize/tiny_job.h"

namespace pare::test {
namespace {

constexpr StatisticSet kAll{Statistic::second_moment, Statistic::absmean,       Statistic::absmax,
                            Statistic::square,        Statistic::range,         Statistic::histogram,
                            Statistic::mean,          Statistic::sample_absmean};
constexpr uint64_t kEnough = uint64_t(1) << 30;

class DevicePipeline : public DeviceTest {
 protected:
  std::shared_ptr<MemorySource> source_ = tiny_model(kTinyLlama);

  // Bytes that the device must grant whatever the stores take.
  uint64_t floor_bytes(int64_t context) {
    const auto model = checked(Model::open(source_, kGpu));
    return pipeline_device_bytes(*model, context, false);
  }

  std::unique_ptr<BlockPipeline> open(Device device, uint64_t device_limit = kEnough,
                                      uint64_t memory_limit = uint64_t(1) << 40, bool original = false) {
    PipelineOptions options;
    options.memory_limit = memory_limit;
    options.spill_folder = memory_folder();
    options.device = device;
    options.device_limit = device_limit;
    options.original_stream = original;
    return checked(BlockPipeline::create(std::make_shared<EditedSource>(source_), source_,
                                         tiny_windows(3, 31), std::move(options)));
  }
};

using Seen = std::map<std::pair<int, Site>, SiteStatistics>;

Seen observe_all(BlockPipeline& pipeline, std::string* states = nullptr) {
  Seen seen;
  checked(pipeline.embed());
  for (int block = 0; block < pipeline.block_count(); ++block) {
    std::map<Site, SiteStatistics> found;
    checked(pipeline.observe_block(
        block, [](Site) { return kAll; }, found));
    for (auto& [site, statistics] : found) seen[{block, site}] = std::move(statistics);
  }
  if (states != nullptr)
    for (int64_t i = 0; i < pipeline.state_chunks(); ++i) {
      const Tensor state = checked(pipeline.state_chunk(i));
      states->append(reinterpret_cast<const char*>(state.raw()), state.size_bytes());
    }
  return seen;
}

template <typename T>
void expect_near(const std::vector<T>& device, const std::vector<T>& host, const char* what) {
  ASSERT_EQ(device.size(), host.size()) << what;
  double largest = 0.0;
  for (const T value : host) largest = std::max(largest, std::abs(double(value)));
  for (size_t i = 0; i < host.size(); ++i) ASSERT_NEAR(device[i], host[i], 1e-5 * largest) << what << i;
}

TEST_F(DevicePipeline, StatisticsAreThoseOfTheHost) {
  const auto device = open(kGpu), host = open(Device::cpu());
  const Seen got = observe_all(*device), want = observe_all(*host);
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [place, expected] : want) {
    const SiteStatistics& found = got.at(place);
    EXPECT_EQ(found.tokens, expected.tokens);
    EXPECT_EQ(found.samples, expected.samples);
    expect_near(found.sum, expected.sum, "sum");
    expect_near(found.abs_sum, expected.abs_sum, "abs_sum");
    expect_near(found.abs_max, expected.abs_max, "abs_max");
    expect_near(found.square_sum, expected.square_sum, "square_sum");
    expect_near(found.sample_square_sum, expected.sample_square_sum, "sample_square_sum");
    const double size = std::max(std::abs(double(expected.low)), std::abs(double(expected.high)));
    EXPECT_NEAR(found.low, expected.low, 1e-5 * size);
    EXPECT_NEAR(found.high, expected.high, 1e-5 * size);
    EXPECT_NEAR(found.moving_low, expected.moving_low, 1e-5 * size);
    EXPECT_NEAR(found.moving_high, expected.moving_high, 1e-5 * size);
    ASSERT_TRUE(found.second_moment.device().is_host());
    const int64_t n = expected.channels;
    double largest = 0.0;
    for (int64_t i = 0; i < n; ++i)
      largest = std::max(largest, double(expected.second_moment.data<float>()[i * n + i]));
    for (int64_t i = 0; i < n * n; ++i) {
      ASSERT_NEAR(found.second_moment.data<float>()[i], expected.second_moment.data<float>()[i],
                  1e-5 * largest);
    }
    // Values near the edge of a bin may go to its neighbour.
    uint64_t total = 0, moved_values = 0;
    for (size_t bin = 0; bin < size_t(Histogram::kBins); ++bin) {
      total += found.histogram->positive[bin] + found.histogram->negative[bin];
      for (const auto side : {&Histogram::positive, &Histogram::negative}) {
        const uint64_t a = ((*found.histogram).*side)[bin], b = ((*expected.histogram).*side)[bin];
        moved_values += a > b ? a - b : b - a;
      }
    }
    EXPECT_EQ(total, uint64_t(found.tokens * n));
    EXPECT_LE(moved_values, total / 50);
  }
}

// Hidden states on the device, in host memory, on disk: the same bytes.
TEST_F(DevicePipeline, CeilingsDoNotChangeAByte) {
  std::string all, host, disk;
  const Seen first = observe_all(*open(kGpu), &all);
  const uint64_t floor = floor_bytes(31);
  const Seen second = observe_all(*open(kGpu, floor), &host);
  const auto spilling = open(kGpu, floor, 0);
  const Seen third = observe_all(*spilling, &disk);
  EXPECT_GT(spilling->spilled_bytes(), 0u);
  EXPECT_EQ(all, host);
  EXPECT_EQ(all, disk);
  for (const auto& [place, statistics] : first) {
    EXPECT_TRUE(same_bytes(statistics.second_moment, second.at(place).second_moment));
    EXPECT_TRUE(same_bytes(statistics.second_moment, third.at(place).second_moment));
    EXPECT_EQ(statistics.square_sum, third.at(place).square_sum);
  }
}

TEST_F(DevicePipeline, ADeviceThatIsTooSmallIsRefused) {
  PipelineOptions options;
  options.memory_limit = uint64_t(1) << 40;
  options.device = kGpu;
  options.device_limit = floor_bytes(31) - 1;
  const auto pipeline = BlockPipeline::create(std::make_shared<EditedSource>(source_), source_,
                                              tiny_windows(3, 31), std::move(options));
  ASSERT_FALSE(pipeline.has_value());
  EXPECT_EQ(pipeline.error().exit, Exit::resource);
  EXPECT_EQ(pipeline.error().rule, "RL06");
}

double extra(const TensorRecord& record, const char* key) {
  return record.extra.find(key)->as_double();
}

void expect_same_report(const JobOutcome& device, const JobOutcome& host, double tolerance) {
  ASSERT_FALSE(device.error) << format_error(*device.error);
  ASSERT_FALSE(host.error) << format_error(*host.error);
  ASSERT_EQ(device.manifest.tensors.size(), host.manifest.tensors.size());
  for (size_t i = 0; i < host.manifest.tensors.size(); ++i) {
    const TensorRecord &a = device.manifest.tensors[i], &b = host.manifest.tensors[i];
    EXPECT_EQ(a.name, b.name);
    EXPECT_EQ(a.method_applied, b.method_applied);
    EXPECT_EQ(a.scheme, b.scheme);
    if (b.extra.find("output_error") == nullptr) continue;
    EXPECT_NEAR(extra(a, "output_error"), extra(b, "output_error"), tolerance * extra(b, "output_error"))
        << a.name;
    EXPECT_EQ(extra(a, "tokens"), extra(b, "tokens"));
  }
}

// What AWQ and SmoothQuant chose, on the device.
void expect_same_scales(const JobOutcome& device, const JobOutcome& host) {
  for (const TensorRecord& record : host.manifest.tensors) {
    const Json* want = record.extra.find("scale_search");
    if (want == nullptr || want->find("loss_ratio") == nullptr) continue;
    const Json* got = device.record(record.name)->extra.find("scale_search");
    ASSERT_NE(got, nullptr) << record.name;
    EXPECT_EQ(want->find("searched_on"), nullptr);
    ASSERT_NE(got->find("searched_on"), nullptr) << record.name;
    EXPECT_EQ(got->find("searched_on")->as_string(), "cuda:0") << record.name;
    EXPECT_NEAR(got->find("loss_ratio")->as_double(), want->find("loss_ratio")->as_double(), 0.02)
        << record.name;
  }
}

QuantizeJob on_gpu(QuantizeJob job) {
  job.device = kGpu;
  job.device_limit = kEnough;
  return job;
}

TEST_F(DevicePipeline, GptqReportsWhatTheHostReports) {
  for (const char* scheme : {"int4-g32-asym", "int4-g8-sym"}) {
    const QuantizeJob job = tiny_job(source_, "gptq", scheme);
    expect_same_report(run_job(on_gpu(job), "device"), run_job(job, "host"), 0.03);
  }
}

TEST_F(DevicePipeline, OtherMethodsRunTheirPassesThere) {
  for (const char* method : {"awq", "smoothquant+gptq", "rtn"}) {
    const QuantizeJob job = tiny_job(source_, method, "int4-g8-asym");
    const JobOutcome device = run_job(on_gpu(job), "device"), host = run_job(job, "host");
    expect_same_report(device, host, 0.05);
    expect_same_scales(device, host);
  }
}

// Also where the rest of the method wants its moments on the host.
TEST_F(DevicePipeline, ScalesAreSearchedThereForEveryMethod) {
  QuantizeJob job = tiny_job(source_, "smoothquant", "int4-g8-asym");
  job.options.repair_rank = 2;
  const JobOutcome device = run_job(on_gpu(job), "device");
  ASSERT_FALSE(device.error) << format_error(*device.error);
  expect_same_scales(device, run_job(job, "host"));
}

// What no kernel knows is searched on the host: told once, and noted with every matrix.
TEST_F(DevicePipeline, SearchesOnTheHostAreTold) {
  QuantizeJob job = tiny_job(source_, "awq", "nf4-g8");
  job.options.awq.steps = 2;
  testing::internal::CaptureStderr();
  const JobOutcome outcome = run_job(on_gpu(job), "device");
  const std::string said = testing::internal::GetCapturedStderr();
  ASSERT_FALSE(outcome.error) << format_error(*outcome.error);
  const size_t first = said.find("scales are searched on the host: nf4-g8");
  ASSERT_NE(first, std::string::npos) << said;
  EXPECT_EQ(said.find("searched on the host", first + 30), std::string::npos) << said;
  int noted = 0;
  for (const TensorRecord& record : outcome.manifest.tensors) {
    const Json* search = record.extra.find("scale_search");
    if (search == nullptr || search->find("loss_ratio") == nullptr) continue;
    EXPECT_EQ(search->find("searched_on")->as_string(), "cpu");
    ++noted;
  }
  EXPECT_GT(noted, 0);
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

// A job that was ended in its second block and goes on gives the bytes of one that was not.
TEST_F(DevicePipeline, AResumedJobGivesTheSameBytes) {
  QuantizeJob job = on_gpu(tiny_job(source_, "gptq", "int4-g8-asym"));
  const JobOutcome whole = run_job(job, "whole");
  ASSERT_FALSE(whole.error);
  const std::string path = memory_folder() + "/resumed";
  int64_t steps = 0;
  {
    JobFolder folder = checked(JobFolder::open(path, Json::object(), JobMode::fresh));
    job.advance = [&](int64_t) -> Status {
      if (++steps < 6) return {};  // a block has four sites
      return Error{.exit = Exit::interrupted, .path = path, .what = "ended by the test"};
    };
    EXPECT_FALSE(compress_blocks(job, folder).has_value());
    EXPECT_GT(folder.generation(), 0);
  }
  JobFolder folder = checked(JobFolder::open(path, Json::object(), JobMode::resume));
  job.advance = [](int64_t) { return Status(); };
  const BlockJobResult result = checked(compress_blocks(job, folder));
  EXPECT_EQ(result.first_block, 1);
  JobOutcome resumed;
  checked(write_compressed(job, folder, resumed.sink, resumed.manifest));
  checked(folder.remove());
  EXPECT_EQ(bytes_of(resumed.sink), bytes_of(whole.sink));
}

TEST_F(DevicePipeline, MemoryStaysWithinThePlan) {
  const uint64_t floor = floor_bytes(16);
  for (const char* method : {"gptq", "awq+gptq"}) {
    install_gpu({.math = cuda::MathMode::f32, .max_bytes = floor});
    QuantizeJob job = tiny_job(source_, method, "int4-g8-asym");
    job.options.awq.steps = 3;
    job.device = kGpu;
    job.device_limit = floor;
    const JobOutcome outcome = run_job(job, "tight");
    ASSERT_FALSE(outcome.error) << format_error(*outcome.error);
    EXPECT_LE(cuda::memory_use(backend_for(kGpu)).peak_bytes, floor);
  }
}

TEST_F(DevicePipeline, PruningReportsWhatTheHostReports) {
  const ModelDescription model = checked(describe_model(*source_));
  for (const PruneMethod method : {PruneMethod::sparsegpt, PruneMethod::wanda})
    for (const char* text : {"0.5", "2:4"}) {
      std::map<std::string, double> errors[2];
      for (const bool is_device : {false, true}) {
        std::vector<std::optional<PruneTarget>> targets;
        for (const TensorSpec& spec : model.tensors)
          targets.push_back(spec.is_linear && spec.block >= 0
                                ? std::optional(PruneTarget::parse(text).value())
                                : std::nullopt);
        PruneOptions options;
        options.method = method;
        options.hessian.act_order = false;
        PruneStep step(model, std::move(targets), std::move(options));
        const auto pipeline = open(is_device ? kGpu : Device::cpu());
        checked(pipeline->embed());
        for (int block = 0; block < pipeline->block_count(); ++block)
          checked(pipeline->run_block(block, step));
        for (const TensorRecord& record : step.take_records())
          errors[is_device ? 1 : 0][record.name] = extra(record, "output_error");
      }
      ASSERT_FALSE(errors[0].empty());
      for (const auto& [name, error] : errors[0])
        EXPECT_NEAR(errors[1].at(name), error, 0.03 * error) << name;
    }
}

// Values that are not finite are told with block, site and sample.
TEST_F(DevicePipeline, NotFiniteValuesAreFound) {
  const ModelDescription model = checked(describe_model(*source_));
  const TensorSpec* spec = model.find(Role::up, 1);
  Tensor values = checked(float_values(*source_, *spec));
  for (int64_t i = 0; i < values.numel(); ++i) values.mutable_data<float>()[i] = 3e38f;
  source_->add(spec->name, values);
  std::string where[2];
  for (const bool is_device : {false, true}) {
    const auto pipeline = open(is_device ? kGpu : Device::cpu());
    checked(pipeline->embed());
    std::map<Site, SiteStatistics> found;
    checked(pipeline->observe_block(
        0, [](Site) { return kAll; }, found));
    const Status status = pipeline->observe_block(
        1, [](Site) { return kAll; }, found);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().rule, "NU06");
    where[is_device ? 1 : 0] = status.error().where;
  }
  EXPECT_EQ(where[0].substr(0, 24), where[1].substr(0, 24));
}

}  // namespace
}  // namespace pare::test
