#include "engine/models/weight.h"

#include <algorithm>
#include <utility>

#include "engine/core/assert.h"
#include "engine/models/layers/linear_input.h"
#include "engine/models/weight_training.h"
#include "engine/tensor/backend.h"
#include "engine/tensor/ops.h"
#include "engine/tensor/transfer.h"

namespace pare {

namespace {

// Whether every grid of the scheme has a code for exactly 0, so that a sparse matrix runs as codes.
bool has_zero_code(const QuantScheme& scheme) {
  if (scheme.kind == QuantScheme::Kind::codebook) return scheme.codebook != "custom";
  return scheme.offset != QuantScheme::Offset::minimum;
}

// The codes where rows are gathered: the same object on a host, a copy on a GPU.
Result<std::shared_ptr<const QuantizedTensor>> on_device(std::shared_ptr<const QuantizedTensor> codes,
                                                         Device device) {
  if (device.is_host()) return codes;
  QuantizedTensor copy = *codes;
  for (Tensor* part :
       {&copy.codes, &copy.scales, &copy.zero_points, &copy.minimums, &copy.group_index, &copy.codebook}) {
    PARE_TRY(*part, moved(*part, device));
  }
  return std::make_shared<const QuantizedTensor>(std::move(copy));
}

}  // namespace

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
    if (use != WeightUse::multiply) {
      PARE_TRY(weight.quantized_, on_device(quantized, device));
    }
    weight.is_copy_ =
        !device.is_host() || (weight.quantized_ == nullptr && weight.packed_.canonical == nullptr);
    return weight;
  }
  if (data.is_sparse()) {
    PARE_CHECK(weight.make_sparse(data.sparse(), use));
    return weight;
  }
  if (data.is_low_rank()) {
    PARE_CHECK(weight.make_low_rank(*data.low_rank(), use));
    return weight;
  }
  Tensor dense = data.dense();
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
  PARE_TRY(weight.dense_, moved(dense, device));
  if (!device.is_host()) weight.is_copy_ = true;
  return weight;
}

// Sparse where that is faster. Otherwise codes run as codes where 0 is one of them, everything else as the
// dense matrix with zeros.
Status Weight::make_sparse(std::shared_ptr<const SparseTensor> weight, WeightUse use) {
  const SparseTensor& sparse = *weight;
  out_ = sparse.out();
  in_ = sparse.in();
  if (use == WeightUse::multiply && backend_for(device_).choose_sparse(SparseSummary::of(sparse)).is_sparse) {
    PARE_TRY(packed_, backend_for(device_).prepack_sparse(std::move(weight)));
    is_copy_ = packed_.canonical_sparse == nullptr;
    return {};
  }
  is_copy_ = true;
  if (!sparse.has_codes() || !has_zero_code(*sparse.scheme)) {
    PARE_TRY(const Tensor dense, sparse.to_dense());
    PARE_TRY(dense_, moved(dense, device_));
    return {};
  }
  PARE_TRY(QuantizedTensor whole, sparse.to_quantized({}, name_));
  is_copy_ = false;  // scales are still those of the file
  const auto shared = std::make_shared<const QuantizedTensor>(std::move(whole));
  if (use != WeightUse::gather) {
    PARE_TRY(packed_, backend_for(device_).prepack(shared));
  }
  if (use != WeightUse::multiply) {
    PARE_TRY(quantized_, on_device(shared, device_));
  }
  is_copy_ = !device_.is_host() || (quantized_ == nullptr && packed_.canonical == nullptr);
  return {};
}

Status Weight::make_low_rank(const LowRankTensor& tensor, WeightUse use) {
  out_ = tensor.out();
  in_ = tensor.in();
  if (use != WeightUse::multiply) {
    PARE_TRY(const Tensor dense, tensor.to_dense());
    PARE_TRY(dense_, moved(dense, device_));
    is_copy_ = true;
    return {};
  }
  PARE_TRY(left_, moved(tensor.left, device_));
  PARE_TRY(right_, moved(tensor.right, device_));
  rank_ = tensor.rank();
  if (!tensor.has_base()) return {};
  WeightData data;
  if (const auto* dense = std::get_if<Tensor>(&tensor.base)) data.form = *dense;
  if (const auto* codes = std::get_if<std::shared_ptr<const QuantizedTensor>>(&tensor.base))
    data.form = *codes;
  if (const auto* sparse = std::get_if<std::shared_ptr<const SparseTensor>>(&tensor.base))
    data.form = *sparse;
  PARE_TRY(Weight base, make(name_, data, false, Tensor(), device_));
  base_ = std::make_shared<const Weight>(std::move(base));
  return {};
}

