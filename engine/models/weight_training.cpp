#include "engine/models/weight_training.h"

#include <fmt/core.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "engine/core/assert.h"
#include "engine/core/random.h"
#include "engine/tensor/training_ops.h"
#include "engine/tensor/transfer.h"

namespace pare {
namespace {

// The kept weights of a matrix that has zeros; null when it has none.
Result<std::shared_ptr<const Mask>> mask_of_zeros(const Tensor& matrix) {
  PARE_TRY(Mask mask, Mask::all_kept(matrix.size(0), matrix.size(1)));
  bool has_zeros = false;
  const float* values = matrix.data<float>();
  for (int64_t row = 0; row < matrix.size(0); ++row) {
    for (int64_t column = 0; column < matrix.size(1); ++column) {
      if (values[row * matrix.size(1) + column] != 0.0f) continue;
      mask.set(row, column, false);
      has_zeros = true;
    }
  }
  if (!has_zeros) return std::shared_ptr<const Mask>();
  return std::shared_ptr<const Mask>(std::make_shared<Mask>(std::move(mask)));
}

// What is stored lies in host memory: the tensor itself there, a copy of one on a GPU.
Result<Tensor> host_copy(const Tensor& tensor) {
  return moved(tensor, tensor.device().is_host() ? tensor.device() : Device::cpu());
}

Error codes_error(const TensorSpec& spec, const WeightData& data) {
  return Error{.exit = Exit::unsupported,
               .rule = {},
               .path = {},
               .where = spec.name,
               .what = "codes cannot be trained; train the float model, or with --qat",
               .got = data.described(spec.name).form_text(),
               .limit = {}};
}

// A copy in f32 that training may change, in the layout of the model; in host memory.
Result<Tensor> master_of(const Tensor& stored, bool transposed) {
  if (transposed) {
    PARE_TRY(const Tensor turned, pare::transposed(stored));
    return converted(turned, DType::f32);
  }
  PARE_TRY(Tensor master, Tensor::allocate(DType::f32, stored.shape()));
  PARE_TRY(const Tensor values, converted(stored, DType::f32));
  std::memcpy(master.mutable_raw(), values.raw(), values.size_bytes());
  return master;
}

// Uniform in +-1 / sqrt(in), as the reference implementation of LoRA starts its first factor (He with slope
// sqrt 5).
Result<Tensor> adapter_start(const std::string& name, int64_t rank, int64_t in, const TrainingSet& set) {
  PARE_TRY(Tensor factor, Tensor::allocate(DType::f32, {rank, in}));
  const Random random(set.form.seed, RandomPurpose::initialisation, name);
  const float bound = float(std::sqrt(1.0 / double(in)));
  for (int64_t i = 0; i < factor.numel(); ++i)
    factor.mutable_data<float>()[i] = bound * (2.0f * random.uniform(uint64_t(i)) - 1.0f);
  return moved(factor, set.device);
}

Status add_adapter(const TensorSpec& spec, const WeightData& data, TrainingSet& set,
                   WeightTraining& training) {
  const int64_t rank = set.form.lora_rank;
  training.is_adapter = true;
  training.adapter_scale = set.form.lora_alpha / float(rank);
  if (data.is_dense()) {
    Tensor base = data.dense();
    if (spec.transposed) {
      PARE_TRY(base, pare::transposed(base));
    }
    PARE_TRY(training.frozen.form, moved(base, set.device));
  } else {
    // The gradient of the input needs values, whatever the form.
    PARE_TRY(Tensor base, data.to_dense_tensor());
    if (data.transposed) {
      PARE_TRY(base, pare::transposed(base));
    }
    PARE_TRY(training.frozen.form, moved(base, set.device));
  }
  training.has_frozen = true;
  PARE_TRY(Tensor left, Tensor::allocate(DType::f32, {spec.out(), rank}, set.device));
  PARE_TRY(Tensor right, adapter_start(spec.name, rank, spec.in(), set));
  PARE_TRY(training.left, Parameter::make(spec.name + ":left", Parameter::Kind::adapter, std::move(left)));
  PARE_TRY(training.right, Parameter::make(spec.name + ":right", Parameter::Kind::adapter, std::move(right)));
  PARE_TRY(training.scaled_right, Tensor::allocate(DType::f32, {rank, spec.in()}, set.device));
  set.parameters.push_back(training.left);
  set.parameters.push_back(training.right);
  return training.refresh();
}

Status add_factors(const TensorSpec& spec, const LowRankTensor& tensor, TrainingSet& set,
                   WeightTraining& training) {
  PARE_TRY(const Tensor left_values, master_of(tensor.left, false));
  PARE_TRY(const Tensor right_values, master_of(tensor.right, false));
  PARE_TRY(Tensor left, moved(left_values, set.device));
  PARE_TRY(Tensor right, moved(right_values, set.device));
  PARE_TRY(training.left, Parameter::make(spec.name + ":left", Parameter::Kind::adapter, std::move(left)));
  PARE_TRY(training.right, Parameter::make(spec.name + ":right", Parameter::Kind::adapter, std::move(right)));
  if (tensor.has_base()) {
    if (const auto* dense = tensor.dense_base()) training.frozen.form = *dense;
    if (const auto* codes = std::get_if<std::shared_ptr<const QuantizedTensor>>(&tensor.base))
      training.frozen.form = *codes;
    if (const auto* sparse = std::get_if<std::shared_ptr<const SparseTensor>>(&tensor.base))
      training.frozen.form = *sparse;
    training.has_frozen = true;
  }
  set.parameters.push_back(training.left);
  set.parameters.push_back(training.right);
  return {};
}

}  // namespace

Result<std::shared_ptr<Parameter>> Parameter::make(std::string name, Kind kind, Tensor value) {
  auto parameter = std::make_shared<Parameter>();
  parameter->name = std::move(name);
  parameter->kind = kind;
  PARE_TRY(parameter->gradient, Tensor::allocate(DType::f32, value.shape(), value.device()));
  parameter->value = std::move(value);
  return parameter;
}

void WeightTransform::forward_inputs(const Tensor&, Tensor&) const {
  PARE_ASSERT(false, "[training] this transform leaves inputs as they are");
}
void WeightTransform::backward_inputs(const Tensor&, Tensor&) const {
  PARE_ASSERT(false, "[training] this transform leaves inputs as they are");
}

Status WeightTraining::refresh() {
  if (is_adapter) ops::scale(right->value, adapter_scale, scaled_right);
  if (matrix == nullptr || !working.defined()) return {};
  Tensor& values = transform != nullptr ? (effective.defined() ? effective : working) : matrix->value;
  if (transform != nullptr) PARE_CHECK(transform->forward(matrix->value, values));
  if (working.dtype() != DType::f32) ops::round_into(values, working);
  return {};
}

void WeightTraining::finish_gradients() {
  if (is_adapter) {
    // The product's gradient went to that of scale * right.
    ops::scale(right->gradient, adapter_scale, right->gradient);
  }
  if (transform == nullptr) return;
  transform->backward(matrix->value, gradient, matrix->gradient);
}

void WeightTraining::clear_gradients() {
  for (const auto& parameter : {matrix, left, right, bias})
    if (parameter != nullptr) clear(parameter->gradient);
  if (transform == nullptr) return;
  for (const auto& parameter : transform->parameters()) clear(parameter->gradient);
}

Result<WeightData> WeightTraining::stored() const {
  if (transform != nullptr) {
    PARE_TRY(WeightData data, transform->stored(matrix->value));
    data.transposed = transposed;
    return data;
  }
  WeightData data;
  if (!is_factored()) {
    PARE_TRY(Tensor values, host_copy(matrix->value));
    if (transposed) {
      PARE_TRY(values, pare::transposed(values));
    }
    data.form = values;
    return data;
  }
  LowRankTensor tensor;
  tensor.shape = {left->value.size(0), right->value.size(1)};
  PARE_TRY(tensor.left, host_copy(left->value));
  PARE_TRY(tensor.right, host_copy(is_adapter ? scaled_right : right->value));
  if (has_frozen) {
    if (frozen.is_dense()) {
      PARE_TRY(tensor.base, host_copy(frozen.dense()));
    }
    if (frozen.is_quantized()) tensor.base = frozen.quantized();
    if (frozen.is_sparse()) tensor.base = frozen.sparse();
  }
  if (!is_adapter) {
    data.form = std::make_shared<const LowRankTensor>(std::move(tensor));
    data.transposed = transposed;
    return data;
  }
  PARE_TRY(Tensor merged, tensor.to_dense());
  if (transposed) {
    PARE_TRY(merged, pare::transposed(merged));
  }
  data.form = merged;
  return data;
}

uint64_t WeightTraining::size_bytes() const {
  uint64_t bytes = 0;
  const auto add = [&](const Tensor& tensor) {
    if (tensor.defined()) bytes += tensor.size_bytes();
  };
  for (const auto& parameter : {matrix, left, right, bias}) {
    if (parameter == nullptr) continue;
    add(parameter->value);
    add(parameter->gradient);
  }
  if (matrix != nullptr && working.defined() && working.storage() != matrix->value.storage()) add(working);
  add(effective);
  add(scaled_right);
  if (has_frozen && frozen.is_dense()) add(frozen.dense());
  return bytes;
}

Result<std::shared_ptr<WeightTraining>> make_weight_training(const TensorSpec& spec, const WeightData& data,
                                                             TrainingSet& set) {
  const TrainingForm& form = set.form;
  const bool in_block = spec.is_linear;
  if (form.trains ? !form.trains(spec.name)
                  : (in_block ? !form.train_matrices && form.lora_rank == 0 : !form.train_embeddings))
    return std::shared_ptr<WeightTraining>();
  auto training = std::make_shared<WeightTraining>();
  training->transposed = spec.transposed;
  set.matrices[spec.name] = training;
  if (in_block && form.lora_rank > 0) {
    PARE_CHECK(add_adapter(spec, data, set, *training));
    return training;
  }
  if (data.is_low_rank()) {
    PARE_CHECK(add_factors(spec, *data.low_rank(), set, *training));
    return training;
  }
  if (data.is_quantized() || (data.is_sparse() && data.sparse()->has_codes())) return codes_error(spec, data);
  PARE_TRY(const Tensor stored, data.to_dense_tensor());
  PARE_TRY(const Tensor values, master_of(stored, spec.transposed));
  PARE_TRY(Tensor master, moved(values, set.device));
  const Parameter::Kind kind =
      in_block || spec.role == Role::router ? Parameter::Kind::matrix : Parameter::Kind::embedding;
  PARE_TRY(training->matrix, Parameter::make(spec.name, kind, std::move(master)));
  set.parameters.push_back(training->matrix);
  if (in_block && (form.keep_zeros || data.is_sparse())) {
    PARE_TRY(training->matrix->mask, mask_of_zeros(values));
  }
  training->gradient = training->matrix->gradient;
  training->working = training->matrix->value;
  if (in_block && form.transform) {
    PARE_TRY(training->transform, form.transform(spec.name, training->matrix->value));
  }
  const Shape shape = training->matrix->value.shape();
  if (training->transform != nullptr) {
    for (const auto& own : training->transform->parameters()) set.parameters.push_back(own);
    if (form.compute != DType::f32) {
      PARE_TRY(training->effective, Tensor::allocate(DType::f32, shape, set.device));
    }
  }
  if (training->transform != nullptr || form.compute != DType::f32) {
    PARE_TRY(training->working, Tensor::allocate(form.compute, shape, set.device));
  }
  PARE_CHECK(training->refresh());
  return training;
}

Result<std::shared_ptr<Parameter>> make_vector_training(const std::string& name, Parameter::Kind kind,
                                                        const Tensor& value, TrainingSet& set) {
  PARE_TRY(Tensor master, Tensor::allocate(DType::f32, value.shape(), value.device()));
  PARE_CHECK(copy_into(value, master));
  PARE_TRY(std::shared_ptr<Parameter> parameter, Parameter::make(name, kind, std::move(master)));
  if (set.form.trains ? !set.form.trains(name) : !set.form.train_norms) return std::shared_ptr<Parameter>();
  set.parameters.push_back(parameter);
  set.vectors[name] = parameter;
  return parameter;
}

}  // namespace pare
