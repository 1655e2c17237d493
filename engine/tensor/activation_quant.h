// engine/tensor/activation_quant.h: how the input of a quantized linear is rounded, so that the product is
// one of integers. What the codes of the weight mean stands in quant_scheme.h; the two never share an enum.
//
//   real = scale * (code - zero_point),  code = clamp(rint(x / scale) + zero_point, low, high), rint half to
//   even
//
// Symmetric codes lie within +-(2^(bits-1) - 1), asymmetric ones within [-2^(bits-1), 2^(bits-1) - 1]. A
// dynamic scale is found per token at run time: max|x| / (2^(bits-1) - 1), or the range widened to 0 over
// 2^bits - 1; a token of zeros has scale 1 and codes of 0.0. A token with a NaN or an infinity gives NaN
// outputs. Source: docs/numerics.md.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/core/json.h"
#include "engine/core/result.h"

namespace pare {

struct ActivationQuant {
  enum class Mode : uint8_t {
    dynamic_token,  // one scale per token, found at run time
    static_tensor,  // one scale for all, found by calibration
  };

  Mode mode = Mode::dynamic_token;
  int bits = 8;  // 2 to 8 (stored); products exist for 8
  bool symmetric = true;
  float scale = 0.0f;  // static only: finite, > 0; else 0
  int zero_point = 0;  // static asymmetric only: code of 0.0 in [-2^(bits-1), 2^(bits-1) - 1]; else 0

  bool operator==(const ActivationQuant&) const = default;

  int lowest_code() const { return symmetric ? -highest_code() : -(1 << (bits - 1)); }
  int highest_code() const { return (1 << (bits - 1)) - 1; }

  // "int8 activations per token", "int8 activations per tensor", "... , asymmetric".
  std::string text() const;
  // Exit 3 (PK09) for a value outside its range. `path` and `where` go into the error.
  Status validate(std::string_view path, std::string_view where) const;

  // {"mode", "bits", "symmetric"}, and for static ones {"scale"} and, when asymmetric, {"zero_point"}.
  Json to_json() const;
  // Exit 3 for a missing, foreign or impossible value (PK09), 4 for a mode or member of a later version.
  static Result<ActivationQuant> from_json(const Json& json, std::string_view path, std::string_view where);
};

}  // namespace pare
