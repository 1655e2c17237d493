// engine/models/loader.h: parts of a model by role, from a source; internal to models.
#pragma once

#include "engine/models/architecture.h"
#include "engine/models/layers/norm.h"
#include "engine/models/weight.h"

namespace pare {

class Loader {
 public:
  // Both must outlive the loader.
  Loader(const WeightSource& source, const ModelDescription& description, Device device)
      : source_(source), description_(description), device_(device) {}

  bool has(Role role, int block) const { return description_.find(role, block) != nullptr; }
  // The matrix of this role (of an expert) with its bias. Bytes that were copied are released at the source.
  Result<Weight> weight(Role role, int block, WeightUse use = WeightUse::multiply, int expert = -1) const;
  Weight planned(Role role, int block, int expert = -1) const;
  // A vector as f32; undefined when the model has none.
  Result<Tensor> vector(Role role, int block) const;
  Result<Norm> norm(Role gain, Role bias, int block) const;
  // Hint that no tensor of the block is needed any more.
  void release(int block) const;

 private:
  const TensorSpec* bias_of(const TensorSpec& spec) const;
  Result<Tensor> floats(const TensorSpec& spec) const;

  const WeightSource& source_;
  const ModelDescription& description_;
  Device device_;
};

}  // namespace pare
