// engine/models/loader.h: parts of a model by role, from a source; internal to models.
#pragma once

#include <optional>

#include "engine/models/architecture.h"
#include "engine/models/layers/norm.h"
#include "engine/models/weight.h"
#include "engine/models/weight_training.h"

namespace pare {

class Loader {
 public:
  // Both must outlive the loader.
  // With `training`, everything that its form trains is made for training and registered there.
  Loader(const WeightSource& source, const ModelDescription& description, Device device,
         TrainingSet* training = nullptr)
      : source_(source), description_(description), device_(device), training_(training) {}

  bool has(Role role, int block) const { return description_.find(role, block) != nullptr; }
  // The matrix of this role (of an expert) with its bias. Bytes that were copied are released at the source.
  Result<Weight> weight(Role role, int block, WeightUse use = WeightUse::multiply, int expert = -1) const;
  Weight planned(Role role, int block, int expert = -1) const;
  Result<Norm> norm(Role gain, std::optional<Role> bias, int block) const;
  // Hint that no tensor of the block is needed any more.
  void release(int block) const;

 private:
  const TensorSpec* bias_of(const TensorSpec& spec) const;
  Result<Tensor> floats(const TensorSpec& spec) const;
  // Values, and their gradient where they are trained; both undefined when the model has no such vector.
  struct Vector {
    Tensor value, gradient;
  };
  Result<Vector> vector(const TensorSpec* spec, Parameter::Kind kind) const;

  const WeightSource& source_;
  const ModelDescription& description_;
  Device device_;
  TrainingSet* training_;
};

}  // namespace pare
