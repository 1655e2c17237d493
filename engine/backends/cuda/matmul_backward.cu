// The gradient of a weight and of a bias: sums over tokens.
#include <algorithm>

#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/gemm.h"
#include "engine/backends/cuda/kernel.h"

namespace pare::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kRowsOfPart = 128;

// partial[part, n]: the sum of a part of the rows, in double and in order. A thread owns a column.
__global__ void column_parts_kernel(const float* dout, int64_t rows, int64_t columns, int64_t stride,
                                    double* partial) {
  const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= columns) return;
  const int64_t first = int64_t(blockIdx.y) * kRowsOfPart, last = min(first + kRowsOfPart, rows);
  double sum = 0.0;
#pragma unroll 8
  for (int64_t row = first; row < last; ++row) sum += double(dout[row * stride + column]);
  partial[int64_t(blockIdx.y) * columns + column] = sum;
}

__global__ void add_parts_kernel(const double* partial, int64_t parts, int64_t columns, float* out) {
  const int64_t column = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= columns) return;
  double sum = double(out[column]);
  for (int64_t part = 0; part < parts; ++part) sum += partial[part * columns + column];
  out[column] = float(sum);
}

void add_column_sums(Context& context, const float* dout, int64_t rows, int64_t columns, int64_t stride,
                     float* out) {
  constexpr int64_t kParts = 65'535;  // of a launch
  for (int64_t begin = 0; begin < rows; begin += kParts * kRowsOfPart) {
    const int64_t count = std::min(rows - begin, kParts * kRowsOfPart);
    const int64_t parts = (count + kRowsOfPart - 1) / kRowsOfPart;
    auto* partial = context.scratch_of<double>(parts * columns);
    if (partial == nullptr) return;
    context.launch("column_parts", column_parts_kernel,
                   {.grid = dim3(blocks_for(columns, kThreads), unsigned(parts)), .block = kThreads},
                   dout + begin * stride, count, columns, stride, partial);
    context.launch("add_parts", add_parts_kernel, {.grid = blocks_for(columns, kThreads), .block = kThreads},
                   partial, parts, columns, out);
  }
}

size_t rounded_bytes(int64_t rows, int64_t columns) {
  return (size_t(rows * padded_width(columns)) * 2 + 63) / 64 * 64;
}

}  // namespace

size_t CudaTraining::matmul_weight_backward_workspace_bytes(int64_t m, int64_t n, int64_t k) const {
  return context_.math() == MathMode::f32 ? 0 : rounded_bytes(m, n) + rounded_bytes(m, k);
}

void CudaTraining::matmul_weight_backward(const MatmulWeightBackwardArgs& a) {
  GemmFactor dout{a.dout, a.dout_stride, true}, x{a.x, a.x_stride, false};
  const DType type = context_.math() == MathMode::f32 ? DType::f32 : DType::bf16;
  if (type != DType::f32) {
    auto* workspace = static_cast<unsigned char*>(a.workspace);
    ConvertArgs rounding{.from = a.dout,
                         .to = workspace,
                         .from_type = DType::f32,
                         .to_type = type,
                         .rows = a.m,
                         .columns = a.n,
                         .from_stride = a.dout_stride,
                         .to_stride = padded_width(a.n)};
    convert_rows(context_, rounding);
    dout = {rounding.to, rounding.to_stride, true};
    rounding.from = a.x;
    rounding.to = workspace + rounded_bytes(a.m, a.n);
    rounding.columns = a.k;
    rounding.from_stride = a.x_stride;
    rounding.to_stride = padded_width(a.k);
    convert_rows(context_, rounding);
    x = {rounding.to, rounding.to_stride, false};
  }
  gemm(context_, "matmul_weight_backward",
       {.type = type,
        .a = dout,
        .b = x,
        .out = a.dweight,
        .bias = nullptr,
        .m = a.n,
        .n = a.k,
        .k = a.m,
        .out_stride = a.k,
        .alpha = 1.0f,
        .accumulate = true});
  if (a.dbias != nullptr) add_column_sums(context_, a.dout, a.m, a.n, a.dout_stride, a.dbias);
}

}  // namespace pare::cuda
