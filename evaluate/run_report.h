// evaluate/run_report.h: the file `<OUT>.report.json` beside an output: what a manifest must not hold (times,
// memory, the command line, measured damage). Schema: docs/report.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/json.h"
#include "engine/core/manifest.h"
#include "engine/core/result.h"
#include "evaluate/damage_report.h"
#include "evaluate/generation_speed.h"
#include "evaluate/training_curve.h"

namespace pare {

// A point of the curve that chosen bits were taken from: what a size would cost.
struct CurvePoint {
  double bits_per_weight = 0.0;
  double loss = 0.0;  // in the unit that RunReport::curve_unit names
  bool chosen = false;
};

struct RunReport {
  std::string program_version;            // filled by to_json() when empty
  std::string command;                    // "quantize"
  std::vector<std::string> command_line;  // the words after the program's name, as typed
  std::string manifest_hash;              // manifest_hash() of the output's manifest; empty: not known
  double seconds = 0.0;                   // of the whole command; 0: not known, as below
  uint64_t peak_resident_bytes = 0;
  uint64_t peak_device_bytes = 0;  // 0: no GPU was used
  int64_t threads = 0;
  std::string cpu_profile;  // "avx512"
  int64_t resumes = 0;
  uint64_t weight_bytes_before = 0, weight_bytes_after = 0, output_bytes = 0;
  std::vector<std::string> warnings;  // shown first
  std::vector<CurvePoint> curve;      // of chosen bits; else empty
  std::string curve_unit;             // "KL, nats per token"
  Json extra = Json::object();        // anything else, shown as it is
  std::optional<DamageReport> damage;
  std::optional<SpeedComparison> speed;   // measured on this machine
  std::optional<TrainingCurve> training;  // of a student
};

Json to_json(const RunReport& report);
// Every field is checked; unknown members are ignored. Exit 3 (RP01 to RP04), 4 (RP05) for another schema
// version.
Result<RunReport> run_report_from_json(const Json& json, std::string_view path);

// "out.pare" -> "out.pare.report.json"; slashes at the end of a folder's name are dropped.
std::string run_report_path(const std::string& output);
// Of everything but the list of files, which is only known when a folder is finished.
std::string manifest_hash(const Manifest& manifest);
// nullopt when there is none. Exit 3, 4, 5, 6.
Result<std::optional<RunReport>> read_run_report(const std::string& output);
// Replaces an older one only with `force`.
Status write_run_report(const std::string& output, const RunReport& report, bool force);

}  // namespace pare
