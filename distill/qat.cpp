#include "distill/qat.h"

#include <algorithm>
#include <atomic>
#include <cfloat>
#include <cmath>
#include <utility>
#include <vector>

#include "distill/input_rounding.h"
#include "distill/parameter_pieces.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/float_formats.h"
#include "engine/tensor/integer_product.h"
#include "engine/tensor/training_ops.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

using Granularity = QuantScheme::Granularity;

constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: rounds what is added to it to a whole number

class FakeQuantizer final : public WeightTransform {
 public:
  static Result<std::unique_ptr<WeightTransform>> make(const std::string& name, const Tensor& master,
                                                       StepGrid grid, const QatOptions& options);

  Status forward(const Tensor& master, Tensor& effective) override;
  void backward(const Tensor& master, const Tensor& deffective, Tensor& dmaster) override;
  ParameterList parameters() const override;
  bool changes_inputs() const override { return inputs_.has_value(); }
  void forward_inputs(const Tensor& x, Tensor& out) const override { inputs_->forward(x, out); }
  void backward_inputs(const Tensor& x, Tensor& dx) const override { inputs_->backward(x, dx); }
  Result<WeightData> stored(const Tensor& master) const override;

 private:
  bool has_one_step() const { return scheme_.granularity == Granularity::tensor; }
  int64_t out() const { return scales_.size(0); }
  int64_t groups() const { return scales_.size(1); }
  float zero(int64_t group) const {
    return host_zeros_.defined() && group < host_zeros_.numel() ? host_zeros_.data<float>()[group] : 0.0f;
  }
  Status refresh_scales();
  // Codes as they are stored, of one row.
  void encode_row(const float* weights, const float* steps, int64_t row, uint8_t* codes) const;

  std::string name_;
  QuantScheme scheme_;
  ops::CodeRange range_;
  int64_t in_ = 0, group_width_ = 1;
  bool learns_steps_ = true;
  float step_gradient_ = 1.0f;
  std::shared_ptr<Parameter> steps_;
  Tensor scales_;  // f32 [out, groups]: the steps as they are stored
  Tensor zeros_;   // the same, or undefined
  Tensor host_zeros_;
  Tensor dscales_;  // f32 [out, 1]: with one step for all rows, their shares of its gradient
  std::optional<InputRounding> inputs_;
};

Error step_not_finite(const std::string& name) {
  return Error{.exit = Exit::numeric, .where = quote(name), .what = "a step of the grid is not finite"};
}

// [rows, groups] of a grid of one element, in host memory.
Result<Tensor> expanded(const Tensor& one, int64_t rows) {
  PARE_TRY(Tensor all, Tensor::allocate(DType::f32, {rows, 1}, one.device()));
  std::fill_n(all.mutable_data<float>(), rows, one.data<float>()[0]);
  return all;
}

Result<std::unique_ptr<WeightTransform>> FakeQuantizer::make(const std::string& name, const Tensor& master,
                                                             StepGrid grid, const QatOptions& options) {
  auto quantizer = std::make_unique<FakeQuantizer>();
  FakeQuantizer& self = *quantizer;
  self.name_ = name;
  self.scheme_ = options.scheme;
  self.range_ = code_range(options.scheme);
  self.in_ = master.size(1);
  self.group_width_ = std::max<int64_t>(1, options.scheme.group_width(self.in_));
  self.learns_steps_ = options.learns_steps;
  const int64_t sharing = self.has_one_step() ? master.numel() : std::min(self.group_width_, self.in_);
  self.step_gradient_ =
      float(1.0 / std::sqrt(double(std::max<int64_t>(1, sharing)) * double(self.range_.high)));
  const Device device = master.device();
  self.host_zeros_ = grid.zeros;
  if (self.has_one_step()) {
    PARE_TRY(self.scales_, Tensor::allocate(DType::f32, {master.size(0), 1}, device));
    PARE_TRY(self.dscales_, Tensor::allocate(DType::f32, {master.size(0), 1}, device));
    if (grid.zeros.defined()) {
      PARE_TRY(self.host_zeros_, expanded(grid.zeros, master.size(0)));
    }
  } else {
    PARE_TRY(self.scales_, Tensor::allocate(DType::f32, grid.scales.shape(), device));
  }
  PARE_TRY(self.zeros_, moved(self.host_zeros_, device));
  PARE_TRY(Tensor steps, moved(grid.scales, device));
  PARE_TRY(self.steps_, Parameter::make(name + ":scales", Parameter::Kind::step, std::move(steps)));
  if (options.activation) {
    PARE_CHECK(check_integer_product(options.scheme, *options.activation, /*has_group_index=*/false));
    PARE_TRY(InputRounding rounding, InputRounding::make(name, *options.activation, self.in_, device));
    self.inputs_ = std::move(rounding);
  }
  PARE_CHECK(self.refresh_scales());
  return std::unique_ptr<WeightTransform>(std::move(quantizer));
}

