// engine/tensor/code_grid.h: the map from codes to weights of a quantized matrix, wherever its codes lie;
// internal to engine/tensor. The one place with the arithmetic of quantized_tensor.h.
#pragma once

#include <array>
#include <cstdint>

#include "engine/tensor/float_formats.h"
#include "engine/tensor/quant_scheme.h"
#include "engine/tensor/tensor.h"

namespace pare {

// One element of an f16, bf16 or f32 tensor as a float.
inline float load_float(const Tensor& tensor, int64_t index) {
  switch (tensor.dtype()) {
    case DType::f16:
      return f16_to_float(tensor.data<uint16_t>()[index]);
    case DType::bf16:
      return bf16_to_float(tensor.data<uint16_t>()[index]);
    default:
      return tensor.data<float>()[index];
  }
}

// The real number that every code stands for before scale and offset. codebook: f32 [2^bits] or undefined.
std::array<float, 256> code_values(const QuantScheme& scheme, const Tensor& codebook);

// Codes that never stand for a weight: -2^(bits-1) on a narrow grid (integer kernels rely on its absence) and
// the NaN and infinity patterns of fp8.
std::array<bool, 256> forbidden_codes(const QuantScheme& scheme);

// One group's map from code to weight.
struct GroupGrid {
  float scale = 0.0f;
  float zero_point = 0.0f;
  float minimum = 0.0f;
  QuantScheme::Offset offset = QuantScheme::Offset::none;

  float weight(float value) const {
    if (offset == QuantScheme::Offset::minimum) return minimum + scale * value;
    return scale * (value - zero_point);
  }
};

// `coded` is a QuantizedTensor or a SparseTensor with codes.
template <typename Coded>
GroupGrid grid_at(const Coded& coded, const QuantScheme& scheme, int64_t row, int64_t group) {
  const bool is_one = scheme.granularity == QuantScheme::Granularity::tensor;
  const int64_t index = is_one ? 0 : row * scheme.groups(coded.in()) + group;
  GroupGrid grid{.scale = load_float(coded.scales, index), .offset = scheme.offset};
  if (scheme.offset == QuantScheme::Offset::zero_point)
    grid.zero_point = float(coded.zero_points.template data<uint8_t>()[index]);
  if (scheme.offset == QuantScheme::Offset::minimum) grid.minimum = load_float(coded.minimums, index);
  return grid;
}

}  // namespace pare
