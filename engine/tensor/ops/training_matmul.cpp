// can_train, and the two gradients of matmul
#include "engine/tensor/ops/checks.h"
#include "engine/tensor/training_ops.h"

namespace pare::ops {
namespace {

TrainingBackend& training_of(Device device) {
  PARE_ASSERT(can_train(device), "[training] not on {}", device.name());
  return *backend_for(device).training();
}

void require_workspace(std::string_view op, const Workspace& workspace, Device device) {
  PARE_ASSERT(workspace.capacity() == 0 || workspace.device() == device,
              "[{}] workspace on {}, tensors on {}", op, workspace.device().name(), device.name());
}

// A sum over no outputs: dx (+)= 0.
void clear(Tensor& dx) {
  PARE_ASSERT(dx.device().is_host(), "[matmul_input_backward] no outputs on {}", dx.device().name());
  for (int64_t row = 0; row < rows_of(dx); ++row) {
    std::fill_n(dx.mutable_data<float>() + row * dx.row_stride(), columns_of(dx), 0.0f);
  }
}

// The rest of a weight gradient without inputs: dbias += sum dout.
void add_columns(const Tensor& dout, Tensor& dbias) {
  PARE_ASSERT(dout.device().is_host(), "[matmul_weight_backward] no inputs on {}", dout.device().name());
  float* sums = dbias.mutable_data<float>();
  for (int64_t column = 0; column < columns_of(dout); ++column) {
    double sum = double(sums[column]);
    for (int64_t row = 0; row < rows_of(dout); ++row) {
      sum += double(dout.data<float>()[row * dout.row_stride() + column]);
    }
    sums[column] = float(sum);
  }
}

}  // namespace

bool can_train(Device device) {
  return has_backend(device) && backend_for(device).training() != nullptr;
}

void matmul_input_backward(const Tensor& dout, const Tensor& weight, bool accumulate, Tensor& dx,
                           Workspace& workspace) {
  constexpr std::string_view kOp = "matmul_input_backward";
  require_activations(kOp, "dout", dout);
  require_activations(kOp, "dx", dx);
  require_same_device(kOp, dout, dx);
  PARE_ASSERT(weight.defined() && weight.shape().rank() == 2 && weight.is_contiguous() &&
                  is_half_or_float(weight.dtype()),
              "[{}] weight {} {}", kOp, dtype_name(weight.dtype()), weight.shape().text());
  require_same_device(kOp, dout, weight);
  require_workspace(kOp, workspace, dout.device());
  const int64_t m = rows_of(dout), n = weight.size(0), k = weight.size(1);
  PARE_ASSERT(columns_of(dout) == n && columns_of(dx) == k && rows_of(dx) == m,
              "[{}] dout {}, weight {}, dx {}", kOp, dout.shape().text(), weight.shape().text(),
              dx.shape().text());
  TrainingBackend& backend = training_of(dout.device());
  if (m == 0 || k == 0) return;
  if (n == 0) {
    if (!accumulate) clear(dx);
    return;
  }
  Workspace::Scope scope(workspace);
  const int64_t bytes = int64_t(backend.matmul_input_backward_workspace_bytes(m, n, k));
  backend.matmul_input_backward(
      {.dout = dout.data<float>(),
       .weight = weight.raw(),
       .weight_dtype = weight.dtype(),
       .dx = dx.mutable_data<float>(),
       .m = m,
       .n = n,
       .k = k,
       .dout_stride = dout.row_stride(),
       .dx_stride = dx.row_stride(),
       .accumulate = accumulate,
       .workspace = bytes == 0 ? nullptr : workspace.take(DType::u8, {bytes}).mutable_raw()});
}

size_t matmul_input_backward_workspace_bytes(Device device, int64_t m, int64_t n, int64_t k) {
  if (m == 0 || n == 0 || k == 0) return 0;
  const size_t bytes = training_of(device).matmul_input_backward_workspace_bytes(m, n, k);
  return Workspace::bytes_for(DType::u8, {int64_t(bytes)});
}

void matmul_weight_backward(const Tensor& x, const Tensor& dout, Tensor& dweight, Tensor& dbias,
                            Workspace& workspace) {
  constexpr std::string_view kOp = "matmul_weight_backward";
  require_activations(kOp, "x", x);
  require_activations(kOp, "dout", dout);
  require_same_device(kOp, x, dout);
  const int64_t m = rows_of(x), n = columns_of(dout), k = columns_of(x);
  require_type(kOp, "dweight", dweight, DType::f32);
  require_same_device(kOp, x, dweight);
  PARE_ASSERT(rows_of(dout) == m && dweight.is_contiguous() && dweight.shape() == Shape({n, k}),
              "[{}] x {}, dout {}, dweight {}", kOp, x.shape().text(), dout.shape().text(),
              dweight.shape().text());
  if (dbias.defined()) {
    require_vector(kOp, "dbias", dbias, DType::f32, n);
    require_same_device(kOp, x, dbias);
  }
  require_workspace(kOp, workspace, x.device());
  TrainingBackend& backend = training_of(x.device());
  if (m == 0 || n == 0) return;
  if (k == 0) {
    if (dbias.defined()) add_columns(dout, dbias);
    return;
  }
  Workspace::Scope scope(workspace);
  const int64_t bytes = int64_t(backend.matmul_weight_backward_workspace_bytes(m, n, k));
  backend.matmul_weight_backward(
      {.x = x.data<float>(),
       .dout = dout.data<float>(),
       .dweight = dweight.mutable_data<float>(),
       .dbias = dbias.defined() ? dbias.mutable_data<float>() : nullptr,
       .m = m,
       .n = n,
       .k = k,
       .x_stride = x.row_stride(),
       .dout_stride = dout.row_stride(),
       .workspace = bytes == 0 ? nullptr : workspace.take(DType::u8, {bytes}).mutable_raw()});
}

size_t matmul_weight_backward_workspace_bytes(Device device, int64_t m, int64_t n, int64_t k) {
  if (m == 0 || n == 0 || k == 0) return 0;
  const size_t bytes = training_of(device).matmul_weight_backward_workspace_bytes(m, n, k);
  return Workspace::bytes_for(DType::u8, {int64_t(bytes)});
}

}  // namespace pare::ops