// The steps themselves are brought back into what can be stored: one that left it would have to come back as
// far. On a GPU nothing is read back: a step that is not finite makes the next loss NaN, which ends the run.
Status FakeQuantizer::refresh_scales() {
  if (!scales_.device().is_host()) {
    ops::bound_steps(bounded_step(scheme_.scale_dtype, 0.0f), bounded_step(scheme_.scale_dtype, FLT_MAX),
                     scheme_.scale_dtype, steps_->value, scales_);
    return {};
  }
  float* steps = steps_->value.mutable_data<float>();
  float* scales = scales_.mutable_data<float>();
  std::atomic<bool> is_finite = true;
  parallel_ranges(steps_->value.numel(), /*grain=*/4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (!std::isfinite(steps[i])) is_finite = false;
      steps[i] = bounded_step(scheme_.scale_dtype, steps[i]);
      if (!has_one_step()) scales[i] = stored_step(scheme_.scale_dtype, steps[i]);
    }
  });
  if (!is_finite) return step_not_finite(name_);
  if (has_one_step()) std::fill_n(scales, out(), stored_step(scheme_.scale_dtype, steps[0]));
  return {};
}

Status FakeQuantizer::forward(const Tensor& master, Tensor& effective) {
  PARE_CHECK(refresh_scales());
  if (inputs_) {
    PARE_CHECK(inputs_->keep_positive());
  }
  ops::fake_quantize(master, scales_, zeros_, group_width_, range_, effective);
  return {};
}

void FakeQuantizer::backward(const Tensor& master, const Tensor& deffective, Tensor& dmaster) {
  Tensor dscales;
  if (learns_steps_) dscales = has_one_step() ? dscales_ : steps_->gradient;
  if (learns_steps_ && has_one_step()) clear(dscales);
  ops::fake_quantize_backward(master, scales_, zeros_, group_width_, range_, step_gradient_, deffective,
                              dmaster, dscales);
  if (!learns_steps_ || !has_one_step()) return;
  if (!dscales.device().is_host()) {
    Tensor all = steps_->gradient.reshaped({1});
    ops::column_sums(dscales, all);
    return;
  }
  double sum = 0.0;
  for (int64_t row = 0; row < out(); ++row) sum += double(dscales.data<float>()[row]);
  float& gradient = steps_->gradient.mutable_data<float>()[0];
  gradient = float(double(gradient) + sum);
}

ParameterList FakeQuantizer::parameters() const {
  ParameterList list;
  if (!learns_steps_) return list;
  list.push_back(steps_);
  if (inputs_ && inputs_->step() != nullptr) list.push_back(inputs_->step());
  return list;
}

// The arithmetic of ops::fake_quantize, in the same order.
void FakeQuantizer::encode_row(const float* weights, const float* steps, int64_t row, uint8_t* codes) const {
  const float shift = scheme_.is_symmetric() ? float(scheme_.symmetric_zero_point()) : 0.0f;
  for (int64_t g = 0; g < groups(); ++g) {
    const int64_t group = row * groups() + g, begin = g * group_width_;
    const int64_t end = std::min(in_, begin + group_width_);
    const float step = steps[has_one_step() ? 0 : group];
    const float scale = stored_step(scheme_.scale_dtype, step), zero_code = zero(group);
    for (int64_t column = begin; column < end; ++column) {
      // Bounded before it is rounded, which gives the same code and lets the sum round to a whole number.
      const float bounded =
          std::clamp(weights[column] / scale, range_.low - zero_code - 1.0f, range_.high - zero_code + 1.0f);
      const float code = ((bounded + kMagic) - kMagic) + zero_code;
      codes[column] = uint8_t(std::clamp(code, range_.low, range_.high) + shift);
    }
  }
}

