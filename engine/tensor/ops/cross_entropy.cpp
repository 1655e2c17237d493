// cross_entropy, divergence
#include "engine/tensor/ops.h"
#include "engine/tensor/ops/checks.h"

namespace pare::ops {

void cross_entropy(const Tensor& logits, const Tensor& targets, Tensor& log_sum_exp, Tensor& nll,
                   Tensor& best) {
  require_activations("cross_entropy", "logits", logits);
  const int64_t rows = rows_of(logits), columns = columns_of(logits);
  require_vector("cross_entropy", "targets", targets, DType::i32, rows);
  require_vector("cross_entropy", "log_sum_exp", log_sum_exp, DType::f64, rows);
  require_vector("cross_entropy", "nll", nll, DType::f64, rows);
  require_vector("cross_entropy", "best", best, DType::i32, rows);
  for (const Tensor* tensor : {&targets, static_cast<const Tensor*>(&log_sum_exp),
                               static_cast<const Tensor*>(&nll), static_cast<const Tensor*>(&best)}) {
    require_same_device("cross_entropy", logits, *tensor);
  }
  if (rows == 0) return;
  PARE_ASSERT(columns > 0, "[cross_entropy] no columns");
  require_ids("cross_entropy", targets, INT32_MIN, columns);
  backend_for(logits.device())
      .cross_entropy({.logits = logits.data<float>(),
                      .targets = targets.data<int32_t>(),
                      .log_sum_exp = log_sum_exp.mutable_data<double>(),
                      .nll = nll.mutable_data<double>(),
                      .best = best.mutable_data<int32_t>(),
                      .rows = rows,
                      .columns = columns,
                      .stride = logits.row_stride()});
}

void divergence(const Tensor& logits_p, const Tensor& logits_q, const Tensor& log_sum_exp_p,
                const Tensor& log_sum_exp_q, Tensor& kl) {
  require_activations("divergence", "logits_p", logits_p);
  require_activations("divergence", "logits_q", logits_q);
  require_same_shape("divergence", logits_p, logits_q);
  const int64_t rows = rows_of(logits_p), columns = columns_of(logits_p);
  require_vector("divergence", "log_sum_exp_p", log_sum_exp_p, DType::f64, rows);
  require_vector("divergence", "log_sum_exp_q", log_sum_exp_q, DType::f64, rows);
  require_vector("divergence", "kl", kl, DType::f64, rows);
  for (const Tensor* tensor : {&logits_q, &log_sum_exp_p, &log_sum_exp_q, static_cast<const Tensor*>(&kl)}) {
    require_same_device("divergence", logits_p, *tensor);
  }
  if (rows == 0) return;
  PARE_ASSERT(columns > 0, "[divergence] no columns");
  backend_for(logits_p.device())
      .divergence({.logits_p = logits_p.data<float>(),
                   .logits_q = logits_q.data<float>(),
                   .log_sum_exp_p = log_sum_exp_p.data<double>(),
                   .log_sum_exp_q = log_sum_exp_q.data<double>(),
                   .kl = kl.mutable_data<double>(),
                   .rows = rows,
                   .columns = columns,
                   .p_stride = logits_p.row_stride(),
                   .q_stride = logits_q.row_stride()});
}

}  // namespace pare::ops
