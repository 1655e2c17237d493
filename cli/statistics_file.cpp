#include "cli/statistics_file.h"

#include <fmt/core.h>

#include "calibrate/merge.h"
#include "calibrate/statistics_tensors.h"
#include "engine/core/hash.h"
#include "engine/core/text.h"

namespace pare::cli {

Result<StatisticsFile> StatisticsFile::open(const std::string& path) {
  StatisticsFile result;
  PARE_TRY(result.file_, SafetensorsFile::open(path));
  const std::string* text = nullptr;
  for (const auto& [key, value] : result.file_->header().metadata) {
    if (key == kStatisticsMetadataKey) text = &value;
  }
  if (text == nullptr) {
    return Error{.exit = Exit::malformed,
                 .rule = "IM06",
                 .path = path,
                 .where = "__metadata__",
                 .what = "not a file of statistics; make one with pare calibrate",
                 .got = {},
                 .limit = kStatisticsMetadataKey,
                 .limit_label = "expected"};
  }
  PARE_TRY(result.header_, parse_statistics_header(*text, path));
  std::vector<StatisticsTensorSpec> found;
  for (const SafetensorsEntry& entry : result.file_->entries()) {
    found.push_back({entry.name, entry.dtype, entry.shape});
  }
  PARE_CHECK(check_statistics_tensors(result.header_, found, path));
  return result;
}

Result<SiteStatistics> StatisticsFile::load(const SiteEntry& entry, bool writable) const {
  std::vector<Tensor> tensors;
  const std::vector<StatisticsTensorSpec> specs = site_specs(entry, header_.collected);
  for (const StatisticsTensorSpec& spec : specs) {
    PARE_TRY(Tensor tensor, file_->load(spec.name));
    tensors.push_back(std::move(tensor));
  }
  PARE_TRY(SiteStatistics statistics, parse_site(entry, header_.collected, tensors, path()));
  if (writable && statistics.second_moment.defined()) {
    PARE_TRY(Tensor copy, Tensor::allocate(DType::f32, statistics.second_moment.shape()));
    std::copy_n(statistics.second_moment.data<float>(), copy.numel(), copy.mutable_data<float>());
    statistics.second_moment = std::move(copy);
  }
  return statistics;
}

Result<Statistics> StatisticsFile::load_all() const {
  Statistics statistics{header_.origin, header_.windows, {}};
  for (const SiteEntry& entry : header_.sites) {
    PARE_TRY(SiteStatistics site, load(entry));
    statistics.sites.emplace(std::pair(entry.block, entry.site), std::move(site));
  }
  return statistics;
}

Result<StatisticsWriter> StatisticsWriter::create(const std::string& path, const WriteOptions& options,
                                                  const StatisticsHeader& header) {
  std::vector<SafetensorsSpec> specs;
  for (const SiteEntry& entry : header.sites) {
    for (const StatisticsTensorSpec& spec : site_specs(entry, header.collected)) {
      specs.push_back({spec.name, spec.dtype, spec.shape});
    }
  }
  PARE_TRY(SafetensorsWriter writer,
           SafetensorsWriter::create(path, options, std::move(specs),
                                     {{kStatisticsMetadataKey, statistics_header_text(header)}}));
  return StatisticsWriter(std::move(writer), header.collected);
}

Status StatisticsWriter::write(const SiteStatistics& statistics) {
  PARE_TRY(const std::vector<Tensor> tensors, site_tensors(statistics, collected_));
  for (const Tensor& tensor : tensors) PARE_CHECK(writer_.write(tensor));
  return {};
}

Status StatisticsWriter::finish() {
  return writer_.finish();
}

Status save_statistics(const std::string& path, const WriteOptions& options, const Statistics& statistics) {
  PARE_TRY(StatisticsWriter writer, StatisticsWriter::create(path, options, header_of(statistics)));
  for (const auto& [key, site] : statistics.sites) PARE_CHECK(writer.write(site));
  return writer.finish();
}

Result<StatisticsFile> open_statistics_of(const std::string& path, const std::string& model_hash,
                                          const std::string& token_hash) {
  PARE_TRY(StatisticsFile file, StatisticsFile::open(path));
  StatisticsOrigin expected;
  expected.model_hash = model_hash;
  expected.token_hash = token_hash;
  PARE_CHECK(check_origin(file.header().origin, expected, path));
  if (!file.header().is_complete()) {
    const WindowRange& windows = file.header().windows;
    return Error{.exit = Exit::malformed,
                 .rule = "IM07",
                 .path = path,
                 .where = "windows",
                 .what = "statistics of a part only; merge all parts with pare calibrate --merge",
                 .got = fmt::format("{} to {}", windows.begin, windows.end),
                 .limit = fmt::format("0 to {}", file.header().origin.samples),
                 .limit_label = "need"};
  }
  return file;
}

Result<std::string> model_hash(const WeightSource& source) {
  PARE_TRY(const Json inputs, source.hash_inputs());
  return xxh3_128(inputs.dump_sorted()).hex();
}

Status merge_statistics(const std::vector<std::string>& parts, const std::string& output, bool force,
                        StatisticsHeader* merged) {
  WriteOptions write{.force = force};
  PARE_CHECK(check_output(output, write));
  std::vector<StatisticsFile> files;
  std::vector<StatisticsPart> headers;
  for (const std::string& path : parts) {
    PARE_TRY(StatisticsFile file, StatisticsFile::open(path));
    write.inputs.push_back(file.identity());
    headers.push_back({path, file.header()});
    files.push_back(std::move(file));
  }
  PARE_TRY(const MergePlan plan, plan_merge(headers));
  PARE_TRY(StatisticsWriter writer, StatisticsWriter::create(output, write, plan.header));
  for (const SiteEntry& entry : plan.header.sites) {
    PARE_TRY(SiteStatistics sum, files[plan.order[0]].load(entry, true));
    for (size_t i = 1; i < plan.order.size(); ++i) {
      const StatisticsFile& file = files[plan.order[i]];
      PARE_TRY(const SiteStatistics part, file.load(entry));
      auto status = merge_site(sum, part);
      if (!status) {
        status.error().path = file.path();
        return status;
      }
    }
    PARE_CHECK(writer.write(sum));
  }
  PARE_CHECK(writer.finish());
  if (merged != nullptr) *merged = plan.header;
  return {};
}

}  // namespace pare::cli
