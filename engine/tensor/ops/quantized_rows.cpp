// rows rounded once for several products
#include "engine/tensor/quantized_rows_backend.h"

#include "engine/tensor/ops.h"
#include "engine/tensor/ops/checks.h"

namespace pare::ops {
namespace {

QuantizedRowsBackend& backend_of(const char* op, Device device, const PackedMatrix& weight) {
  QuantizedRowsBackend* backend = backend_for(device).quantized_rows();
  PARE_ASSERT(backend != nullptr && weight.defined() && backend->reads_rounded(weight),
              "[{}] a weight of {} on {} reads no rounded rows", op, weight.scheme.text(), device.name());
  return *backend;
}

RoundedRows take_rows(const char* op, const Tensor& x, const PackedMatrix& weight, Workspace& workspace) {
  require_activations(op, "x", x);
  PARE_ASSERT(columns_of(x) == weight.in && rows_of(x) > 0, "[{}] x {} for {} inputs", op, x.shape().text(),
              weight.in);
  PARE_ASSERT(workspace.device() == x.device(), "[{}] workspace on {}, x on {}", op,
              workspace.device().name(), x.device().name());
  const size_t bytes = backend_of(op, x.device(), weight).rows_bytes(weight, rows_of(x));
  return {.bytes = workspace.take(DType::u8, {int64_t(bytes)}), .rows = rows_of(x)};
}

}  // namespace

bool reads_rounded(Device device, const PackedMatrix& weight) {
  QuantizedRowsBackend* backend = backend_for(device).quantized_rows();
  return backend != nullptr && backend->reads_rounded(weight);
}

bool rounds_alike(Device device, const PackedMatrix& a, const PackedMatrix& b) {
  QuantizedRowsBackend* backend = backend_for(device).quantized_rows();
  return backend != nullptr && backend->rounds_alike(a, b);
}

size_t rounded_rows_bytes(Device device, const PackedMatrix& weight, int64_t rows) {
  QuantizedRowsBackend* backend = backend_for(device).quantized_rows();
  if (backend == nullptr || rows == 0 || !backend->reads_rounded(weight)) return 0;
  return Workspace::bytes_for(DType::u8, {int64_t(backend->rows_bytes(weight, rows))});
}

RoundedRows round_rows(const Tensor& x, const PackedMatrix& weight, Workspace& workspace) {
  const RoundedRows result = take_rows("round_rows", x, weight, workspace);
  backend_of("round_rows", x.device(), weight)
      .round_rows({.x = x.data<float>(),
                   .m = result.rows,
                   .x_stride = x.row_stride(),
                   .weight = &weight,
                   .rows = result.bytes.mutable_raw()});
  return result;
}

RoundedRows rms_norm_rounded(const Tensor& x, const Tensor& gain, float eps, bool gain_plus_one,
                             const PackedMatrix& weight, Workspace& workspace) {
  require_same_device("rms_norm_rounded", x, gain);
  const RoundedRows result = take_rows("rms_norm_rounded", x, weight, workspace);
  require_vector("rms_norm_rounded", "gain", gain, DType::f32, columns_of(x));
  backend_of("rms_norm_rounded", x.device(), weight)
      .rms_norm_rows({.norm = {.x = x.data<float>(),
                               .gain = gain.data<float>(),
                               .out = nullptr,
                               .tokens = result.rows,
                               .channels = columns_of(x),
                               .x_stride = x.row_stride(),
                               .out_stride = 0,
                               .eps = eps,
                               .gain_plus_one = gain_plus_one},
                      .weight = &weight,
                      .rows = result.bytes.mutable_raw()});
  return result;
}

RoundedRows layer_norm_rounded(const Tensor& x, const Tensor& gain, const Tensor& bias, float eps,
                               const PackedMatrix& weight, Workspace& workspace) {
  require_same_device("layer_norm_rounded", x, gain);
  const RoundedRows result = take_rows("layer_norm_rounded", x, weight, workspace);
  require_vector("layer_norm_rounded", "gain", gain, DType::f32, columns_of(x));
  if (bias.defined()) {
    require_vector("layer_norm_rounded", "bias", bias, DType::f32, columns_of(x));
    require_same_device("layer_norm_rounded", x, bias);
  }
  backend_of("layer_norm_rounded", x.device(), weight)
      .layer_norm_rows({.norm = {.x = x.data<float>(),
                                 .gain = gain.data<float>(),
                                 .bias = bias.defined() ? bias.data<float>() : nullptr,
                                 .out = nullptr,
                                 .tokens = result.rows,
                                 .channels = columns_of(x),
                                 .x_stride = x.row_stride(),
                                 .out_stride = 0,
                                 .eps = eps},
                        .weight = &weight,
                        .rows = result.bytes.mutable_raw()});
  return result;
}

void matmul(const RoundedRows& x, const PackedMatrix& weight, const Tensor& bias, bool accumulate,
            Tensor& out) {
  PARE_ASSERT(x.defined(), "[matmul] rows that were not rounded");
  require_activations("matmul", "out", out);
  require_same_device("matmul", x.bytes, out);
  PARE_ASSERT(columns_of(out) == weight.out && rows_of(out) == x.rows,
              "[matmul] {} rounded rows, weight [{}, {}], out {}", x.rows, weight.out, weight.in,
              out.shape().text());
  if (bias.defined()) {
    require_vector("matmul", "bias", bias, DType::f32, weight.out);
    require_same_device("matmul", out, bias);
  }
  QuantizedRowsBackend& backend = backend_of("matmul", out.device(), weight);
  PARE_ASSERT(x.bytes.size_bytes() == backend.rows_bytes(weight, x.rows),
              "[matmul] rows of {} bytes for a weight that reads {}", x.bytes.size_bytes(),
              backend.rows_bytes(weight, x.rows));
  backend.matmul({.rows = x.bytes.mutable_raw(),
                  .weight = &weight,
                  .bias = bias.defined() ? bias.data<float>() : nullptr,
                  .out = out.mutable_data<float>(),
                  .m = x.rows,
                  .out_stride = out.row_stride(),
                  .accumulate = accumulate});
}

}  // namespace pare::ops
