// apply_mask, column_sums, scale, round_into, bound_steps
#include "engine/tensor/ops/training_checks.h"
#include "engine/tensor/transfer.h"

namespace pare::ops {
namespace {

void require_floats(std::string_view op, const Tensor& x) {
  require_type(op, "operand", x, DType::f32);
  PARE_ASSERT(x.is_contiguous(), "[{}] view with gaps, {}", op, x.shape().text());
}

}  // namespace

void apply_mask(const Mask& mask, Tensor& x) {
  require_floats("apply_mask", x);
  PARE_ASSERT(mask.bits().device().is_host() == x.device().is_host(), "[apply_mask] mask on {}, matrix on {}",
              mask.bits().device().name(), x.device().name());
  PARE_ASSERT(x.shape() == Shape({mask.out(), mask.in()}), "[apply_mask] mask [{}, {}] for {}", mask.out(),
              mask.in(), x.shape().text());
  if (x.numel() == 0) return;
  trainer_for("apply_mask", x)
      .apply_mask({.x = x.mutable_data<float>(),
                   .kept = mask.bits().data<uint8_t>(),
                   .rows = mask.out(),
                   .columns = mask.in(),
                   .row_bytes = mask.bits().size(1)});
}

void column_sums(const Tensor& x, Tensor& sums) {
  require_activations("column_sums", "x", x);
  require_vector("column_sums", "sums", sums, DType::f32, columns_of(x));
  require_same_device("column_sums", x, sums);
  if (x.numel() == 0) return;
  trainer_for("column_sums", x)
      .column_sums({.x = x.data<float>(),
                    .sums = sums.mutable_data<float>(),
                    .rows = rows_of(x),
                    .columns = columns_of(x),
                    .stride = x.row_stride()});
}

void scale(const Tensor& x, float factor, Tensor& out) {
  require_floats("scale", x);
  require_floats("scale", out);
  require_same_shape("scale", x, out);
  require_same_device("scale", x, out);
  if (x.numel() == 0) return;
  trainer_for("scale", x)
      .scale({.x = x.data<float>(), .out = out.mutable_data<float>(), .count = x.numel(), .factor = factor});
}

void round_into(const Tensor& x, Tensor& out) {
  require_floats("round_into", x);
  require_same_shape("round_into", x, out);
  require_same_device("round_into", x, out);
  PARE_ASSERT(is_half_or_float(out.dtype()) && out.is_contiguous(), "[round_into] to {} {}",
              dtype_name(out.dtype()), out.shape().text());
  if (x.numel() == 0) return;
  if (x.device().is_host()) return convert_into(x, out);
  if (out.dtype() == DType::f32) {
    backend_for(x.device())
        .copy_rows({.x = x.raw(),
                    .out = out.mutable_raw(),
                    .rows = 1,
                    .width = int64_t(x.size_bytes()),
                    .x_stride = int64_t(x.size_bytes()),
                    .out_stride = int64_t(x.size_bytes())});
    return;
  }
  trainer_for("round_into", x)
      .round({.x = x.data<float>(), .out = out.mutable_raw(), .dtype = out.dtype(), .count = x.numel()});
}

void bound_steps(float least, float most, DType dtype, Tensor& steps, Tensor& scales) {
  require_floats("bound_steps", steps);
  require_floats("bound_steps", scales);
  require_same_device("bound_steps", steps, scales);
  PARE_ASSERT(is_half_or_float(dtype) && least <= most, "[bound_steps] {} to {} in {}", least, most,
              dtype_name(dtype));
  PARE_ASSERT(steps.numel() == 1 || steps.shape() == scales.shape(), "[bound_steps] {} steps, {} scales",
              steps.shape().text(), scales.shape().text());
  if (scales.numel() == 0 || steps.numel() == 0) return;
  trainer_for("bound_steps", steps)
      .bound_steps({.steps = steps.mutable_data<float>(),
                    .scales = scales.mutable_data<float>(),
                    .count = steps.numel(),
                    .scale_count = scales.numel(),
                    .least = least,
                    .most = most,
                    .dtype = dtype});
}

}  // namespace pare::ops
