// distill/parameter_pieces.h: the parameters of a model cut into pieces that processes own, whole rows of
// matrices and ranges of vectors, and their way through an exchange.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "distill/gradient_exchange.h"
#include "distill/trainer_state.h"
#include "engine/models/parameter.h"

namespace pare {

struct ParameterPiece {
  std::shared_ptr<Parameter> parameter;
  int64_t begin = 0, end = 0;  // rows of a matrix, elements of anything else
  int owner = 0;

  Tensor value() const { return slice_of(parameter->value); }
  Tensor gradient() const { return slice_of(parameter->gradient); }
  std::optional<Mask> mask() const;
  // The same part of another tensor of the parameter's shape.
  Tensor slice_of(const Tensor& whole) const;
};

// `owners` shares of nearly equal size, in the order of the list; the pieces of a parameter follow each
// other. Empty pieces are left out, and so are parameters without elements.
std::vector<ParameterPiece> cut_parameters(const ParameterList& parameters, int owners);

// The tensor itself, or a copy of one on a GPU. Exit 6.
Result<Tensor> in_host_memory(const Tensor& tensor);
// The elements of a contiguous f32 tensor in host memory.
std::span<float> floats_of(const Tensor& tensor);

// The tensor of this name in the state of rank 0, on every rank. Exit 3 (rank 0), 5, 6.
Result<Tensor> restored_everywhere(const TrainerState& state, const std::string& name, const Shape& shape,
                                   GradientExchange& exchange);

}  // namespace pare