Result<WeightData> FakeQuantizer::stored(const Tensor& master) const {
  PARE_ASSERT(master.shape() == Shape({out(), in_}), "[qat] {} is {}", name_, master.shape().text());
  PARE_TRY(const Tensor weights, in_host_memory(master));
  PARE_TRY(const Tensor steps, in_host_memory(steps_->value));
  for (int64_t i = 0; i < weights.numel(); ++i) {
    if (!std::isfinite(weights.data<float>()[i]))
      return Error{.exit = Exit::numeric, .where = quote(name_), .what = "a weight is not finite"};
  }
  for (int64_t i = 0; i < steps.numel(); ++i) {
    if (!std::isfinite(steps.data<float>()[i])) return step_not_finite(name_);
  }
  PARE_TRY(QuantizedTensor tensor, QuantizedTensor::allocate(scheme_, out(), in_));
  for (int64_t i = 0; i < tensor.scales.numel(); ++i) {
    const float scale = stored_step(scheme_.scale_dtype, steps.data<float>()[i]);
    if (scheme_.scale_dtype == DType::f32) {
      tensor.scales.mutable_data<float>()[i] = scale;
    } else {
      tensor.scales.mutable_data<uint16_t>()[i] =
          scheme_.scale_dtype == DType::f16 ? float_to_f16(scale) : float_to_bf16(scale);
    }
    if (tensor.zero_points.defined()) tensor.zero_points.mutable_data<uint8_t>()[i] = uint8_t(zero(i));
  }
  parallel_ranges(out(), /*grain=*/16, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> codes(static_cast<size_t>(in_));
    for (int64_t row = begin; row < end; ++row) {
      encode_row(weights.data<float>() + row * in_, steps.data<float>(), row, codes.data());
      pack_codes(codes.data(), in_, scheme_.bits,
                 tensor.codes.mutable_data<uint8_t>() + row * scheme_.row_bytes(in_));
    }
  });
  if (inputs_) {
    PARE_TRY(tensor.activation, inputs_->current());
  }
  PARE_CHECK(tensor.validate({}, name_));
  return WeightData{.form = std::make_shared<const QuantizedTensor>(std::move(tensor))};
}

void check_master(const std::string& name, const Tensor& master) {
  PARE_ASSERT(master.defined() && master.dtype() == DType::f32 && master.shape().rank() == 2 &&
                  master.is_contiguous(),
              "[qat] {} is not a matrix of floats", name);
}

}  // namespace

Result<std::unique_ptr<WeightTransform>> make_fake_quantizer(const std::string& name, const Tensor& master,
                                                             const QatOptions& options) {
  check_master(name, master);
  PARE_TRY(const Tensor values, in_host_memory(master));
  PARE_TRY(StepGrid grid, initial_steps(values, options.scheme, options.step_init, name));
  return FakeQuantizer::make(name, master, std::move(grid), options);
}

Result<std::unique_ptr<WeightTransform>> make_fake_quantizer(const std::string& name, const Tensor& master,
                                                             const QuantizedTensor& codes,
                                                             const QatOptions& options) {
  check_master(name, master);
  PARE_CHECK(check_learnable(codes.scheme, name));
  if (codes.group_index.defined()) {
    return Error{.exit = Exit::unsupported,
                 .rule = "RC14",
                 .where = quote(name),
                 .what = "groups in another order of columns are not trained; quantize without act-order",
                 .got = codes.scheme.text()};
  }
  PARE_ASSERT(master.shape() == codes.shape, "[qat] {} is {}, its codes {}", name, master.shape().text(),
              codes.shape.text());
  PARE_CHECK(codes.validate_grid({}, name));
  QatOptions own = options;
  own.scheme = codes.scheme;
  if (!own.activation) own.activation = codes.activation;
  StepGrid grid;
  PARE_TRY(grid.scales, converted(codes.scales, DType::f32));
  if (codes.zero_points.defined()) {
    PARE_TRY(grid.zeros, Tensor::allocate(DType::f32, codes.zero_points.shape()));
    for (int64_t i = 0; i < grid.zeros.numel(); ++i)
      grid.zeros.mutable_data<float>()[i] = float(codes.zero_points.data<uint8_t>()[i]);
  }
  return FakeQuantizer::make(name, master, std::move(grid), own);
}

}  // namespace pare
