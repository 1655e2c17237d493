// evaluate/gate.h: quality gates of the form `kl>0.05`: when one holds, the run ends with exit 9.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/core/result.h"

namespace pare {

struct Gate {
  std::string metric;  // one of the names given to parse_gate
  std::string op;      // ">", ">=", "<", "<="
  double bound = 0.0;
  std::string text;  // as given
  bool fails(double value) const;
};

// Exit 2 (CL12) with the offset for a malformed expression, or with the list for an unknown metric.
Result<Gate> parse_gate(std::string_view text, const std::vector<std::string>& metrics);

}  // namespace pare
