// cli/job_calibration.h: what a job calibrates on, and what its damage is measured on.
#pragma once

#include <memory>

#include "calibrate/block_pipeline.h"
#include "cli/job_arguments.h"
#include "cli/statistics_file.h"

namespace pare::cli {

struct Calibration {
  CalibrationWindows windows;  // none when statistics are read, or nothing was given
  // Windows drawn after the calibration's, so that no two runs that differ in --samples compare on what one
  // of them has seen. Data that has no more windows gives its own.
  CalibrationWindows report;
  std::shared_ptr<StatisticsFile> statistics;
  Json description = Json::object();  // for manifest and identity
};

Result<Calibration> load_calibration(const JobArguments& arguments, const WeightSource& source,
                                     const ModelConfig& config, uint64_t seed);

// A site of the file; exit 3 when it lacks what the method needs.
Result<SiteStatistics> saved_site(const StatisticsFile& file, int block, Site site, StatisticSet wanted);

}  // namespace pare::cli
