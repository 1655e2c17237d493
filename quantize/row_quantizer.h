// quantize/row_quantizer.h: what methods have in common that choose each group's grid by itself: the walk
// over rows and groups, storage, and the report.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string_view>

#include "quantize/quantizer.h"

namespace pare {

struct RowMethod {
  // The grid of a group; importance: of its columns, or empty. Called from several threads.
  std::function<FittedGrid(std::span<const float> group, std::span<const float> importance)> fit;
  // Schemes with one scale per tensor: that grid, and `fit` is not called.
  std::optional<FittedGrid> tensor_grid{};
  // Codebook "custom": its values, rising; empty otherwise.
  std::span<const float> codebook{};
};

// weight: finite floating matrix [out, in]. Exit 7 (NU17) for the first scale that its type cannot hold,
// unless options.clamp_scales. Same bytes for any thread count.
Result<QuantizeOutput> quantize_rows(const Tensor& weight, const QuantScheme& scheme,
                                     const QuantizeOptions& options, std::string_view name,
                                     const RowMethod& method);

// One grid for the whole matrix, from the smallest and largest weight.
FittedGrid fit_tensor(const Tensor& weight, const QuantScheme& scheme);

// Refusal of a scheme by a method (RC14, exit 4).
Error scheme_refused(const QuantScheme& scheme, std::string_view name, std::string what);

// Position of the value of `codebook` (rising) nearest to `ratio`; on a midpoint the smaller one.
uint8_t nearest_in(std::span<const float> codebook, float ratio);

}  // namespace pare
