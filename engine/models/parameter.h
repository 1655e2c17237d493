// engine/models/parameter.h: one tensor that training changes, and what may stand between it and the
// products.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "engine/models/weight_source.h"
#include "engine/tensor/mask.h"
#include "engine/tensor/tensor.h"
#include "engine/tensor/workspace.h"

namespace pare {

struct Parameter {
  enum class Kind : uint8_t {
    matrix,     // decays
    embedding,  // rows gathered by id; decays when asked
    norm,
    bias,
    step,     // of a grid
    adapter,  // a factor of LoRA or of a low-rank matrix; decays
  };
  std::string name;  // of the checkpoint; of parts that no checkpoint has with a suffix: "<name>:scales"
  Kind kind = Kind::matrix;
  Tensor value;     // f32, contiguous: the master copy, in the layout of the model ([out, in])
  Tensor gradient;  // f32, same shape; backward passes add to it
  std::shared_ptr<const Mask> mask;  // of matrices whose removed weights stay zero; may be null

  bool is_matrix() const { return value.shape().rank() == 2; }
  // New, with a gradient of zeros. Exit 6.
  static Result<std::shared_ptr<Parameter>> make(std::string name, Kind kind, Tensor value);
};
using ParameterList = std::vector<std::shared_ptr<Parameter>>;

// A differentiable change between a matrix as it is trained and the one that multiplies, such as rounding to
// a grid; and between an input and what is multiplied.
class WeightTransform {
 public:
  virtual ~WeightTransform() = default;

  // effective f32 [out, in] from the master; called after every step of the optimizer.
  virtual Status forward(const Tensor& master, Tensor& effective) = 0;
  // dmaster overwrites and may alias deffective; gradients of the transform's own parameters are added to.
  virtual void backward(const Tensor& master, const Tensor& deffective, Tensor& dmaster) = 0;
  // The transform's own parameters.
  virtual ParameterList parameters() const { return {}; }

  // Inputs x [tokens, in]: whether they change, into out; and in place the gradient of out to that of x.
  virtual bool changes_inputs() const { return false; }
  virtual void forward_inputs(const Tensor& x, Tensor& out) const;
  virtual void backward_inputs(const Tensor& x, Tensor& dx) const;

  // What is stored: exactly what forward() computes.
  virtual Result<WeightData> stored(const Tensor& master) const = 0;
};

// How the weights of a model are trained.
struct TrainingForm {
  DType compute = DType::f32;    // f32, bf16 or f16: of the copies that multiply; masters are f32
  bool keep_zeros = false;       // weights that are exactly zero stay so (matrices of blocks)
  int64_t lora_rank = 0;         // > 0: matrices of blocks are frozen and get two factors of this rank
  float lora_alpha = 16.0f;      // their product is multiplied by alpha / rank
  uint64_t seed = 0;             // of the factors
  bool train_embeddings = true;  // embedding and head
  bool train_norms = true;       // norms and biases
  bool train_matrices = true;
  // Which tensors are trained, by name, in place of the three flags above; empty: by the flags. What is not
  // trained keeps its stored type and has no gradient.
  std::function<bool(const std::string& name)> trains{};
  // A transform for a matrix of a block, or null for none. master f32 [out, in].
  std::function<Result<std::unique_ptr<WeightTransform>>(const std::string& name, const Tensor& master)>
      transform{};
};

}  // namespace pare
