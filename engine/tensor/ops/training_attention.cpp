// attention_backward
#include "engine/tensor/ops/checks.h"
#include "engine/tensor/training_ops.h"

namespace pare::ops {

void attention_backward(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionShape& shape,
                        const Tensor& out, const Tensor& log_sum_exp, const Tensor& dout, Tensor& dq,
                        Tensor& dk, Tensor& dv) {
  constexpr std::string_view kOp = "attention_backward";
  PARE_ASSERT(shape.sequences >= 0 && shape.query_tokens >= 0 && shape.key_tokens == shape.query_tokens &&
                  shape.query_offset == 0,
              "[{}] {} sequences, {} queries from {}, {} keys", kOp, shape.sequences, shape.query_tokens,
              shape.query_offset, shape.key_tokens);
  PARE_ASSERT(
      shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 && shape.head_dim > 0,
      "[{}] {} heads over {} of size {}", kOp, shape.heads, shape.kv_heads, shape.head_dim);
  PARE_ASSERT(shape.window >= 0 && shape.softcap >= 0.0f, "[{}] window {}, softcap {}", kOp, shape.window,
              shape.softcap);
  const int64_t rows = shape.sequences * shape.query_tokens;
  const auto require = [&](std::string_view name, const Tensor& x, int64_t heads) {
    require_activations(kOp, name, x);
    require_same_device(kOp, q, x);
    PARE_ASSERT(rows_of(x) == rows && columns_of(x) == heads * shape.head_dim, "[{}] {} {} for {} x {} x {}",
                kOp, name, x.shape().text(), rows, heads, shape.head_dim);
  };
  require("q", q, shape.heads);
  require("k", k, shape.kv_heads);
  require("v", v, shape.kv_heads);
  require("out", out, shape.heads);
  require("dout", dout, shape.heads);
  require("dq", dq, shape.heads);
  require("dk", dk, shape.kv_heads);
  require("dv", dv, shape.kv_heads);
  require_vector(kOp, "log_sum_exp", log_sum_exp, DType::f32, rows * shape.heads);
  require_same_device(kOp, q, log_sum_exp);
  PARE_ASSERT(k.row_stride() == v.row_stride() && dk.row_stride() == dv.row_stride(),
              "[{}] row strides of k and v: {}, {}; of dk and dv: {}, {}", kOp, k.row_stride(),
              v.row_stride(), dk.row_stride(), dv.row_stride());
  PARE_ASSERT(can_train(q.device()), "[{}] not on {}", kOp, q.device().name());
  if (rows == 0) return;
  backend_for(q.device())
      .training()
      ->attention_backward({.q = q.data<float>(),
                            .k = k.data<float>(),
                            .v = v.data<float>(),
                            .out = out.data<float>(),
                            .log_sum_exp = log_sum_exp.data<float>(),
                            .dout = dout.data<float>(),
                            .dq = dq.mutable_data<float>(),
                            .dk = dk.mutable_data<float>(),
                            .dv = dv.mutable_data<float>(),
                            .sequences = shape.sequences,
                            .tokens = shape.query_tokens,
                            .heads = shape.heads,
                            .kv_heads = shape.kv_heads,
                            .head_dim = shape.head_dim,
                            .q_stride = q.row_stride(),
                            .kv_stride = k.row_stride(),
                            .out_stride = out.row_stride(),
                            .dout_stride = dout.row_stride(),
                            .dq_stride = dq.row_stride(),
                            .dkv_stride = dk.row_stride(),
                            .scale = shape.scale,
                            .softcap = shape.softcap,
                            .window = shape.window,
                            .causal = shape.causal});
}

}  // namespace pare::ops
