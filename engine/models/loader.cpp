#include "engine/models/loader.h"

#include "engine/core/assert.h"

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
  source_.release(spec.name);
  return values.on(device_);
}

Result<Weight> Loader::weight(Role role, int block, WeightUse use, int expert) const {
  const TensorSpec* spec = description_.find(role, block, expert);
  PARE_ASSERT(spec != nullptr, "[models] no tensor of role {} in block {}", int(role), block);
  Tensor bias;
  if (const TensorSpec* bias_spec = bias_of(*spec)) {
    PARE_TRY(bias, floats(*bias_spec));
  }
  PARE_TRY(const WeightData data, source_.load(spec->name));
  PARE_TRY(Weight weight, Weight::make(spec->name, data, spec->transposed, std::move(bias), device_, use));
  if (weight.is_copy()) source_.release(spec->name);
  return weight;
}

Weight Loader::planned(Role role, int block, int expert) const {
  const TensorSpec* spec = description_.find(role, block, expert);
  PARE_ASSERT(spec != nullptr, "[models] no tensor of role {} in block {}", int(role), block);
  const StoredTensor* stored = source_.find(spec->name);
  return Weight::planned(*stored, spec->out(), spec->in(), device_);
}

Result<Tensor> Loader::vector(Role role, int block) const {
  const TensorSpec* spec = description_.find(role, block);
  if (spec == nullptr) return Tensor();
  return floats(*spec);
}

Result<Norm> Loader::norm(Role gain, Role bias, int block) const {
  Norm norm{
      .kind = description_.config.norm, .eps = float(description_.config.norm_eps), .gain = {}, .bias = {}};
  PARE_TRY(norm.gain, vector(gain, block));
  PARE_TRY(norm.bias, vector(bias, block));
  return norm;
}

void Loader::release(int block) const {
  for (const TensorSpec& spec : description_.tensors)
    if (spec.block == block) source_.release(spec.name);
}

}  // namespace pare
