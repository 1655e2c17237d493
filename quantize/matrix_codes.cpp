#include "quantize/matrix_codes.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/float_formats.h"

namespace pare {
namespace {

void store_scale(Tensor& target, int64_t index, float value) {
  switch (target.dtype()) {
    case DType::f16:
      target.mutable_data<uint16_t>()[index] = float_to_f16(value);
      return;
    case DType::bf16:
      target.mutable_data<uint16_t>()[index] = float_to_bf16(value);
      return;
    default:
      target.mutable_data<float>()[index] = value;
      return;
  }
}

}  // namespace

void load_row(const Tensor& weight, int64_t row, float* out) {
  const int64_t in = weight.size(1), offset = row * weight.row_stride();
  switch (weight.dtype()) {
    case DType::f32:
      std::memcpy(out, weight.data<float>() + offset, size_t(in) * sizeof(float));
      return;
    case DType::bf16: {
      const uint16_t* source = weight.data<uint16_t>() + offset;
      for (int64_t i = 0; i < in; ++i) out[i] = bf16_to_float(source[i]);
      return;
    }
    case DType::f16: {
      const uint16_t* source = weight.data<uint16_t>() + offset;
      for (int64_t i = 0; i < in; ++i) out[i] = f16_to_float(source[i]);
      return;
    }
    default:
      PARE_ASSERT(false, "[quantize] {} is not a weight type here", dtype_name(weight.dtype()));
  }
}

Result<Tensor> as_float_matrix(const Tensor& weight) {
  const int64_t out = weight.size(0), in = weight.size(1);
  PARE_TRY(Tensor floats, Tensor::allocate(DType::f32, {out, in}));
  float* data = floats.mutable_data<float>();
  parallel_ranges(out, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) load_row(weight, row, data + row * in);
  });
  return floats;
}

void store_grid(QuantizedTensor& tensor, int64_t index, const Grid& grid) {
  store_scale(tensor.scales, index, grid.scale);
  if (tensor.scheme.offset == QuantScheme::Offset::zero_point) {
    tensor.zero_points.mutable_data<uint8_t>()[index] = uint8_t(grid.zero_point);
  } else if (tensor.scheme.offset == QuantScheme::Offset::minimum) {
    store_scale(tensor.minimums, index, grid.minimum);
  }
}

void store_codes(QuantizedTensor& tensor, int64_t row, const uint8_t* codes) {
  const int64_t row_bytes = tensor.scheme.row_bytes(tensor.in());
  pack_codes(codes, tensor.in(), tensor.scheme.bits, tensor.codes.mutable_data<uint8_t>() + row * row_bytes);
}

int64_t count_clipped(const QuantScheme& scheme, const Grid& grid, std::span<const float> group) {
  if (scheme.kind != QuantScheme::Kind::integer) return 0;
  const std::array<uint8_t, 2> ends = {0, uint8_t(scheme.code_count() - 1)};
  std::array<float, 2> values;
  decode(scheme, grid, ends, values.data());
  const float half = grid.scale * 0.5f;
  return std::count_if(group.begin(), group.end(),
                       [&](float v) { return v < values[0] - half || v > values[1] + half; });
}

Error scale_error(const QuantScheme& scheme, std::string_view name, int64_t row, int64_t group,
                  ScaleFault fault) {
  const bool is_small = fault == ScaleFault::too_small;
  return Error{
      .exit = Exit::numeric,
      .rule = "NU17",
      .path = {},
      .where = quote(name) + " row " + std::to_string(row) + " group " + std::to_string(group),
      .what = std::string(is_small ? "scale too small for its type" : "scale too large for its type") +
              "; --clamp clamps and counts, a scheme ending in -sf32 stores wider scales",
      .got = {},
      .limit = std::string(dtype_name(scheme.scale_dtype))};
}

}  // namespace pare
