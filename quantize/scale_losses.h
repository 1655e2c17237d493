// quantize/scale_losses.h: what the output of a site's matrices loses under scales of its channels: what the
// searches of AWQ and SmoothQuant compare.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"
#include "engine/tensor/tensor.h"
#include "quantize/quantizer.h"

namespace pare {

// Where the moment lies on a GPU, candidates are rounded and compared there, all of a matrix without waiting
// for the device in between; matrices whose scheme or search no kernel knows go through the host with a copy
// of the moment, and host_reason() says so.
class ScaleLosses {
 public:
  // moment: X^T X f32 [in, in], exactly symmetric. options: of the rounding; importance is of the unscaled
  // inputs. Both stay with the caller.
  ScaleLosses(const Tensor& moment, const QuantizeOptions& options) : moment_(moment), options_(options) {}

  // ||X (W - Q(W s) / s)^T||^2 for each row s of scales [candidates, in]; Q rounds to nearest and clamps
  // scales that do not fit their type. weight: f32 [out, in] in host memory. On a GPU a candidate whose
  // W s is too large for a float has a loss that is not finite. Exit 4 for schemes that are not rounded to
  // nearest, 6, 7.
  Result<std::vector<double>> of(const Tensor& weight, const QuantScheme& scheme,
                                 std::span<const float> scales, std::string_view name);

  // "nf4-g64: why", when a matrix went through the host though the moment lies on a GPU; else empty.
  const std::string& host_reason() const { return host_reason_; }

 private:
  Result<std::vector<double>> on_host(const Tensor& weight, const QuantScheme& scheme,
                                      std::span<const float> scales, std::string_view name);
  Result<std::vector<double>> on_device(const Tensor& weight, const QuantScheme& scheme,
                                        std::span<const float> scales);

  const Tensor& moment_;
  const QuantizeOptions& options_;
  Tensor host_moment_;  // once it is needed
  std::string host_reason_;
};

}  // namespace pare
