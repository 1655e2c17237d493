#include "calibrate/step.h"
#include "engine/core/text.h"

namespace pare {

std::vector<const TensorSpec*> BlockEdit::linears(Site site, int expert) const {
  std::vector<const TensorSpec*> found;
  for (const TensorSpec& spec : description().tensors)
    if (spec.block == index_ && spec.is_linear && spec.site == site && (expert < 0 || spec.expert == expert))
      found.push_back(&spec);
  return found;
}

const TensorSpec* BlockEdit::bias_of(const TensorSpec& linear) const {
  for (const TensorSpec& spec : description().tensors)
    if (spec.role == Role::bias && spec.owner == linear.name) return &spec;
  return nullptr;
}

Result<Tensor> float_values(const WeightSource& source, const TensorSpec& spec) {
  PARE_TRY(const WeightData data, source.load(spec.name));
  const StoredTensor stored = data.described(spec.name);
  if (stored.scheme)
    return Error{.exit = Exit::unsupported,
                 .rule = "CF12",
                 .path = source.path(),
                 .where = quote(spec.name),
                 .what = "already quantized; export to dense weights first, or exclude it",
                 .got = stored.form_text(),
                 .limit = {}};
  PARE_TRY(Tensor dense, data.to_dense_tensor());
  PARE_TRY(Tensor floats, converted(dense, DType::f32));
  if (!spec.transposed) return floats;
  return transposed(floats);
}

Result<Tensor> BlockEdit::values(const TensorSpec& spec) const {
  return float_values(source_, spec);
}

Status BlockEdit::replace(const TensorSpec& spec, const Tensor& values, DType dtype) {
  Tensor stored = values;
  if (spec.transposed) {
    PARE_TRY(stored, transposed(stored));
  }
  PARE_TRY(stored, converted(stored, dtype));
  source_.set(spec.name, WeightData{.form = stored});
  return reload(spec);
}

Status BlockEdit::replace(const TensorSpec& spec, std::shared_ptr<const QuantizedTensor> quantized) {
  return replace(spec, WeightData{.form = std::move(quantized)});
}

Status BlockEdit::replace(const TensorSpec& spec, WeightData data) {
  data.transposed = !data.is_dense() && spec.transposed;
  source_.set(spec.name, std::move(data));
  return reload(spec);
}

Status BlockEdit::reload(const TensorSpec& spec) {
  switch (spec.role) {
    case Role::bias: {
      const TensorSpec* owner = description().find(spec.owner);
      PARE_ASSERT(owner != nullptr, "[block_edit] bias {} without a linear", spec.name);
      return model_.reload(index_, owner->role, owner->expert);
    }
    case Role::input_norm_bias:
      return model_.reload(index_, Role::input_norm);
    case Role::post_attention_norm_bias:
      return model_.reload(index_, Role::post_attention_norm);
    default:
      return model_.reload(index_, spec.role, spec.expert);
  }
}

}  // namespace pare
