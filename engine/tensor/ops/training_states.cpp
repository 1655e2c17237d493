// state_distance, relation_rows and the sums of what they give
#include "engine/tensor/ops/training_checks.h"

namespace pare::ops {

void state_distance(StateDistance kind, const Tensor& x, const Tensor& teacher, const Tensor& ids,
                    double scale, bool accumulate, Tensor& values, Tensor& dx) {
  require_alike("state_distance", {&x, &teacher});
  if (dx.defined()) require_alike("state_distance", {&x, &dx});
  require_vector("state_distance", "ids", ids, DType::i32, rows_of(x));
  require_vector("state_distance", "values", values, DType::f64, rows_of(x));
  require_same_device("state_distance", x, ids);
  require_same_device("state_distance", x, values);
  if (x.numel() == 0) return;
  trainer_for("state_distance", x)
      .state_distance({.x = x.data<float>(),
                       .teacher = teacher.data<float>(),
                       .ids = ids.data<int32_t>(),
                       .values = values.mutable_data<double>(),
                       .dx = data_or_null(dx),
                       .rows = rows_of(x),
                       .columns = columns_of(x),
                       .x_stride = x.row_stride(),
                       .teacher_stride = teacher.row_stride(),
                       .dx_stride = dx.defined() ? dx.row_stride() : 0,
                       .kind = kind,
                       .accumulate = accumulate,
                       .scale = scale});
}

void relation_rows(Tensor& scores, const Tensor& teacher, const Tensor& ids, bool is_causal,
                   const RelationScales& scales, Tensor& values) {
  require_alike("relation_rows", {&scores, &teacher});
  PARE_ASSERT(rows_of(scores) == columns_of(scores), "[relation_rows] relations {}", scores.shape().text());
  PARE_ASSERT(scales.student > 0.0 && scales.teacher > 0.0, "[relation_rows] scales {} and {}",
              scales.student, scales.teacher);
  require_vector("relation_rows", "ids", ids, DType::i32, rows_of(scores));
  require_vector("relation_rows", "values", values, DType::f64, rows_of(scores));
  require_same_device("relation_rows", scores, ids);
  require_same_device("relation_rows", scores, values);
  if (scores.numel() == 0) return;
  trainer_for("relation_rows", scores)
      .relation_rows({.scores = scores.mutable_data<float>(),
                      .teacher = teacher.data<float>(),
                      .ids = ids.data<int32_t>(),
                      .values = values.mutable_data<double>(),
                      .rows = rows_of(scores),
                      .columns = columns_of(scores),
                      .stride = scores.row_stride(),
                      .teacher_stride = teacher.row_stride(),
                      .scale = scales.student,
                      .teacher_scale = scales.teacher,
                      .gradient_scale = scales.gradient,
                      .causal = is_causal});
}

void state_moments(const Tensor& x, const Tensor& ids, Tensor& sums) {
  require_activations("state_moments", "x", x);
  require_vector("state_moments", "ids", ids, DType::i32, rows_of(x));
  require_vector("state_moments", "sums", sums, DType::f64, 2);
  require_same_device("state_moments", x, ids);
  require_same_device("state_moments", x, sums);
  if (x.numel() == 0) return;
  trainer_for("state_moments", x)
      .state_moments({.x = x.data<float>(),
                      .ids = ids.data<int32_t>(),
                      .sums = sums.mutable_data<double>(),
                      .rows = rows_of(x),
                      .columns = columns_of(x),
                      .stride = x.row_stride()});
}

void add_sum(const Tensor& x, double factor, Tensor& out) {
  require_vector("add_sum", "x", x, DType::f64, x.numel());
  require_vector("add_sum", "out", out, DType::f64, 1);
  require_same_device("add_sum", x, out);
  if (x.numel() == 0) return;
  trainer_for("add_sum", x)
      .add_sum(
          {.x = x.data<double>(), .out = out.mutable_data<double>(), .count = x.numel(), .factor = factor});
}

void add_rows(const Tensor& x, Tensor& out) {
  require_alike("add_rows", {&x, &out});
  if (x.numel() == 0) return;
  trainer_for("add_rows", x)
      .add_rows({.x = x.data<float>(),
                 .out = out.mutable_data<float>(),
                 .rows = rows_of(x),
                 .columns = columns_of(x),
                 .x_stride = x.row_stride(),
                 .out_stride = out.row_stride()});
}

}  // namespace pare::ops
