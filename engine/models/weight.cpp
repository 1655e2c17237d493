#include "engine/models/weight.h"

#include <utility>

#include "engine/core/assert.h"
#include "engine/tensor/backend.h"
#include "engine/tensor/ops.h"

namespace pare {

Result<Weight> Weight::make(std::string name, const WeightData& data, bool transposed, Tensor bias,
                            Device device, WeightUse use) {
  Weight weight;
  weight.name_ = std::move(name);
  weight.device_ = device;
  weight.bias_ = std::move(bias);
  if (data.is_quantized()) {
    const std::shared_ptr<const QuantizedTensor>& quantized = data.quantized();
    weight.out_ = quantized->out();
    weight.in_ = quantized->in();
    if (use != WeightUse::gather) {
      PARE_TRY(weight.packed_, backend_for(device).prepack(quantized));
    }
    if (use != WeightUse::multiply) weight.quantized_ = quantized;
    weight.is_copy_ = weight.quantized_ == nullptr && weight.packed_.canonical == nullptr;
    return weight;
  }
  Tensor dense = data.dense().on(device);
  PARE_ASSERT(dense.shape().rank() == 2, "[weight] {} {}", weight.name_, dense.shape().text());
  // Kernels read bf16, f16 and f32; the 8-bit floats are exact in bf16.
  if (dense.dtype() == DType::f8_e4m3 || dense.dtype() == DType::f8_e5m2) {
    PARE_TRY(dense, converted(dense, DType::bf16));
    weight.is_copy_ = true;
  }
  if (transposed) {
    PARE_TRY(dense, pare::transposed(dense));
    weight.is_copy_ = true;
  }
  weight.out_ = dense.size(0);
  weight.in_ = dense.size(1);
  weight.dense_ = dense.on(device);
  return weight;
}

Weight Weight::planned(std::string name, int64_t out, int64_t in, const std::optional<QuantScheme>& scheme,
                       Device device, const std::optional<ActivationQuant>& activation) {
  Weight weight;
  weight.name_ = std::move(name);
  weight.out_ = out;
  weight.in_ = in;
  weight.device_ = device;
  if (scheme) {
    weight.packed_.scheme = *scheme;
    weight.packed_.activation = activation;
    weight.packed_.out = out;
    weight.packed_.in = in;
  }
  return weight;
}

uint64_t Weight::size_bytes() const {
  uint64_t bytes = bias_.defined() ? bias_.size_bytes() : 0;
  if (dense_.defined()) bytes += dense_.size_bytes();
  if (packed_.defined()) bytes += packed_.size_bytes();
  if (quantized_ != nullptr && quantized_ != packed_.canonical) bytes += quantized_->size_bytes();
  return bytes;
}

void Weight::multiply(const Tensor& x, bool accumulate, Tensor& out, Workspace& workspace) const {
  if (packed_.defined()) {
    ops::matmul(x, packed_, bias_, accumulate, out, workspace);
  } else {
    ops::matmul(x, dense_, bias_, accumulate, out, workspace);
  }
}

size_t Weight::workspace_bytes(int64_t tokens) const {
  if (packed_.out > 0) return ops::matmul_workspace_bytes(device_, packed_, tokens);
  return ops::matmul_workspace_bytes(device_, tokens, out_, in_);
}

void Weight::gather(const Tensor& ids, float scale, bool accumulate, Tensor& out) const {
  if (quantized_ != nullptr) {
    ops::embedding(ids, *quantized_, scale, accumulate, out);
  } else {
    ops::embedding(ids, dense_, scale, accumulate, out);
  }
}

}  // namespace pare
