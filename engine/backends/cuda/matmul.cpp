// Dense products and the gradient of their input: few rows by a kernel of ours, more by cuBLASLt.
#include <algorithm>

#include "engine/backends/cuda/backend_class.h"
#include "engine/backends/cuda/few_rows.h"
#include "engine/backends/cuda/gemm.h"

namespace pare::cuda {
namespace {

// A weight of another type than the product's is converted rows at a time, into the context's scratch.
#ifdef PARE_CUDA_EMULATOR
constexpr int64_t kConvertedBytes = 4096;  // small weights in several parts too
#else
constexpr int64_t kConvertedBytes = int64_t{64} << 20;
#endif

struct ConvertedRows {
  int64_t at_once;  // rows
  int64_t stride;
  void* data;  // null, and an error noted, without memory
};
ConvertedRows room_for(Context& context, DType type, int64_t rows, int64_t columns) {
  const int64_t stride = padded_width(columns), row_bytes = stride * dtype_bytes(type);
  const int64_t at_once = std::clamp(kConvertedBytes / row_bytes, int64_t{1}, rows);
  return {at_once, stride, context.scratch(size_t(at_once * row_bytes))};
}

// Activations as the product wants them: as they are, or rounded into the workspace.
GemmFactor activations(Context& context, DType type, const float* x, int64_t rows, int64_t columns,
                       int64_t stride, void* workspace) {
  if (type == DType::f32) return {x, stride, false};
  const int64_t width = padded_width(columns);
  convert_rows(context, {.from = x,
                         .to = workspace,
                         .from_type = DType::f32,
                         .to_type = type,
                         .rows = rows,
                         .columns = columns,
                         .from_stride = stride,
                         .to_stride = width});
  return {workspace, width, false};
}

size_t rounded_bytes(const Context& context, int64_t rows, int64_t columns) {
  return context.math() == MathMode::f32 ? 0 : size_t(rows * padded_width(columns)) * 2;
}

const void* rows_from(const void* weight, DType type, int64_t row, int64_t columns) {
  return static_cast<const unsigned char*>(weight) + row * columns * dtype_bytes(type);
}

}  // namespace

size_t CudaBackend::matmul_workspace_bytes(int64_t m, int64_t, int64_t k) const {
  return m <= kFewRows ? 0 : rounded_bytes(*context_, m, k);
}

void CudaBackend::matmul(const MatmulArgs& a) {
  if (a.m <= kFewRows) return few_rows_matmul(*context_, a);
  const DType type = product_type(context_->math(), a.weight_dtype);
  GemmArgs product{.type = type,
                   .a = activations(*context_, type, a.x, a.m, a.k, a.x_stride, a.workspace),
                   .b = {a.weight, a.k, true},
                   .out = a.out,
                   .bias = a.bias,
                   .m = a.m,
                   .n = a.n,
                   .k = a.k,
                   .out_stride = a.out_stride,
                   .alpha = 1.0f,
                   .accumulate = a.accumulate};
  if (type == a.weight_dtype) return gemm(*context_, "matmul", product);
  const ConvertedRows room = room_for(*context_, type, a.n, a.k);
  if (room.data == nullptr) return;
  for (int64_t row = 0; row < a.n; row += room.at_once) {
    const int64_t count = std::min(room.at_once, a.n - row);
    convert_rows(*context_, {.from = rows_from(a.weight, a.weight_dtype, row, a.k),
                             .to = room.data,
                             .from_type = a.weight_dtype,
                             .to_type = type,
                             .rows = count,
                             .columns = a.k,
                             .from_stride = a.k,
                             .to_stride = room.stride});
    product.b = {room.data, room.stride, true};
    product.n = count;
    product.out = a.out + row;
    product.bias = a.bias != nullptr ? a.bias + row : nullptr;
    gemm(*context_, "matmul", product);
  }
}

size_t CudaTraining::matmul_input_backward_workspace_bytes(int64_t m, int64_t n, int64_t) const {
  return rounded_bytes(context_, m, n);
}

// Gradients are rounded to bf16 whatever the weight's type: f16 has no room for the small ones.
void CudaTraining::matmul_input_backward(const MatmulInputBackwardArgs& a) {
  const DType type = context_.math() == MathMode::f32 ? DType::f32 : DType::bf16;
  const GemmFactor dout = activations(context_, type, a.dout, a.m, a.n, a.dout_stride, a.workspace);
  GemmArgs product{.type = type,
                   .a = dout,
                   .b = {a.weight, a.k, false},
                   .out = a.dx,
                   .bias = nullptr,
                   .m = a.m,
                   .n = a.k,
                   .k = a.n,
                   .out_stride = a.dx_stride,
                   .alpha = 1.0f,
                   .accumulate = a.accumulate};
  if (type == a.weight_dtype) return gemm(context_, "matmul_input_backward", product);
  const ConvertedRows room = room_for(context_, type, a.n, a.k);
  if (room.data == nullptr) return;
  for (int64_t row = 0; row < a.n; row += room.at_once) {  // these rows are terms of the sum
    const int64_t count = std::min(room.at_once, a.n - row);
    convert_rows(context_, {.from = rows_from(a.weight, a.weight_dtype, row, a.k),
                            .to = room.data,
                            .from_type = a.weight_dtype,
                            .to_type = type,
                            .rows = count,
                            .columns = a.k,
                            .from_stride = a.k,
                            .to_stride = room.stride});
    product.a.data = static_cast<const unsigned char*>(dout.data) + row * dtype_bytes(type);
    product.b = {room.data, room.stride, false};
    product.k = count;
    product.accumulate = a.accumulate || row > 0;
    gemm(context_, "matmul_input_backward", product);
  }
}

}  // namespace pare::cuda
