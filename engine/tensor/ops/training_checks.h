// engine/tensor/ops/training_checks.h: what the ops of training ask beside checks.h.
#pragma once

#include <initializer_list>

#include "engine/tensor/ops/checks.h"
#include "engine/tensor/training_ops.h"

namespace pare::ops {

inline TrainingBackend& trainer_for(std::string_view op, const Tensor& x) {
  PARE_ASSERT(can_train(x.device()), "[{}] nothing trains on {}", op, x.device().name());
  return *backend_for(x.device()).training();
}

// f32 tensors of one shape on one device, at least one axis; rows may have gaps.
inline void require_alike(std::string_view op, std::initializer_list<const Tensor*> tensors) {
  const Tensor& first = **tensors.begin();
  for (const Tensor* tensor : tensors) {
    require_activations(op, "operand", *tensor);
    require_same_shape(op, first, *tensor);
    require_same_device(op, first, *tensor);
  }
}

// The gradient of a parameter: contiguous, or undefined where it is not wanted.
inline void require_parameter_gradient(std::string_view op, std::string_view name, const Tensor& gradient,
                                       const Tensor& x, int64_t count) {
  if (!gradient.defined()) return;
  require_vector(op, name, gradient, DType::f32, count);
  require_same_device(op, x, gradient);
}

inline float* data_or_null(Tensor& x) {
  return x.defined() ? x.mutable_data<float>() : nullptr;
}
inline const float* data_or_null(const Tensor& x) {
  return x.defined() ? x.data<float>() : nullptr;
}

}  // namespace pare::ops