Weight Weight::planned(const StoredTensor& stored, int64_t out, int64_t in, Device device) {
  Weight weight;
  weight.name_ = stored.name;
  weight.out_ = out;
  weight.in_ = in;
  weight.device_ = device;
  if (stored.is_low_rank()) {
    weight.rank_ = *stored.rank;
    if (stored.base_dtype) {
      StoredTensor base = stored;
      base.rank.reset();
      weight.base_ = std::make_shared<const Weight>(planned(base, out, in, device));
    }
    return weight;
  }
  // A sparse matrix may run in any of its forms; a packed one needs the most.
  if (stored.scheme || stored.is_sparse()) {
    if (stored.scheme) weight.packed_.scheme = *stored.scheme;
    weight.packed_.activation = stored.activation;
    weight.packed_.out = out;
    weight.packed_.in = in;
  }
  return weight;
}

uint64_t Weight::planned_bytes(const StoredTensor& stored) {
  const auto numel = uint64_t(stored.shape.numel());
  if (stored.is_low_rank()) {
    const uint64_t ranks = uint64_t(*stored.rank) * uint64_t(stored.shape[0] + stored.shape[1]);
    const uint64_t factors = ranks * uint64_t(dtype_bytes(stored.dtype));
    if (!stored.base_dtype) return factors;
    StoredTensor base = stored;
    base.rank.reset();
    base.dtype = *stored.base_dtype;
    base.bytes = base.scheme ? base.scheme->stored_bytes(base.shape[0], base.shape[1])
                             : numel * uint64_t(dtype_bytes(base.dtype));
    return factors + planned_bytes(base);
  }
  if (!stored.is_sparse()) return stored.bytes;
  if (!stored.scheme) return numel * uint64_t(dtype_bytes(stored.dtype));
  return has_zero_code(*stored.scheme) ? stored.scheme->stored_bytes(stored.shape[0], stored.shape[1])
                                       : numel * sizeof(float);
}

uint64_t Weight::size_bytes() const {
  uint64_t bytes = bias_.defined() ? bias_.size_bytes() : 0;
  if (dense_.defined()) bytes += dense_.size_bytes();
  if (packed_.defined()) bytes += packed_.size_bytes();
  if (quantized_ != nullptr && quantized_ != packed_.canonical) bytes += quantized_->size_bytes();
  if (left_.defined()) bytes += left_.size_bytes() + right_.size_bytes();
  if (base_ != nullptr) bytes += base_->size_bytes();
  return bytes;
}

void Weight::multiply(const Tensor& x, bool accumulate, Tensor& out, Workspace& workspace) const {
  if (training_ != nullptr && training_->transform != nullptr && training_->transform->changes_inputs()) {
    const Workspace::Scope scope(workspace);
    Tensor changed = workspace.take(DType::f32, x.shape());
    training_->transform->forward_inputs(x, changed);
    ops::matmul(changed, dense_, bias_, accumulate, out, workspace);
  } else if (rank_ > 0 && left_.defined()) {
    // out (+)= base x + left (right x) + bias
    Workspace::Scope scope(workspace);
    const int64_t tokens = in_ == 0 ? 0 : x.numel() / in_;
    Tensor inner = workspace.take(DType::f32, {tokens, rank_});
    ops::matmul(x, right_, Tensor(), /*accumulate=*/false, inner, workspace);
    if (base_ != nullptr) base_->multiply(x, accumulate, out, workspace);
    ops::matmul(inner, left_, bias_, accumulate || base_ != nullptr, out, workspace);
  } else if (packed_.defined()) {
    ops::matmul(x, packed_, bias_, accumulate, out, workspace);
  } else {
    ops::matmul(x, dense_, bias_, accumulate, out, workspace);
  }
}

const PackedMatrix* Weight::rounded_form() const {
  const bool is_packed = packed_.out > 0 && packed_.activation.has_value();
  return is_packed && rank_ == 0 && training_ == nullptr ? &packed_ : nullptr;
}

void Weight::multiply(const LinearInput& x, bool accumulate, Tensor& out, Workspace& workspace) const {
  if (!x.rounded.defined()) return multiply(x.x, accumulate, out, workspace);
  PARE_ASSERT(rounded_form() != nullptr, "[weight] {} reads no rounded rows", name_);
  ops::matmul(x.rounded, packed_, bias_, accumulate, out);
}

size_t Weight::workspace_bytes(int64_t tokens) const {
  if (training_ != nullptr && training_->transform != nullptr && training_->transform->changes_inputs())
    return Workspace::bytes_for(DType::f32, {tokens, in_}) +
           ops::matmul_workspace_bytes(device_, tokens, out_, in_);
  if (rank_ > 0) {
    const size_t products = std::max(ops::matmul_workspace_bytes(device_, tokens, rank_, in_),
                                     ops::matmul_workspace_bytes(device_, tokens, out_, rank_));
    const size_t base = base_ != nullptr ? base_->workspace_bytes(tokens) : 0;
    return Workspace::bytes_for(DType::f32, {tokens, rank_}) + std::max(products, base);
  }
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
