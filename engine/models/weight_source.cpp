#include "engine/models/weight_source.h"

#include <fmt/core.h>

#include "engine/core/assert.h"
#include "engine/tensor/tensor_scan.h"

namespace pare {
namespace {

// What a tensor with codes, a sparse one, or the base of a low-rank one adds to a description.
void describe(const QuantizedTensor& tensor, StoredTensor& stored) {
  stored.scheme = tensor.scheme;
  stored.activation = tensor.activation;
  stored.dtype = tensor.scheme.scale_dtype;
}

void describe(const SparseTensor& tensor, StoredTensor& stored) {
  stored.pattern = tensor.pattern.text();
  stored.kept = tensor.kept_count();
  stored.scheme = tensor.scheme;
  stored.activation = tensor.activation;
  stored.dtype = tensor.has_codes() ? tensor.scheme->scale_dtype : tensor.values.dtype();
}

void describe(const LowRankTensor& tensor, StoredTensor& stored) {
  if (const QuantizedTensor* quantized = tensor.quantized_base()) describe(*quantized, stored);
  if (const SparseTensor* sparse = tensor.sparse_base()) describe(*sparse, stored);
  if (const Tensor* dense = tensor.dense_base()) stored.dtype = dense->dtype();
  if (tensor.has_base()) stored.base_dtype = stored.dtype;
  stored.dtype = tensor.left.dtype();
  stored.rank = tensor.rank();
}

}  // namespace

std::string_view StoredTensor::form_name() const {
  if (is_low_rank()) return "low_rank";
  if (is_sparse()) return "sparse";
  return is_quantized() ? "quantized" : "dense";
}

std::string StoredTensor::form_text() const {
  std::string values;
  if (scheme) {
    values = scheme->text();
  } else if (is_low_rank()) {
    values = base_dtype ? std::string(dtype_name(*base_dtype)) : std::string();
  } else {
    values = std::string(dtype_name(dtype));
  }
  if (!pattern.empty()) values = fmt::format("{} {}", pattern, values);
  if (activation) values += ", " + activation->text();
  if (!is_low_rank()) return values;
  return fmt::format("rank {} {}{}{}", *rank, dtype_name(dtype), values.empty() ? "" : " + ", values);
}

Result<Tensor> WeightData::to_dense_tensor() const {
  if (is_dense()) return dense();
  Tensor values;
  if (is_quantized()) {
    PARE_TRY(values, quantized()->dequantize());
  } else if (is_sparse()) {
    PARE_TRY(values, sparse()->to_dense());
  } else {
    PARE_TRY(values, low_rank()->to_dense());
  }
  if (!transposed) return values;
  return pare::transposed(values);
}

Status WeightData::validate(std::string_view path, std::string_view name) const {
  if (is_quantized()) return quantized()->validate(path, name);
  if (is_sparse()) return sparse()->validate(path, name);
  if (is_low_rank()) return low_rank()->validate(path, name);
  return require_finite(dense(), std::string(name), std::string(path));
}

StoredTensor WeightData::described(std::string name) const {
  StoredTensor stored;
  stored.name = std::move(name);
  if (is_dense()) {
    stored.dtype = dense().dtype();
    stored.shape = dense().shape();
    stored.bytes = dense().size_bytes();
    return stored;
  }
  stored.transposed = transposed;
  if (is_quantized()) {
    describe(*quantized(), stored);
    stored.shape = quantized()->shape;
    stored.bytes = quantized()->size_bytes();
  } else if (is_sparse()) {
    describe(*sparse(), stored);
    stored.shape = sparse()->shape;
    stored.bytes = sparse()->size_bytes();
  } else {
    describe(*low_rank(), stored);
    stored.shape = low_rank()->shape;
    stored.bytes = low_rank()->size_bytes();
  }
  return stored;
}

}  // namespace pare
