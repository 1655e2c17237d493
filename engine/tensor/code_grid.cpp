#include "engine/tensor/code_grid.h"

#include <cmath>

namespace pare {

std::array<float, 256> code_values(const QuantScheme& scheme, const Tensor& codebook) {
  using Kind = QuantScheme::Kind;
  std::array<float, 256> values{};
  for (int code = 0; code < scheme.code_count(); ++code) {
    float value = float(code);
    if (scheme.kind == Kind::integer && scheme.is_symmetric())
      value = float(code - scheme.symmetric_zero_point());
    if (scheme.kind == Kind::floating) {
      value = scheme.float_type == DType::f8_e4m3 ? f8_e4m3_to_float(uint8_t(code))
                                                  : f8_e5m2_to_float(uint8_t(code));
    }
    if (scheme.kind == Kind::codebook) {
      value = codebook.defined() ? codebook.data<float>()[code] : nf4_codebook()[size_t(code)];
    }
    values[size_t(code)] = value;
  }
  return values;
}

std::array<bool, 256> forbidden_codes(const QuantScheme& scheme) {
  using Kind = QuantScheme::Kind;
  std::array<bool, 256> forbidden{};
  if (scheme.kind == Kind::integer && scheme.is_symmetric() && scheme.range == QuantScheme::Range::narrow)
    forbidden[0] = true;
  for (int code = 0; scheme.kind == Kind::floating && code < 256; ++code) {
    const float value = scheme.float_type == DType::f8_e4m3 ? f8_e4m3_to_float(uint8_t(code))
                                                            : f8_e5m2_to_float(uint8_t(code));
    forbidden[size_t(code)] = !std::isfinite(value);
  }
  return forbidden;
}

}  // namespace pare
