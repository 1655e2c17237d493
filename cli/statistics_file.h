// cli/statistics_file.h: statistics on disk: safetensors with the header of calibrate/statistics_tensors.h as
// metadata. Sites are written and read one at a time, since second moments of all sites may not fit into
// memory.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "calibrate/statistics.h"
#include "engine/core/file.h"
#include "engine/models/weight_source.h"
#include "formats/safetensors.h"

namespace pare::cli {

class StatisticsFile {
 public:
  // Checks header, names, types and shapes; values are checked as sites are loaded. Exit 3 (IM03, IM04,
  // IM06), 4, 5, and 3 for a safetensors file that holds something else.
  static Result<StatisticsFile> open(const std::string& path);

  const std::string& path() const { return file_->path(); }
  const StatisticsHeader& header() const { return header_; }
  std::pair<uint64_t, uint64_t> identity() const { return file_->file().identity(); }
  // One site; second moments are views of the mapped file unless `writable`. Exit 7 (IM02), 3 (IM03).
  Result<SiteStatistics> load(const SiteEntry& entry, bool writable = false) const;
  Result<Statistics> load_all() const;

 private:
  std::shared_ptr<const SafetensorsFile> file_;
  StatisticsHeader header_;
};

// Writes sites in the order of the header.
class StatisticsWriter {
 public:
  static Result<StatisticsWriter> create(const std::string& path, const WriteOptions& options,
                                         const StatisticsHeader& header);
  Status write(const SiteStatistics& statistics);
  Status finish();

 private:
  StatisticsWriter(SafetensorsWriter writer, StatisticSet collected)
      : writer_(std::move(writer)), collected_(collected) {}
  SafetensorsWriter writer_;
  StatisticSet collected_;
};

Status save_statistics(const std::string& path, const WriteOptions& options, const Statistics& statistics);

// Statistics of exactly this model, and (unless empty) these tokens. Exit 8 (IM05) with both hashes; 3 (IM07)
// when windows are missing because parts were not merged.
Result<StatisticsFile> open_statistics_of(const std::string& path, const std::string& model_hash,
                                          const std::string& token_hash);

// What StatisticsOrigin::model_hash holds. Reads the model once.
Result<std::string> model_hash(const WeightSource& source);

// Merges files of parts, site by site, into one.
Status merge_statistics(const std::vector<std::string>& parts, const std::string& output, bool force,
                        StatisticsHeader* merged);

}  // namespace pare::cli
