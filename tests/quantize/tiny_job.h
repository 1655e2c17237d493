// tests/quantize/tiny_job.h: calibrated quantization of a model in memory, from windows to what a sink gets.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quantize/quantize_job.h"
#include "tests/support/shared_data.h"
#include "tests/support/tiny_model.h"

namespace pare::test {

// Keeps what is written, and whether it was published.
class MemorySink final : public WeightSink {
 public:
  Status put(std::string_view name, const WeightData& weight) override {
    weights[std::string(name)] = weight;
    return {};
  }
  Status finish(const Manifest&) override {
    is_published = true;
    return {};
  }
  uint64_t bytes_written() const override { return 0; }

  std::map<std::string, WeightData> weights;
  bool is_published = false;
};

inline CalibrationWindows tiny_windows(int64_t samples, int64_t context, int64_t vocabulary = 40) {
  CalibrationWindows windows{
      .ids = {}, .samples = samples, .context = context, .token_hash = "t", .text_hash = "x"};
  const Random random(11, RandomPurpose::test_data, "windows");
  for (int64_t i = 0; i < samples * context; ++i)
    windows.ids.push_back(int32_t(random.below(uint64_t(vocabulary), uint64_t(i))));
  return windows;
}

inline std::vector<std::optional<QuantScheme>> linear_schemes(const ModelDescription& model,
                                                              const std::string& scheme) {
  std::vector<std::optional<QuantScheme>> schemes;
  for (const TensorSpec& spec : model.tensors)
    schemes.push_back(spec.is_linear ? std::optional(checked(QuantScheme::parse(scheme))) : std::nullopt);
  return schemes;
}

// A job over all linears; 8 windows of 16 tokens unless changed.
inline QuantizeJob tiny_job(std::shared_ptr<MemorySource> source, const std::string& method,
                            const std::string& scheme) {
  ModelDescription model = checked(describe_model(*source));
  std::vector<std::optional<QuantScheme>> schemes = linear_schemes(model, scheme);
  QuantizeJob job;
  job.source = std::move(source);
  job.model = std::move(model);
  job.schemes = std::move(schemes);
  job.options.method = checked(parse_method(method));
  job.windows = tiny_windows(8, 16);
  job.memory_limit = 1ull << 34;
  return job;
}

struct JobOutcome {
  std::optional<Error> error;
  Manifest manifest;
  MemorySink sink;
  int64_t commits = 0;

  const TensorRecord* record(const std::string& name) const {
    for (const TensorRecord& record : manifest.tensors)
      if (record.name == name) return &record;
    return nullptr;
  }
};

// Runs the job in a folder of its own and publishes, as a command would.
inline JobOutcome run_job(const QuantizeJob& job, const std::string& folder_name = "job") {
  JobOutcome outcome;
  JobFolder folder =
      checked(JobFolder::open(memory_folder() + "/" + folder_name, Json::object(), JobMode::fresh));
  const auto run = [&]() -> Status {
    PARE_TRY(const BlockJobResult result, compress_blocks(job, folder));
    static_cast<void>(result);
    PARE_CHECK(write_compressed(job, folder, outcome.sink, outcome.manifest));
    return outcome.sink.finish(outcome.manifest);
  };
  if (const Status status = run(); !status) outcome.error = status.error();
  outcome.commits = folder.generation();
  checked(folder.remove());
  return outcome;
}

}  // namespace pare::test
