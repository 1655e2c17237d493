// engine/models/weight_training.h: what a matrix has beside its values when it is trained; internal to
// models.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "engine/models/architecture.h"
#include "engine/models/parameter.h"

namespace pare {

// A matrix of a model in training. What multiplies is Weight::dense_ (the working copy), or two factors.
//
//   dense      working copy = compute type of transform(matrix->value); without either it *is* matrix->value
//   low rank   left->value, right->value; the base is frozen
//   adapter    left->value (zeros at first) and scale * right->value, over a frozen base
struct WeightTraining {
  std::shared_ptr<Parameter> matrix, left, right;  // those that are trained
  std::shared_ptr<Parameter> bias;
  std::unique_ptr<WeightTransform> transform;
  Tensor working;    // [out, in] in the compute type, or matrix->value itself
  Tensor effective;  // f32 [out, in]: what the transform made; undefined where `working` holds it
  Tensor
      gradient;  // matrix->gradient: of the effective matrix until finish_gradients() makes it the master's
  Tensor scaled_right;  // of adapters: scale * right
  float adapter_scale = 1.0f;
  bool is_adapter = false;
  bool transposed = false;  // the checkpoint holds [in, out]
  WeightData frozen;        // base of factors, as the source has it; dense matrices in the model's layout
  bool has_frozen = false;

  bool is_factored() const { return left != nullptr; }
  // The working copy from the parameters. Exit 7 (a transform), 6.
  Status refresh();
  // gradient -> gradients of the parameters, in place; once per step.
  void finish_gradients();
  void clear_gradients();
  Result<WeightData> stored() const;
  uint64_t size_bytes() const;
};

// Everything of a model that is trained; filled by Loader, in the order of loading.
struct TrainingSet {
  TrainingSet(const TrainingForm& training_form, Device on) : form(training_form), device(on) {}
  TrainingForm form;
  Device device;
  ParameterList parameters;
  std::map<std::string, std::shared_ptr<WeightTraining>, std::less<>> matrices;
  std::map<std::string, std::shared_ptr<Parameter>, std::less<>> vectors;  // norms and biases by name
};

// The training side of the matrix `spec` (name, place, transposed). data: as the source has it. Registers its
// parameters. Null for a matrix that stays as it is. Exit 4 for codes, 6.
Result<std::shared_ptr<WeightTraining>> make_weight_training(const TensorSpec& spec, const WeightData& data,
                                                             TrainingSet& set);

// A vector that is trained when the form says so, else just the values.
Result<std::shared_ptr<Parameter>> make_vector_training(const std::string& name, Parameter::Kind kind,
                                                        const Tensor& value, TrainingSet& set);

}  // namespace pare
