// evaluate/report/report_input.h: everything that a report shows, gathered from an output and the file beside
// it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "engine/core/manifest.h"
#include "engine/models/weight_source.h"
#include "evaluate/run_report.h"

namespace pare {

// One tensor of the output.
struct ReportTensor {
  std::string name;
  int block = -1;      // -1: embedding side; block_count: head side
  int expert = -1;     // of a mixture: whose
  std::string part;    // "q", "down", "embedding", ...; empty for norms and biases
  std::string site;    // of linears: "attn.in", ...
  uint64_t bytes = 0;  // stored
  int64_t elements = 0;
  const TensorRecord* record = nullptr;  // of the manifest below; nullptr when it lists no such tensor
};

struct ReportInput {
  std::string name;           // of the output, without its folder
  std::string format;         // "pare"
  uint64_t output_bytes = 0;  // on disk
  int blocks = 0;
  Manifest manifest;
  std::vector<ReportTensor> tensors;  // in execution order
  std::optional<RunReport> run;
  bool run_is_stale = false;  // made for another output
};

// Exit 4 (RP07) for a model without a manifest; 3, 4, 5 and 6 for a malformed file beside it.
Result<ReportInput> report_input(const WeightSource& source, const std::string& output,
                                 uint64_t output_bytes);

// The three forms. Equal bytes for equal input.
std::string report_html(const ReportInput& input);
std::string report_text(const ReportInput& input);
Json report_json(const ReportInput& input);

}  // namespace pare
