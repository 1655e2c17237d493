// quantize/selection.h: which tensors are compressed, and with which scheme.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engine/models/architecture.h"
#include "engine/tensor/quant_scheme.h"

namespace pare {

struct Selection {
  QuantScheme scheme;
  std::optional<QuantScheme> embedding_scheme;  // token embedding (and a tied head); unset: kept as it is
  std::optional<QuantScheme> head_scheme;       // untied head; unset: kept
  std::vector<std::string> include;             // patterns; empty: every compressible linear
  std::vector<std::string> exclude;             // patterns; win over include
  // Pattern -> scheme, or nothing for "keep"; the last one that matches wins over everything else.
  std::vector<std::pair<std::string, std::optional<QuantScheme>>> overrides;
};

// `layers.*.down_proj=int8` or `...=keep`. Exit 2 (CL12) for anything else.
Result<std::pair<std::string, std::optional<QuantScheme>>> parse_override(const std::string& text);

// The scheme of each tensor of `model`, in its order; nothing for tensors that stay as they are. Exit 2 when
// a pattern matches no tensor or names one that cannot be quantized (RC09).
Result<std::vector<std::optional<QuantScheme>>> select_schemes(const ModelDescription& model,
                                                               const Selection& selection);

}  // namespace pare
