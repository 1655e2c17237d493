#include "distill/input_rounding.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "engine/core/text.h"
#include "engine/tensor/training_ops.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

constexpr float kSmallestScale = 1e-8f;

}  // namespace

Result<InputRounding> InputRounding::make(const std::string& name, const ActivationQuant& activation,
                                          int64_t in, Device device) {
  PARE_ASSERT(in >= 0, "[input_rounding] {} columns", in);
  PARE_CHECK(activation.validate({}, quote(name)));
  InputRounding rounding;
  rounding.name_ = name;
  rounding.activation_ = activation;
  if (activation.mode != ActivationQuant::Mode::static_tensor) return rounding;
  PARE_TRY(Tensor value, Tensor::allocate(DType::f32, {1, 1}));
  value.mutable_data<float>()[0] = std::max(activation.scale, kSmallestScale);
  PARE_TRY(value, moved(value, device));
  PARE_TRY(rounding.step_, Parameter::make(name + ":input_scale", Parameter::Kind::step, std::move(value)));
  return rounding;
}

Status InputRounding::keep_positive() {
  if (step_ == nullptr) return {};
  if (!step_->value.device().is_host()) {
    ops::bound_steps(kSmallestScale, FLT_MAX, DType::f32, step_->value, step_->value);
    return {};
  }
  float& scale = step_->value.mutable_data<float>()[0];
  if (!std::isfinite(scale)) {
    return Error{
        .exit = Exit::numeric, .where = quote(name_), .what = "the step of the inputs is not finite"};
  }
  scale = std::max(scale, kSmallestScale);
  return {};
}

Result<ActivationQuant> InputRounding::current() const {
  ActivationQuant activation = activation_;
  if (step_ == nullptr) return activation;
  const Device device = step_->value.device();
  PARE_TRY(const Tensor here, moved(step_->value, device.is_host() ? device : Device::cpu()));
  activation.scale = here.data<float>()[0];
  return activation;
}

void InputRounding::forward(const Tensor& x, Tensor& out) const {
  ops::round_inputs(x, activation_, step_ != nullptr ? step_->value : Tensor(), out);
}

void InputRounding::backward(const Tensor& x, Tensor& dx) const {
  if (step_ == nullptr) return;
  const double share = 1.0 / std::sqrt(double(x.size(-1)) * double(activation_.highest_code()));
  ops::round_inputs_backward(x, activation_, step_->value, share, dx, step_->gradient);
}

}  // namespace pare
