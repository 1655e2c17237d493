// evaluate/training_curve.h: how a training run went, for the report of its output.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/json.h"
#include "engine/core/result.h"

namespace pare {

struct TrainingPoint {
  int64_t step = 0;
  double value = 0.0;
  bool operator==(const TrainingPoint&) const = default;
};

struct TrainingCurve {
  std::string command;       // "distill", "finetune"
  std::string loss_name;     // "kl", "ce+kl": as --loss says it; empty: not recorded
  int64_t steps = 0;         // taken
  int64_t input_tokens = 0;  // through the student, all steps
  double seconds = 0.0;      // of the steps
  double tokens_per_second = 0.0;
  double peak_share = 0.0;                   // of the machine's multiply-adds; 0: not measured
  std::vector<TrainingPoint> loss;           // of every step, thinned by thin(): at most kCurvePoints
  std::vector<TrainingPoint> cross_entropy;  // of the same steps, nats per token; empty when it is the loss
  // On held-out text, nats per token; `step` counts the steps taken before.
  std::vector<TrainingPoint> validation;
  std::vector<TrainingPoint> validation_loss;  // the loss that is trained with, where it was measured

  // Perplexity on the held-out text: of the first validation, when nothing was trained yet, and of the last.
  std::optional<double> perplexity_before() const;
  std::optional<double> perplexity_after() const;
};

inline constexpr size_t kCurvePoints = 400;

// At most `limit` (>= 4) of the points, the first and the last among them, and of every stretch its smallest
// and its largest, so that no peak is lost. Values that are not finite count as larger than all others.
std::vector<TrainingPoint> thin(const std::vector<TrainingPoint>& points, size_t limit = kCurvePoints);

Json to_json(const TrainingCurve& curve);
// `where` stands in front of names in messages: "training.". Exit 3 (RP02 to RP04).
Result<TrainingCurve> training_curve_from_json(const Json& json, std::string_view path,
                                               const std::string& where);

}  // namespace pare
