#include "engine/tensor/quantized_tensor.h"

#include <algorithm>
#include <array>

#include "engine/core/parallel.h"
#include "engine/tensor/code_grid.h"

namespace pare {
namespace {

using Kind = QuantScheme::Kind;
using Granularity = QuantScheme::Granularity;
using Offset = QuantScheme::Offset;

// Columns [begin, end) of a row into `out`; begin is a multiple of 8, so that it starts on a byte.
void dequantize_part(const QuantizedTensor& tensor, const std::array<float, 256>& values, int64_t row,
                     int64_t begin, int64_t end, float* out) {
  const QuantScheme& scheme = tensor.scheme;
  const int64_t in = tensor.in();
  const int64_t width = scheme.group_width(in);
  const int32_t* group_index = tensor.group_index.defined() ? tensor.group_index.data<int32_t>() : nullptr;
  const uint8_t* packed = tensor.codes.data<uint8_t>() + row * scheme.row_bytes(in);
  constexpr int64_t kChunk = 512;  // codes unpacked at a time; a multiple of 8
  std::array<uint8_t, size_t{kChunk}> codes;
  int64_t group = -1;
  GroupGrid grid;
  for (int64_t first = begin; first < end; first += kChunk) {
    const int64_t count = std::min(kChunk, end - first);
    unpack_codes(packed + first * scheme.bits / 8, count, scheme.bits, codes.data());
    for (int64_t i = 0; i < count; ++i) {
      const int64_t column = first + i;
      const int64_t column_group = group_index != nullptr ? group_index[column] : column / width;
      if (column_group != group) {
        group = column_group;
        grid = grid_at(tensor, scheme, row, group);
      }
      out[column - begin] = grid.weight(values[codes[size_t(i)]]);
    }
  }
}

}  // namespace

uint64_t QuantizedTensor::size_bytes() const {
  uint64_t total = 0;
  for (const Tensor* part : {&codes, &scales, &zero_points, &minimums, &group_index, &codebook}) {
    if (part->defined()) total += part->size_bytes();
  }
  return total;
}

Result<QuantizedTensor> QuantizedTensor::allocate(const QuantScheme& scheme, int64_t out, int64_t in) {
  PARE_ASSERT(out >= 0 && in >= 0, "[quantized] [{}, {}]", out, in);
  QuantizedTensor tensor;
  tensor.scheme = scheme;
  tensor.shape = Shape{out, in};
  const Shape scale_shape{scheme.granularity == Granularity::tensor ? 1 : out, scheme.groups(in)};
  PARE_TRY(tensor.codes, Tensor::allocate(DType::u8, {out, scheme.row_bytes(in)}));
  PARE_TRY(tensor.scales, Tensor::allocate(scheme.scale_dtype, scale_shape));
  if (scheme.offset == Offset::zero_point) {
    PARE_TRY(tensor.zero_points, Tensor::allocate(DType::u8, scale_shape));
  }
  if (scheme.offset == Offset::minimum) {
    PARE_TRY(tensor.minimums, Tensor::allocate(scheme.scale_dtype, scale_shape));
  }
  if (scheme.kind == Kind::codebook && scheme.codebook == "custom") {
    PARE_TRY(tensor.codebook, Tensor::allocate(DType::f32, {scheme.code_count()}));
  }
  return tensor;
}

void QuantizedTensor::dequantize_rows(int64_t begin, int64_t end, float* out) const {
  PARE_ASSERT(begin >= 0 && begin <= end && end <= shape[0], "[quantized] rows {} to {} of {}", begin, end,
              shape.text());
  const std::array<float, 256> values = code_values(scheme, codebook);
  for (int64_t row = begin; row < end; ++row) {
    dequantize_part(*this, values, row, 0, in(), out + (row - begin) * in());
  }
}

void QuantizedTensor::dequantize_slice(int64_t row, int64_t begin, int64_t end, float* out) const {
  PARE_ASSERT(row >= 0 && row < shape[0] && begin >= 0 && begin % 8 == 0 && begin <= end && end <= shape[1],
              "[quantized] row {}, columns {} to {} of {}", row, begin, end, shape.text());
  dequantize_part(*this, code_values(scheme, codebook), row, begin, end, out);
}

Result<Tensor> QuantizedTensor::dequantize() const {
  PARE_TRY(Tensor dense, Tensor::allocate(DType::f32, shape));
  float* target = dense.mutable_data<float>();
  constexpr int64_t kRowsPerItem = 16;
  parallel_ranges(out(), kRowsPerItem,
                  [&](int64_t begin, int64_t end) { dequantize_rows(begin, end, target + begin * in()); });
  return dense;
}

}  // namespace pare
