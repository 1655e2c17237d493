// cli/job_damage.h: after a job: what the compression did, measured, written beside the output, and
// gated.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "calibrate/block_pipeline.h"
#include "cli/job_arguments.h"
#include "evaluate/gate.h"
#include "evaluate/run_report.h"

namespace pare::cli {

Result<std::vector<Gate>> report_gates(const JobArguments& arguments);  // exit 2

// Both models over `windows` (or --report-data), block by block; `windows_source` says to people where the
// windows are from. An error of `advance` ends the walk.
Result<DamageReport> measure_damage(const JobArguments& arguments,
                                    std::shared_ptr<const WeightSource> original,
                                    std::shared_ptr<const WeightSource> compressed,
                                    const CalibrationWindows& windows, const std::string& windows_source,
                                    const std::function<Status()>& advance);

void print_damage(const DamageReport& damage);
// Exit 9 naming the first gate that holds.
Status check_gates(const std::vector<Gate>& gates, const DamageReport& damage, const std::string& path);

}  // namespace pare::cli
