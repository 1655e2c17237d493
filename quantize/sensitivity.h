// quantize/sensitivity.h: what each part of a model loses in each format, as costs for allocation.h.
//
// The unit is a site: linears that share an input share a format. For every candidate the squared output
// error tr(D H D^T) is measured on the original activations. To compare units with each other, each is also
// rounded alone to one probe format and the KL divergence of the whole model's output is measured; the
// divergence grows with the square of a small error, so cost = KL(probe) * error(candidate) / error(probe).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "calibrate/block_pipeline.h"
#include "quantize/allocation.h"

namespace pare {

struct SensitivityOptions {
  std::vector<QuantScheme> candidates;  // formats to choose from; keeping is always one more
  bool measure_divergence = true;       // false: relative output errors alone, comparable only roughly
  QuantScheme probe;                    // for the divergence
  int64_t probe_windows = 4;            // of the calibration data
  int64_t probe_rows = 384;             // positions whose divergence is measured
  uint64_t memory_limit = 0;
};

struct UnitSensitivity {
  std::string name;                  // "block 3 mlp.in"
  std::vector<std::string> tensors;  // checkpoint names
  double divergence = 0.0;           // nats per token with the probe; 0 when not measured
  AllocationUnit choices;            // the last choice keeps the unit
};

// The formats that `--target-bpw` chooses from: 2, 3, 4, 5, 6 bits in groups of 32, 64 and 128, and 8 bits
// per channel, with the offset of `like`.
std::vector<QuantScheme> candidate_schemes(const QuantScheme& like, int64_t shortest_row);

// `selected`: names of the linears that may be changed. Exit 6 when the probe does not fit the memory limit
// (it holds the model's weights), 7 for activations that are not finite.
Result<std::vector<UnitSensitivity>> measure_sensitivity(
    std::shared_ptr<const WeightSource> source, const CalibrationWindows& windows,
    const std::function<bool(const TensorSpec&)>& selected, const SensitivityOptions& options,
    const PipelineOptions& pipeline);

// Schemes by tensor name; nothing: keep.
std::map<std::string, std::optional<QuantScheme>> chosen_schemes(const std::vector<UnitSensitivity>& units,
                                                                 const Allocation& allocation);

}  // namespace pare
