// cli/job_damage.h: after a job: what the compression did, measured, written beside the output, and
// gated.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "calibrate/block_pipeline.h"
#include "cli/command.h"
#include "cli/job_arguments.h"
#include "evaluate/damage_report.h"
#include "evaluate/gate.h"
#include "evaluate/run_report.h"

namespace pare::cli {

Result<std::vector<Gate>> report_gates(const JobArguments& arguments);  // exit 2

// Both models over `windows` (or --report-data), block by block; `windows_source` says to people where the
// windows are from. On the device that the job ran on where both fit there, else (with a warning) on the CPU.
// An error of `advance` ends the walk.
Result<DamageReport> measure_damage(const JobArguments& arguments, const CommonOptions& common,
                                    std::shared_ptr<const WeightSource> original,
                                    std::shared_ptr<const WeightSource> compressed,
                                    const CalibrationWindows& windows, const std::string& windows_source,
                                    const std::function<Status()>& advance);

// Where a report is measured: the GPU that was asked for when it has room, else the CPU, with a warning.
Result<Device> device_of_report(const WeightSource& original, const WeightSource& compressed,
                                const DamageTokens& tokens, const CommonOptions& common);

void print_damage(const DamageReport& damage);
// Exit 9 naming the first gate that holds.
Status check_gates(const std::vector<Gate>& gates, const DamageReport& damage, const std::string& path);

}  // namespace pare::cli
