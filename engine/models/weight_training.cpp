#include "engine/models/weight_training.h"

#include <fmt/core.h>

#include <cmath>
#include <cstring>
#include <utility>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/core/random.h"

namespace pare {
namespace {

constexpr int64_t kPiece = 16'384;  // elements

// values becomes to[i] = factor * from[i]
void scale_into(const Tensor& from, float factor, Tensor& to) {
  const float* source = from.data<float>();
  float* target = to.mutable_data<float>();
  parallel_ranges(from.numel(), kPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) target[i] = factor * source[i];
  });
}

void fill_zero(Tensor& tensor) {
  if (tensor.defined()) std::memset(tensor.mutable_raw(), 0, tensor.size_bytes());
}

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

Error codes_error(const TensorSpec& spec, const WeightData& data) {
  return Error{.exit = Exit::unsupported,
               .rule = {},
               .path = {},
               .where = spec.name,
               .what = "codes cannot be trained; train the float model, or with --qat",
               .got = data.described(spec.name).form_text(),
               .limit = {}};
}

// A copy in f32 that training may change, in the layout of the model.
Result<Tensor> master_of(const Tensor& stored, bool transposed, Device device) {
  if (transposed) {
    PARE_TRY(const Tensor turned, pare::transposed(stored));
    PARE_TRY(const Tensor values, converted(turned, DType::f32));
    return values.on(device);
  }
  PARE_TRY(Tensor master, Tensor::allocate(DType::f32, stored.shape()));
  PARE_TRY(const Tensor values, converted(stored, DType::f32));
  std::memcpy(master.mutable_raw(), values.raw(), values.size_bytes());
  return master.on(device);
}

// Uniform in +-1 / sqrt(in), as the reference implementation of LoRA starts its first factor (He with slope
// sqrt 5).
Result<Tensor> adapter_start(const std::string& name, int64_t rank, int64_t in, const TrainingSet& set) {
  PARE_TRY(Tensor factor, Tensor::allocate(DType::f32, {rank, in}, set.device));
  const Random random(set.form.seed, RandomPurpose::initialisation, name);
  const float bound = float(std::sqrt(1.0 / double(in)));
  for (int64_t i = 0; i < factor.numel(); ++i)
    factor.mutable_data<float>()[i] = bound * (2.0f * random.uniform(uint64_t(i)) - 1.0f);
  return factor;
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
    training.frozen.form = base.on(set.device);
  } else {
    // The gradient of the input needs values, whatever the form.
    PARE_TRY(const Tensor base, data.to_dense_tensor());
    if (data.transposed) {
      PARE_TRY(Tensor turned, pare::transposed(base));
      training.frozen.form = turned.on(set.device);
    } else {
      training.frozen.form = base.on(set.device);
    }
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
  PARE_TRY(Tensor left, master_of(tensor.left, false, set.device));
  PARE_TRY(Tensor right, master_of(tensor.right, false, set.device));
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
  if (is_adapter) scale_into(right->value, adapter_scale, scaled_right);
  if (matrix == nullptr || !working.defined()) return {};
  Tensor& values = transform != nullptr ? (effective.defined() ? effective : working) : matrix->value;
  if (transform != nullptr) PARE_CHECK(transform->forward(matrix->value, values));
  if (working.dtype() != DType::f32) convert_into(values, working);
  return {};
}

void WeightTraining::finish_gradients() {
  if (is_adapter) {
    // The product's gradient went to that of scale * right.
    scale_into(right->gradient, adapter_scale, right->gradient);
  }
  if (transform == nullptr) return;
  transform->backward(matrix->value, gradient, matrix->gradient);
}

void WeightTraining::clear_gradients() {
  for (const auto& parameter : {matrix, left, right, bias})
    if (parameter != nullptr) fill_zero(parameter->gradient);
  if (transform == nullptr) return;
  for (const auto& parameter : transform->parameters()) fill_zero(parameter->gradient);
}

Result<WeightData> WeightTraining::stored() const {
  if (transform != nullptr) {
    PARE_TRY(WeightData data, transform->stored(matrix->value));
    data.transposed = transposed;
    return data;
  }
  WeightData data;
  if (!is_factored()) {
    data.form = matrix->value;
    if (transposed) {
      PARE_TRY(Tensor turned, pare::transposed(matrix->value));
      data.form = turned;
    }
    return data;
  }
  LowRankTensor tensor;
  tensor.shape = {left->value.size(0), right->value.size(1)};
  tensor.left = left->value;
  tensor.right = is_adapter ? scaled_right : right->value;
  if (has_frozen) {
    if (frozen.is_dense()) tensor.base = frozen.dense();
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
  PARE_TRY(Tensor master, master_of(stored, spec.transposed, set.device));
  const Parameter::Kind kind =
      in_block || spec.role == Role::router ? Parameter::Kind::matrix : Parameter::Kind::embedding;
  PARE_TRY(training->matrix, Parameter::make(spec.name, kind, std::move(master)));
  set.parameters.push_back(training->matrix);
  if (in_block && (form.keep_zeros || data.is_sparse())) {
    PARE_TRY(training->matrix->mask, mask_of_zeros(training->matrix->value));
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
  std::memcpy(master.mutable_raw(), value.raw(), value.size_bytes());
  PARE_TRY(std::shared_ptr<Parameter> parameter, Parameter::make(name, kind, std::move(master)));
  if (set.form.trains ? !set.form.trains(name) : !set.form.train_norms) return std::shared_ptr<Parameter>();
  set.parameters.push_back(parameter);
  set.vectors[name] = parameter;
  return parameter;
}

}  // namespace pare
