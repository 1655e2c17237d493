// converted() and transposed() of tensor.h.
#include <algorithm>

#include "engine/core/parallel.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/tensor.h"

namespace pare {
namespace {

constexpr int64_t kChunk = 65'536;  // elements per work item

// Calls body with a function that turns one stored element into a float, and the element's type.
template <typename Body>
void with_reader(DType dtype, Body body) {
  switch (dtype) {
    case DType::f32:
      return body([](float value) { return value; }, float{});
    case DType::bf16:
      return body([](uint16_t bits) { return bf16_to_float(bits); }, uint16_t{});
    case DType::f16:
      return body([](uint16_t bits) { return f16_to_float(bits); }, uint16_t{});
    case DType::f8_e4m3:
      return body([](uint8_t bits) { return f8_e4m3_to_float(bits); }, uint8_t{});
    case DType::f8_e5m2:
      return body([](uint8_t bits) { return f8_e5m2_to_float(bits); }, uint8_t{});
    default:
      PARE_ASSERT(false, "[converted] from {}", dtype_name(dtype));
  }
}

template <typename Body>
void with_writer(DType dtype, Body body) {
  switch (dtype) {
    case DType::f32:
      return body([](float value) { return value; }, float{});
    case DType::bf16:
      return body([](float value) { return float_to_bf16(value); }, uint16_t{});
    case DType::f16:
      return body([](float value) { return float_to_f16(value); }, uint16_t{});
    case DType::f8_e4m3:
      return body([](float value) { return float_to_f8_e4m3(value); }, uint8_t{});
    case DType::f8_e5m2:
      return body([](float value) { return float_to_f8_e5m2(value); }, uint8_t{});
    default:
      PARE_ASSERT(false, "[converted] to {}", dtype_name(dtype));
  }
}

// `out` is contiguous; `from` may have gaps between rows.
void convert_elements(const Tensor& from, Tensor& out) {
  const int64_t width = from.is_contiguous() ? from.numel() : from.shape()[-1];
  const int64_t row_stride = from.is_contiguous() ? width : from.row_stride();
  with_reader(from.dtype(), [&]<typename Read, typename In>(Read read, In) {
    with_writer(out.dtype(), [&]<typename Write, typename Out>(Write write, Out) {
      const In* source = from.data<In>();
      Out* target = out.mutable_data<Out>();
      parallel_ranges(from.numel(), kChunk, [&](int64_t begin, int64_t end) {
        while (begin < end) {  // one run of consecutive elements per round
          const int64_t row = begin / width;
          const int64_t column = begin % width;
          const int64_t count = std::min(end - begin, width - column);
          const In* in = source + row * row_stride + column;
          for (int64_t i = 0; i < count; ++i) target[begin + i] = write(read(in[i]));
          begin += count;
        }
      });
    });
  });
}

Error unsupported(DType from, DType to) {
  return Error{.exit = Exit::unsupported,
               .rule = {},
               .path = {},
               .where = {},
               .what = "no conversion between these element types",
               .got = std::string(dtype_name(from)) + " to " + std::string(dtype_name(to)),
               .limit = "F32, BF16, F16, F8_E4M3, F8_E5M2",
               .limit_label = "expected"};
}

template <typename T>
void transpose_elements(const Tensor& matrix, Tensor& out) {
  const int64_t rows = matrix.size(0), columns = matrix.size(1), stride = matrix.row_stride();
  const T* source = matrix.data<T>();
  T* target = out.mutable_data<T>();
  constexpr int64_t kTile = 32;  // keeps both the read and the written tile in the first-level cache
  parallel_ranges(columns, kTile, [&](int64_t begin, int64_t end) {
    for (int64_t row_tile = 0; row_tile < rows; row_tile += kTile) {
      const int64_t row_end = std::min(rows, row_tile + kTile);
      for (int64_t column = begin; column < end; ++column) {
        for (int64_t row = row_tile; row < row_end; ++row)
          target[column * rows + row] = source[row * stride + column];
      }
    }
  });
}

}  // namespace

Result<Tensor> converted(const Tensor& tensor, DType dtype) {
  if (!is_weight_dtype(tensor.dtype()) || !is_weight_dtype(dtype)) return unsupported(tensor.dtype(), dtype);
  PARE_TRY(Tensor out, Tensor::allocate(dtype, tensor.shape(), tensor.device()));
  if (tensor.numel() > 0) convert_elements(tensor, out);
  return out;
}

void convert_into(const Tensor& tensor, Tensor& out) {
  PARE_ASSERT(tensor.shape() == out.shape() && out.is_contiguous(), "[converted] {} into {}",
              tensor.shape().text(), out.shape().text());
  if (tensor.numel() > 0) convert_elements(tensor, out);
}

Result<Tensor> transposed(const Tensor& matrix) {
  PARE_ASSERT(matrix.shape().rank() == 2, "[transposed] {}", matrix.shape().text());
  PARE_TRY(Tensor out, Tensor::allocate(matrix.dtype(), {matrix.size(1), matrix.size(0)}, matrix.device()));
  if (matrix.numel() == 0) return out;
  switch (dtype_bits(matrix.dtype())) {
    case 8:
      transpose_elements<uint8_t>(matrix, out);
      break;
    case 16:
      transpose_elements<uint16_t>(matrix, out);
      break;
    case 32:
      transpose_elements<uint32_t>(matrix, out);
      break;
    case 64:
      transpose_elements<uint64_t>(matrix, out);
      break;
    default:
      return unsupported(matrix.dtype(), matrix.dtype());
  }
  return out;
}

}  // namespace pare
