// quantize/method_plan.h: what `--method awq+gptq` means: how channels are scaled, how codes are chosen, how
// ranges are searched.
#pragma once

#include <string>
#include <string_view>

#include "engine/core/result.h"

namespace pare {

struct MethodPlan {
  enum class Scaling : uint8_t { none, awq, smoothquant };
  enum class Rounding : uint8_t { nearest, gptq, hqq, kmeans };
  enum class Range : uint8_t {
    standard,  // of the method: smallest and largest for plain rounding and 8 bits, else importance
    min_max,
    squared,     // least squared error of the weights
    importance,  // least squared error weighted by the mean square of the inputs
  };
  Scaling scaling = Scaling::none;
  Rounding rounding = Rounding::nearest;
  Range range = Range::standard;

  // Whether activations must be seen.
  bool needs_data() const {
    return scaling != Scaling::none || rounding == Rounding::gptq || range == Range::importance;
  }
  std::string text() const;  // canonical: "awq+gptq", "rtn+mse"
};

// Words joined by '+': rtn, gptq, hqq, kmeans (one of them; rtn when none), awq or smoothquant, mse or
// importance. Exit 2 for unknown words and for two of one kind.
Result<MethodPlan> parse_method(std::string_view text);

}  // namespace pare
