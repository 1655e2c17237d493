#include "engine/models/loader.h"

#include "engine/core/assert.h"
#include "engine/tensor/transfer.h"

namespace pare {

const TensorSpec* Loader::bias_of(const TensorSpec& spec) const {
  // A bias stands right behind its owner.
  const TensorSpec* next = &spec + 1;
  const TensorSpec* end = description_.tensors.data() + description_.tensors.size();
  return next != end && next->role == Role::bias && next->owner == spec.name ? next : nullptr;
}

Result<Tensor> Loader::floats(const TensorSpec& spec) const {
  PARE_TRY(const WeightData data, source_.load(spec.name));
  PARE_TRY(const Tensor stored, data.to_dense_tensor());
  PARE_TRY(const Tensor values, converted(stored, DType::f32));
  PARE_TRY(Tensor own, moved(values, device_));
  source_.release(spec.name);
  return own;
}

Result<Weight> Loader::weight(Role role, int block, WeightUse use, int expert) const {
  const TensorSpec* spec = description_.find(role, block, expert);
  PARE_ASSERT(spec != nullptr, "[models] no tensor of role {} in block {}", int(role), block);
  PARE_TRY(const WeightData data, source_.load(spec->name));
  if (training_ != nullptr) {
    PARE_TRY(std::shared_ptr<WeightTraining> training, make_weight_training(*spec, data, *training_));
    PARE_TRY(const Vector bias, vector(bias_of(*spec), Parameter::Kind::bias));
    // What is not trained is still asked for the gradient of its input, which takes values.
    if (training != nullptr) {
      if (!training->has_frozen) source_.release(spec->name);
      return Weight::make_trained(spec->name, std::move(training), bias.value, bias.gradient, device_);
    }
    WeightData values = data;
    if (!data.is_dense()) {
      PARE_TRY(values.form, data.to_dense_tensor());
    }
    PARE_TRY(Weight frozen, Weight::make(spec->name, values, spec->transposed, bias.value, device_, use));
    frozen.train_bias(bias.gradient);
    return frozen;
  }
  PARE_TRY(const Vector bias, vector(bias_of(*spec), Parameter::Kind::bias));
  PARE_TRY(Weight weight, Weight::make(spec->name, data, spec->transposed, bias.value, device_, use));
  if (weight.is_copy()) source_.release(spec->name);
  return weight;
}

Weight Loader::planned(Role role, int block, int expert) const {
  const TensorSpec* spec = description_.find(role, block, expert);
  PARE_ASSERT(spec != nullptr, "[models] no tensor of role {} in block {}", int(role), block);
  const StoredTensor* stored = source_.find(spec->name);
  return Weight::planned(*stored, spec->out(), spec->in(), device_);
}

Result<Loader::Vector> Loader::vector(const TensorSpec* spec, Parameter::Kind kind) const {
  if (spec == nullptr) return Vector{};
  PARE_TRY(const Tensor value, floats(*spec));
  if (training_ == nullptr) return Vector{.value = value, .gradient = {}};
  PARE_TRY(const std::shared_ptr<Parameter> parameter,
           make_vector_training(spec->name, kind, value, *training_));
  if (parameter == nullptr) return Vector{.value = value, .gradient = {}};
  return Vector{.value = parameter->value, .gradient = parameter->gradient};
}

Result<Norm> Loader::norm(Role gain, std::optional<Role> bias, int block) const {
  Norm norm{.kind = description_.config.norm,
            .eps = float(description_.config.norm_eps),
            .gain = {},
            .bias = {},
            .dgain = {},
            .dbias = {}};
  PARE_TRY(const Vector gains, vector(description_.find(gain, block), Parameter::Kind::norm));
  PARE_TRY(const Vector biases,
           vector(bias ? description_.find(*bias, block) : nullptr, Parameter::Kind::norm));
  norm.gain = gains.value;
  norm.dgain = gains.gradient;
  norm.bias = biases.value;
  norm.dbias = biases.gradient;
  return norm;
}

void Loader::release(int block) const {
  for (const TensorSpec& spec : description_.tensors)
    if (spec.block == block) source_.release(spec.name);
}

}  // namespace pare
