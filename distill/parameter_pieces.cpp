#include "distill/parameter_pieces.h"

#include <algorithm>

#include "engine/tensor/transfer.h"

namespace pare {
namespace {

// Where share `share` of `owners` begins among `total` elements.
int64_t share_begin(int64_t total, int share, int owners) {
  return total / owners * share + std::min<int64_t>(share, total % owners);
}

}  // namespace

Tensor ParameterPiece::slice_of(const Tensor& whole) const {
  if (parameter->is_matrix()) return whole.rows(begin, end);
  return whole.reshaped({whole.numel()}).rows(begin, end);
}

std::optional<Mask> ParameterPiece::mask() const {
  if (!parameter->mask) return std::nullopt;
  return Mask(parameter->mask->bits().rows(begin, end), end - begin, parameter->mask->in());
}

std::vector<ParameterPiece> cut_parameters(const ParameterList& parameters, int owners) {
  int64_t total = 0;
  for (const auto& parameter : parameters) total += parameter->value.numel();
  std::vector<ParameterPiece> pieces;
  int64_t offset = 0;  // of the parameter among all elements
  for (const auto& parameter : parameters) {
    const int64_t count = parameter->value.numel();
    if (count == 0) continue;
    const int64_t width = parameter->is_matrix() ? parameter->value.size(1) : 1;
    const int64_t rows = count / width;
    int64_t begin = 0;
    for (int owner = 0; owner < owners && begin < rows; ++owner) {
      const int64_t cut = owner + 1 == owners ? offset + count : share_begin(total, owner + 1, owners);
      const int64_t end = std::clamp((cut - offset + width / 2) / width, begin, rows);
      if (cut <= offset || end == begin) continue;
      pieces.push_back({parameter, begin, end, owner});
      begin = end;
    }
    offset += count;
  }
  return pieces;
}

Result<Tensor> in_host_memory(const Tensor& tensor) {
  return moved(tensor, tensor.device().is_host() ? tensor.device() : Device::cpu());
}

std::span<float> floats_of(const Tensor& tensor) {
  PARE_ASSERT(tensor.is_contiguous() && tensor.device().is_host(), "[pieces] {}", tensor.shape().text());
  return {tensor.mutable_data<float>(), size_t(tensor.numel())};
}

Result<Tensor> restored_everywhere(const TrainerState& state, const std::string& name, const Shape& shape,
                                   GradientExchange& exchange) {
  if (exchange.size() == 1) return state.tensor(name, DType::f32, shape);
  PARE_TRY(Tensor copy, Tensor::allocate(DType::f32, shape));
  if (exchange.is_first()) {
    PARE_TRY(const Tensor stored, state.tensor(name, DType::f32, shape));
    std::copy_n(stored.data<float>(), stored.numel(), copy.mutable_data<float>());
  }
  PARE_CHECK(exchange.broadcast(floats_of(copy), 0));
  return copy;
}

}  // namespace pare
