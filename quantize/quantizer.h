// quantize/quantizer.h: a method turns one matrix into codes. Pure functions; they know neither files nor
// kernels.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "engine/core/result.h"
#include "engine/tensor/quantized_tensor.h"
#include "quantize/grid.h"

namespace pare {

struct QuantizeOptions {
  bool clip_search = false;  // shrink ranges where that lowers the error
  ClipSearch clip{};
  // Weight of each column in the search, [in], >= 0 (the mean square of the input channel); empty: all equal.
  std::span<const float> importance = {};
  std::optional<ActivationQuant> activation = {};  // how inputs of linears are rounded; noted in the codes
  bool clamp_scales = false;  // scales outside their storage type are clamped and counted instead of exit 7
};

struct QuantizeOutput {
  QuantizedTensor tensor;
  double relative_error = 0.0;  // ||W - What||_F / ||W||_F; 0 for an all-zero matrix
  double max_error = 0.0;       // max |W - What|
  int64_t clamped_scales = 0;   // outside their type; only with QuantizeOptions::clamp_scales
  int64_t raised_scales = 0;    // subnormal in their type
  int64_t clipped_weights = 0;  // outside the grid of their group because its range was shrunk
};

// weight: floating matrix [out, in], finite (exit 7 otherwise, with the position). `name` is used in errors.
// Same bytes for any thread count.
using Quantizer = Result<QuantizeOutput> (*)(const Tensor& weight, const QuantScheme& scheme,
                                             const QuantizeOptions& options, std::string_view name);

struct QuantizeMethod {
  std::string_view name;  // "rtn"
  std::string_view help;
  Quantizer quantize;
};

std::span<const QuantizeMethod> quantize_methods();
// Exit 4 with the list for a method that exists elsewhere but not here; exit 2 for an unknown word.
Result<const QuantizeMethod*> find_quantize_method(std::string_view name);

}  // namespace pare
