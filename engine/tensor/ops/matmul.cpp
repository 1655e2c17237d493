// matmul with dense and with packed weights
#include "engine/tensor/ops.h"
#include "engine/tensor/ops/checks.h"

namespace pare::ops {
namespace {

// Shapes of x [m, k], bias [n], out [m, n].
void check(const Tensor& x, int64_t n, int64_t k, const Tensor& bias, const Tensor& out,
           const Workspace& workspace) {
  require_activations("matmul", "x", x);
  require_activations("matmul", "out", out);
  require_same_device("matmul", x, out);
  PARE_ASSERT(columns_of(x) == k && columns_of(out) == n && rows_of(x) == rows_of(out),
              "[matmul] x {}, weight [{}, {}], out {}", x.shape().text(), n, k, out.shape().text());
  if (bias.defined()) {
    require_vector("matmul", "bias", bias, DType::f32, n);
    require_same_device("matmul", x, bias);
  }
  PARE_ASSERT(workspace.capacity() == 0 || workspace.device() == x.device(),
              "[matmul] workspace on {}, x on {}", workspace.device().name(), x.device().name());
}

// A sum over nothing: out (+)= bias.
void add_bias_only(const Tensor& bias, bool accumulate, Tensor& out) {
  PARE_ASSERT(out.device().is_host(), "[matmul] no inputs on {}", out.device().name());
  const int64_t n = columns_of(out);
  const float* addend = bias.defined() ? bias.data<float>() : nullptr;
  for (int64_t row = 0; row < rows_of(out); ++row) {
    float* target = out.mutable_data<float>() + row * out.row_stride();
    for (int64_t column = 0; column < n; ++column) {
      target[column] = (accumulate ? target[column] : 0.0f) + (addend != nullptr ? addend[column] : 0.0f);
    }
  }
}

}  // namespace

void matmul(const Tensor& x, const Tensor& weight, const Tensor& bias, bool accumulate, Tensor& out,
            Workspace& workspace) {
  PARE_ASSERT(weight.defined() && weight.shape().rank() == 2 && weight.is_contiguous() &&
                  is_half_or_float(weight.dtype()),
              "[matmul] weight {} {}", dtype_name(weight.dtype()), weight.shape().text());
  const int64_t n = weight.size(0), k = weight.size(1);
  check(x, n, k, bias, out, workspace);
  require_same_device("matmul", x, weight);
  const int64_t m = rows_of(x);
  if (m == 0 || n == 0) return;
  if (k == 0) return add_bias_only(bias, accumulate, out);
  Backend& backend = backend_for(x.device());
  Workspace::Scope scope(workspace);
  const int64_t bytes = int64_t(backend.matmul_workspace_bytes(m, n, k));
  backend.matmul({.x = x.data<float>(),
                  .weight = weight.raw(),
                  .weight_dtype = weight.dtype(),
                  .bias = bias.defined() ? bias.data<float>() : nullptr,
                  .out = out.mutable_data<float>(),
                  .m = m,
                  .n = n,
                  .k = k,
                  .x_stride = x.row_stride(),
                  .out_stride = out.row_stride(),
                  .accumulate = accumulate,
                  .workspace = bytes == 0 ? nullptr : workspace.take(DType::u8, {bytes}).mutable_raw()});
}

void matmul(const Tensor& x, const PackedMatrix& weight, const Tensor& bias, bool accumulate, Tensor& out,
            Workspace& workspace) {
  PARE_ASSERT(weight.defined(), "[matmul] the packed weight is undefined");
  check(x, weight.out, weight.in, bias, out, workspace);
  const int64_t m = rows_of(x);
  if (m == 0 || weight.out == 0) return;
  if (weight.in == 0) return add_bias_only(bias, accumulate, out);
  Backend& backend = backend_for(x.device());
  Workspace::Scope scope(workspace);
  const int64_t bytes = int64_t(backend.packed_matmul_workspace_bytes(weight, m));
  backend.packed_matmul(
      {.x = x.data<float>(),
       .weight = &weight,
       .bias = bias.defined() ? bias.data<float>() : nullptr,
       .out = out.mutable_data<float>(),
       .m = m,
       .n = weight.out,
       .k = weight.in,
       .x_stride = x.row_stride(),
       .out_stride = out.row_stride(),
       .accumulate = accumulate,
       .workspace = bytes == 0 ? nullptr : workspace.take(DType::u8, {bytes}).mutable_raw()});
}

size_t matmul_workspace_bytes(Device device, int64_t m, int64_t n, int64_t k) {
  if (m == 0 || n == 0 || k == 0) return 0;
  return Workspace::bytes_for(DType::u8, {int64_t(backend_for(device).matmul_workspace_bytes(m, n, k))});
}

size_t matmul_workspace_bytes(Device device, const PackedMatrix& weight, int64_t m) {
  if (m == 0 || weight.out == 0 || weight.in == 0) return 0;
  return Workspace::bytes_for(DType::u8,
                              {int64_t(backend_for(device).packed_matmul_workspace_bytes(weight, m))});
}

}  // namespace pare::ops
