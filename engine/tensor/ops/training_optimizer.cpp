// adamw, sgd, sum_of_squares, and rounding to a grid of codes with its gradient
#include <cmath>
#include <vector>

#include "engine/tensor/ops/training_checks.h"

namespace pare::ops {
namespace {

// A parameter and what belongs to it: contiguous f32 of one shape on one device.
void require_parameters(std::string_view op, std::initializer_list<const Tensor*> tensors) {
  const Tensor& first = **tensors.begin();
  for (const Tensor* tensor : tensors) {
    require_type(op, "operand", *tensor, DType::f32);
    require_same_shape(op, first, *tensor);
    require_same_device(op, first, *tensor);
    PARE_ASSERT(tensor->is_contiguous(), "[{}] view with gaps, {}", op, tensor->shape().text());
  }
}

// How the arguments of an optimizer name a mask.
struct MaskView {
  const uint8_t* kept = nullptr;
  int64_t columns = 0, row_bytes = 0;
};

MaskView view_of(std::string_view op, const Mask* mask, const Tensor& w) {
  if (mask == nullptr) return {};
  PARE_ASSERT(w.shape() == Shape({mask->out(), mask->in()}), "[{}] mask [{}, {}], weight {}", op, mask->out(),
              mask->in(), w.shape().text());
  PARE_ASSERT(mask->bits().device().is_host() == w.device().is_host(), "[{}] mask on {}, weight on {}", op,
              mask->bits().device().name(), w.device().name());
  return {mask->bits().data<uint8_t>(), mask->in(), mask->bits().size(1)};
}

// 1 - beta^step: in double, since beta^step is close to 1 for small steps
float bias_correction(float beta, int64_t step) {
  return float(1.0 - std::pow(double(beta), double(step)));
}

AdamWArgs adamw_args(const Tensor& w, const Tensor& m, const Tensor& v, const Tensor& gradient,
                     const Mask* mask, const AdamWStep& step) {
  require_parameters("adamw", {&w, &m, &v, &gradient});
  PARE_ASSERT(step.step >= 1, "[adamw] step {}", step.step);
  const MaskView view = view_of("adamw", mask, w);
  return {.w = w.mutable_data<float>(),
          .m = m.mutable_data<float>(),
          .v = v.mutable_data<float>(),
          .gradient = gradient.data<float>(),
          .kept = view.kept,
          .count = w.numel(),
          .columns = view.columns,
          .row_bytes = view.row_bytes,
          .gradient_scale = step.gradient_scale,
          .lr = step.lr,
          .beta1 = step.beta1,
          .beta2 = step.beta2,
          .eps = step.eps,
          .decay = step.decay,
          .correction1 = bias_correction(step.beta1, step.step),
          .correction2 = bias_correction(step.beta2, step.step)};
}

void check_grid(std::string_view op, const Tensor& weight, const Tensor& scales, const Tensor& zeros,
                int64_t group_width, CodeRange range) {
  PARE_ASSERT(weight.shape().rank() == 2, "[{}] weight {}", op, weight.shape().text());
  PARE_ASSERT(group_width > 0, "[{}] groups of {}", op, group_width);
  PARE_ASSERT(range.low < range.high, "[{}] codes {} to {}", op, range.low, range.high);
  const Shape grid{weight.size(0), (weight.size(1) + group_width - 1) / group_width};
  require_parameters(op, {&scales});
  PARE_ASSERT(scales.shape() == grid, "[{}] scales {} of {}", op, scales.shape().text(), grid.text());
  require_same_device(op, weight, scales);
  if (zeros.defined()) require_parameters(op, {&scales, &zeros});
}

}  // namespace

void adamw(Tensor& w, Tensor& m, Tensor& v, const Tensor& gradient, const Mask* mask, const AdamWStep& step) {
  const AdamWArgs args = adamw_args(w, m, v, gradient, mask, step);
  if (args.count > 0) trainer_for("adamw", w).adamw(args);
}

void adamw_list(std::span<const AdamWItem> items) {
  std::vector<AdamWArgs> list;
  list.reserve(items.size());
  for (const AdamWItem& item : items) {
    require_same_device("adamw_list", items[0].w, item.w);
    const AdamWArgs args = adamw_args(item.w, item.m, item.v, item.gradient, item.mask, item.step);
    if (args.count > 0) list.push_back(args);
  }
  if (!list.empty()) trainer_for("adamw_list", items[0].w).adamw_list(list);
}

void sgd(Tensor& w, Tensor& momentum, const Tensor& gradient, const Mask* mask, const SgdStep& step) {
  require_parameters("sgd", {&w, &gradient});
  if (momentum.defined()) require_parameters("sgd", {&w, &momentum});
  const MaskView view = view_of("sgd", mask, w);
  if (w.numel() == 0) return;
  trainer_for("sgd", w).sgd({.w = w.mutable_data<float>(),
                             .momentum = data_or_null(momentum),
                             .gradient = gradient.data<float>(),
                             .kept = view.kept,
                             .count = w.numel(),
                             .columns = view.columns,
                             .row_bytes = view.row_bytes,
                             .gradient_scale = step.gradient_scale,
                             .lr = step.lr,
                             .mu = step.momentum,
                             .decay = step.decay});
}

double sum_of_squares(const Tensor& x) {
  require_parameters("sum_of_squares", {&x});
  if (x.numel() == 0) return 0.0;
  return trainer_for("sum_of_squares", x).sum_of_squares(x.data<float>(), x.numel());
}

double sum_of_squares(std::span<const Tensor> tensors) {
  std::vector<SquaresArgs> list;
  list.reserve(tensors.size());
  for (const Tensor& x : tensors) {
    require_parameters("sum_of_squares", {&x});
    require_same_device("sum_of_squares", tensors[0], x);
    if (x.numel() > 0) list.push_back({x.data<float>(), x.numel()});
  }
  if (list.empty()) return 0.0;
  return trainer_for("sum_of_squares", tensors[0]).sum_of_squares_list(list);
}

void fake_quantize(const Tensor& weight, const Tensor& scales, const Tensor& zeros, int64_t group_width,
                   CodeRange range, Tensor& out) {
  require_parameters("fake_quantize", {&weight, &out});
  check_grid("fake_quantize", weight, scales, zeros, group_width, range);
  if (weight.numel() == 0) return;
  trainer_for("fake_quantize", weight)
      .fake_quantize({.weight = weight.data<float>(),
                      .scales = scales.data<float>(),
                      .zeros = data_or_null(zeros),
                      .out = out.mutable_data<float>(),
                      .rows = weight.size(0),
                      .columns = weight.size(1),
                      .group_width = group_width,
                      .low = range.low,
                      .high = range.high});
}

void fake_quantize_backward(const Tensor& weight, const Tensor& scales, const Tensor& zeros,
                            int64_t group_width, CodeRange range, float step_gradient, const Tensor& dout,
                            Tensor& dweight, Tensor& dscales) {
  require_parameters("fake_quantize_backward", {&weight, &dout, &dweight});
  check_grid("fake_quantize_backward", weight, scales, zeros, group_width, range);
  if (dscales.defined()) require_parameters("fake_quantize_backward", {&scales, &dscales});
  if (weight.numel() == 0) return;
  trainer_for("fake_quantize_backward", weight)
      .fake_quantize_backward({.weight = weight.data<float>(),
                               .scales = scales.data<float>(),
                               .zeros = data_or_null(zeros),
                               .dout = dout.data<float>(),
                               .dweight = dweight.mutable_data<float>(),
                               .dscales = data_or_null(dscales),
                               .rows = weight.size(0),
                               .columns = weight.size(1),
                               .group_width = group_width,
                               .low = range.low,
                               .high = range.high,
                               .step_gradient = step_gradient});
}

}  // namespace pare::ops
