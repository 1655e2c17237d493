// quantize/awq.h: activation-aware weight quantization: salient input channels are scaled up before rounding
// and the inverse is folded into their producer. Source: Lin et al., "AWQ" (2023); the duo form as in
// llm-compressor.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engine/core/result.h"
#include "quantize/quantizer.h"

namespace pare {

struct AwqOptions {
  int steps = 20;   // exponents rho = i / steps, i = 0 .. steps - 1
  bool duo = true;  // also scales that look at the weights: a^rho / w^(1 - rho)
};

// One linear among the readers of a site.
struct AwqLinear {
  Tensor weight;       // f32 [out, in]
  QuantScheme scheme;  // the one it will be rounded to
  std::string name;
};

struct AwqScale {
  std::vector<float> scale;  // [in], > 0; all 1 when nothing helped
  bool is_identity = true;
  bool is_duo = false;
  double exponent = 0.0;
  double loss_ratio = 1.0;  // output error with the scale / without
  std::string host_reason;  // ScaleLosses::host_reason()
};

// The scale with the smallest ||X (W - Q(W s) / s)^T||^2 summed over the linears; identity first, strict
// improvement. abs_mean: mean |x| per input channel [in]; moment: X^T X f32 [in, in]. share: averages values
// over channels that must have one scale (KV heads); may be empty. With the moment on a GPU the losses are
// found there.
Result<AwqScale> search_awq_scale(std::span<const AwqLinear> linears, std::span<const float> abs_mean,
                                  const Tensor& moment, const QuantizeOptions& quantize,
                                  const AwqOptions& options,
                                  const std::function<void(std::span<float>)>& share);

}  // namespace pare
