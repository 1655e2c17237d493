// Gradients of norms, rotary, activations, softmax and embedding
#include "engine/tensor/ops/training_checks.h"

namespace pare::ops {
namespace {

constexpr int64_t kNormScratch = 4;  // floats per token

}  // namespace

size_t norm_backward_workspace_bytes(int64_t tokens) {
  return Workspace::bytes_for(DType::f32, {kNormScratch * tokens});
}

void rms_norm_backward(const Tensor& x, const Tensor& gain, float eps, bool gain_plus_one, const Tensor& dout,
                       bool accumulate, Tensor& dx, Tensor& dgain, Workspace& workspace) {
  constexpr std::string_view kOp = "rms_norm_backward";
  require_alike(kOp, {&x, &dout, &dx});
  require_vector(kOp, "gain", gain, DType::f32, columns_of(x));
  require_same_device(kOp, x, gain);
  require_parameter_gradient(kOp, "dgain", dgain, x, columns_of(x));
  if (x.numel() == 0) return;
  const Workspace::Scope scope(workspace);
  trainer_for(kOp, x).rms_norm_backward(
      {.x = x.data<float>(),
       .gain = gain.data<float>(),
       .dout = dout.data<float>(),
       .dx = dx.mutable_data<float>(),
       .dgain = data_or_null(dgain),
       .tokens = rows_of(x),
       .channels = columns_of(x),
       .x_stride = x.row_stride(),
       .dout_stride = dout.row_stride(),
       .dx_stride = dx.row_stride(),
       .eps = eps,
       .gain_plus_one = gain_plus_one,
       .accumulate = accumulate,
       .scratch = workspace.take(DType::f32, {kNormScratch * rows_of(x)}).mutable_data<float>()});
}

void layer_norm_backward(const Tensor& x, const Tensor& gain, float eps, const Tensor& dout, bool accumulate,
                         Tensor& dx, Tensor& dgain, Tensor& dbias, Workspace& workspace) {
  constexpr std::string_view kOp = "layer_norm_backward";
  require_alike(kOp, {&x, &dout, &dx});
  require_vector(kOp, "gain", gain, DType::f32, columns_of(x));
  require_same_device(kOp, x, gain);
  require_parameter_gradient(kOp, "dgain", dgain, x, columns_of(x));
  require_parameter_gradient(kOp, "dbias", dbias, x, columns_of(x));
  if (x.numel() == 0) return;
  const Workspace::Scope scope(workspace);
  trainer_for(kOp, x).layer_norm_backward(
      {.x = x.data<float>(),
       .gain = gain.data<float>(),
       .dout = dout.data<float>(),
       .dx = dx.mutable_data<float>(),
       .dgain = data_or_null(dgain),
       .dbias = data_or_null(dbias),
       .tokens = rows_of(x),
       .channels = columns_of(x),
       .x_stride = x.row_stride(),
       .dout_stride = dout.row_stride(),
       .dx_stride = dx.row_stride(),
       .eps = eps,
       .accumulate = accumulate,
       .scratch = workspace.take(DType::f32, {kNormScratch * rows_of(x)}).mutable_data<float>()});
}

void rotary_backward(Tensor& dx, const Tensor& positions, const Tensor& cosines, const Tensor& sines,
                     int64_t heads) {
  constexpr std::string_view kOp = "rotary_backward";
  require_activations(kOp, "dx", dx);
  require_type(kOp, "cosines", cosines, DType::f32);
  require_type(kOp, "sines", sines, DType::f32);
  require_same_shape(kOp, cosines, sines);
  for (const Tensor* tensor : {&positions, &cosines, &sines}) require_same_device(kOp, dx, *tensor);
  PARE_ASSERT(cosines.shape().rank() == 2 && cosines.is_contiguous() && sines.is_contiguous(),
              "[{}] tables {}", kOp, cosines.shape().text());
  require_vector(kOp, "positions", positions, DType::i32, rows_of(dx));
  PARE_ASSERT(heads > 0 && columns_of(dx) % heads == 0, "[{}] {} heads in {}", kOp, heads, dx.shape().text());
  const int64_t head_dim = columns_of(dx) / heads;
  const int64_t rotary_dim = 2 * cosines.size(1);
  PARE_ASSERT(rotary_dim <= head_dim, "[{}] {} of {} components", kOp, rotary_dim, head_dim);
  require_ids(kOp, positions, 0, cosines.size(0));
  if (dx.numel() == 0 || rotary_dim == 0) return;
  trainer_for(kOp, dx).rotary_backward({.x = dx.mutable_data<float>(),
                                        .positions = positions.data<int32_t>(),
                                        .cosines = cosines.data<float>(),
                                        .sines = sines.data<float>(),
                                        .tokens = rows_of(dx),
                                        .heads = heads,
                                        .head_dim = head_dim,
                                        .rotary_dim = rotary_dim,
                                        .stride = dx.row_stride()});
}

void activation_backward(Activation kind, const Tensor& x, const Tensor& dout, Tensor& dx) {
  constexpr std::string_view kOp = "activation_backward";
  require_alike(kOp, {&x, &dout, &dx});
  if (x.numel() == 0) return;
  trainer_for(kOp, x).activation_backward({.x = x.data<float>(),
                                           .dout = dout.data<float>(),
                                           .dx = dx.mutable_data<float>(),
                                           .rows = rows_of(x),
                                           .columns = columns_of(x),
                                           .x_stride = x.row_stride(),
                                           .dout_stride = dout.row_stride(),
                                           .dx_stride = dx.row_stride(),
                                           .kind = kind});
}

void gated_activation_backward(Activation kind, const Tensor& gate, const Tensor& up, const Tensor& dout,
                               Tensor& dgate, Tensor& dup) {
  constexpr std::string_view kOp = "gated_activation_backward";
  require_alike(kOp, {&gate, &up, &dout, &dgate, &dup});
  if (gate.numel() == 0) return;
  trainer_for(kOp, gate).gated_activation_backward({.gate = gate.data<float>(),
                                                    .up = up.data<float>(),
                                                    .dout = dout.data<float>(),
                                                    .dgate = dgate.mutable_data<float>(),
                                                    .dup = dup.mutable_data<float>(),
                                                    .rows = rows_of(gate),
                                                    .columns = columns_of(gate),
                                                    .gate_stride = gate.row_stride(),
                                                    .up_stride = up.row_stride(),
                                                    .dout_stride = dout.row_stride(),
                                                    .dgate_stride = dgate.row_stride(),
                                                    .dup_stride = dup.row_stride(),
                                                    .kind = kind});
}

void softmax_backward(const Tensor& out, const Tensor& dout, Tensor& dx) {
  constexpr std::string_view kOp = "softmax_backward";
  require_alike(kOp, {&out, &dout, &dx});
  if (out.numel() == 0) return;
  trainer_for(kOp, out).softmax_backward({.out = out.data<float>(),
                                          .dout = dout.data<float>(),
                                          .dx = dx.mutable_data<float>(),
                                          .rows = rows_of(out),
                                          .columns = columns_of(out),
                                          .out_stride = out.row_stride(),
                                          .dout_stride = dout.row_stride(),
                                          .dx_stride = dx.row_stride()});
}

void embedding_backward(const Tensor& ids, const Tensor& dout, float scale, Tensor& dtable) {
  constexpr std::string_view kOp = "embedding_backward";
  require_activations(kOp, "dout", dout);
  require_vector(kOp, "ids", ids, DType::i32, rows_of(dout));
  require_type(kOp, "dtable", dtable, DType::f32);
  PARE_ASSERT(dtable.shape().rank() == 2 && dtable.is_contiguous() && dtable.size(1) == columns_of(dout),
              "[{}] dtable {}, dout {}", kOp, dtable.shape().text(), dout.shape().text());
  require_same_device(kOp, dout, ids);
  require_same_device(kOp, dout, dtable);
  require_ids(kOp, ids, 0, dtable.size(0));
  if (dout.numel() == 0) return;
  trainer_for(kOp, dout).embedding_backward({.ids = ids.data<int32_t>(),
                                             .dout = dout.data<float>(),
                                             .dtable = dtable.mutable_data<float>(),
                                             .tokens = rows_of(dout),
                                             .rows = dtable.size(0),
                                             .channels = dtable.size(1),
                                             .dout_stride = dout.row_stride(),
                                             .scale = scale});
}

}  // namespace pare::ops
