// loss_rows
#include <limits>

#include "engine/tensor/ops/checks.h"
#include "engine/tensor/training_ops.h"

namespace pare::ops {
namespace {

constexpr std::string_view kOp = "loss_rows";

void check_options(const LossRowsOptions& o, int64_t columns) {
  PARE_ASSERT(o.real_columns > 0 && o.real_columns <= columns, "[{}] {} real of {} columns", kOp,
              o.real_columns, columns);
  PARE_ASSERT(o.temperature > 0.0f && o.alpha >= 0.0f && o.alpha <= 1.0f && o.softcap >= 0.0f,
              "[{}] alpha {}, temperature {}, softcap {}", kOp, o.alpha, o.temperature, o.softcap);
  PARE_ASSERT(o.kind != Divergence::jensen_shannon || (o.beta > 0.0f && o.beta < 1.0f), "[{}] beta {}", kOp,
              o.beta);
}

// The teacher in whichever form. Returns how many ids are known of it, 0 where all are.
int64_t check_teacher(const Tensor& logits, const Tensor& teacher, const Tensor& top_ids,
                      const Tensor& top_log_probs, const LossRowsOptions& o) {
  const int64_t rows = rows_of(logits);
  PARE_ASSERT(top_ids.defined() == top_log_probs.defined() && !(teacher.defined() && top_ids.defined()) &&
                  (o.kind == Divergence::none || teacher.defined() || top_ids.defined()),
              "[{}] the teacher has logits: {}, known ids: {}", kOp, teacher.defined(), top_ids.defined());
  if (teacher.defined()) {
    require_activations(kOp, "teacher", teacher);
    require_same_device(kOp, logits, teacher);
    PARE_ASSERT(rows_of(teacher) == rows && columns_of(teacher) >= o.real_columns,
                "[{}] teacher {} for {} x {}", kOp, teacher.shape().text(), rows, o.real_columns);
  }
  if (!top_ids.defined()) return 0;
  const int64_t known = top_ids.size(-1);
  PARE_ASSERT(known > 0 && known <= kKnownIds, "[{}] {} ids are known", kOp, known);
  // KL(p_s || p_t) where p_t is 0
  PARE_ASSERT(!(o.kind == Divergence::reverse_kl && o.tail == TeacherTail::zero),
              "[{}] reverse KL of a teacher without a tail is infinite", kOp);
  require_vector(kOp, "top_ids", top_ids, DType::i32, rows * known);
  require_vector(kOp, "top_log_probs", top_log_probs, DType::f32, rows * known);
  require_same_device(kOp, logits, top_ids);
  require_same_device(kOp, logits, top_log_probs);
  require_ids(kOp, top_ids, 0, o.real_columns);
  return known;
}

}  // namespace

void loss_rows(Tensor& logits, const Tensor& teacher, const Tensor& top_ids, const Tensor& top_log_probs,
               const Tensor& targets, const LossRowsOptions& options, Tensor& cross_entropy,
               Tensor& divergence) {
  require_activations(kOp, "logits", logits);
  const int64_t rows = rows_of(logits), columns = columns_of(logits);
  check_options(options, columns);
  const int64_t known = check_teacher(logits, teacher, top_ids, top_log_probs, options);
  require_vector(kOp, "targets", targets, DType::i32, rows);
  require_ids(kOp, targets, std::numeric_limits<int32_t>::min(), options.real_columns);
  require_vector(kOp, "cross_entropy", cross_entropy, DType::f64, rows);
  require_vector(kOp, "divergence", divergence, DType::f64, rows);
  for (const Tensor* x :
       {&targets, static_cast<const Tensor*>(&cross_entropy), static_cast<const Tensor*>(&divergence)}) {
    require_same_device(kOp, logits, *x);
  }
  PARE_ASSERT(can_train(logits.device()), "[{}] not on {}", kOp, logits.device().name());
  if (rows == 0) return;
  backend_for(logits.device())
      .training()
      ->loss_rows({.logits = logits.mutable_data<float>(),
                   .teacher = teacher.defined() ? teacher.data<float>() : nullptr,
                   .top_ids = known > 0 ? top_ids.data<int32_t>() : nullptr,
                   .top_log_probs = known > 0 ? top_log_probs.data<float>() : nullptr,
                   .targets = targets.data<int32_t>(),
                   .cross_entropy = cross_entropy.mutable_data<double>(),
                   .divergence = divergence.mutable_data<double>(),
                   .rows = rows,
                   .columns = columns,
                   .real_columns = options.real_columns,
                   .stride = logits.row_stride(),
                   .teacher_stride = teacher.defined() ? teacher.row_stride() : 0,
                   .top_count = known,
                   .kind = options.kind,
                   .tail = options.tail,
                   .alpha = options.alpha,
                   .temperature = options.temperature,
                   .beta = options.beta,
                   .squares_temperature = options.squares_temperature,
                   .softcap = options.softcap,
                   .gradient_scale = options.gradient_scale});
}

}  // namespace pare::ops
