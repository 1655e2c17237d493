#include "engine/tensor/low_rank_tensor.h"

#include <algorithm>
#include <string>
#include <vector>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/code_grid.h"
#include "engine/tensor/tensor_scan.h"

namespace pare {
namespace {

constexpr int64_t kRowsPerItem = 16;

bool is_factor_type(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}

Error fault(std::string_view path, std::string_view name, const char* part, const char* what, std::string got,
            std::string limit = {}) {
  return Error{.exit = Exit::malformed,
               .rule = "PK11",
               .path = std::string(path),
               .where = quote(name) + "." + part,
               .what = what,
               .got = std::move(got),
               .limit = std::move(limit),
               .limit_label = "expected"};
}

std::string text_of(const Tensor& tensor) {
  return tensor.defined() ? std::string(dtype_name(tensor.dtype())) + " " + tensor.shape().text() : "nothing";
}

// Rows of a dense base added to `out`.
void add_rows(const Tensor& base, int64_t begin, int64_t end, float* out) {
  const int64_t in = base.size(1);
  for (int64_t row = begin; row < end; ++row) {
    float* line = out + (row - begin) * in;
    for (int64_t column = 0; column < in; ++column) line[column] += load_float(base, row * in + column);
  }
}

}  // namespace

const QuantizedTensor* LowRankTensor::quantized_base() const {
  const auto* found = std::get_if<std::shared_ptr<const QuantizedTensor>>(&base);
  return found == nullptr ? nullptr : found->get();
}

const SparseTensor* LowRankTensor::sparse_base() const {
  const auto* found = std::get_if<std::shared_ptr<const SparseTensor>>(&base);
  return found == nullptr ? nullptr : found->get();
}

const QuantScheme* LowRankTensor::scheme() const {
  if (const QuantizedTensor* quantized = quantized_base()) return &quantized->scheme;
  const SparseTensor* sparse = sparse_base();
  return sparse != nullptr && sparse->has_codes() ? &*sparse->scheme : nullptr;
}

uint64_t LowRankTensor::size_bytes() const {
  uint64_t bytes = left.size_bytes() + right.size_bytes();
  if (const Tensor* dense = dense_base()) bytes += dense->size_bytes();
  if (const QuantizedTensor* quantized = quantized_base()) bytes += quantized->size_bytes();
  if (const SparseTensor* sparse = sparse_base()) bytes += sparse->size_bytes();
  return bytes;
}

void LowRankTensor::dense_rows(int64_t begin, int64_t end, float* out) const {
  PARE_ASSERT(begin >= 0 && begin <= end && end <= shape[0], "[low rank] rows {} to {} of {}", begin, end,
              shape.text());
  const int64_t width = in(), inner = rank();
  std::fill(out, out + (end - begin) * width, 0.0f);
  std::vector<float> row_values(size_t(width), 0.0f);
  for (int64_t k = 0; k < inner; ++k) {
    for (int64_t column = 0; column < width; ++column)
      row_values[size_t(column)] = load_float(right, k * width + column);
    for (int64_t row = begin; row < end; ++row) {
      const float factor = load_float(left, row * inner + k);
      float* line = out + (row - begin) * width;
      for (int64_t column = 0; column < width; ++column) line[column] += factor * row_values[size_t(column)];
    }
  }
  if (const Tensor* dense = dense_base()) return add_rows(*dense, begin, end, out);
  if (!has_base()) return;
  for (int64_t row = begin; row < end; ++row) {
    if (const QuantizedTensor* quantized = quantized_base()) {
      quantized->dequantize_rows(row, row + 1, row_values.data());
    } else {
      sparse_base()->dense_rows(row, row + 1, row_values.data());
    }
    float* line = out + (row - begin) * width;
    for (int64_t column = 0; column < width; ++column) line[column] += row_values[size_t(column)];
  }
}

Result<Tensor> LowRankTensor::to_dense() const {
  PARE_TRY(Tensor dense, Tensor::allocate(DType::f32, shape));
  float* target = dense.mutable_data<float>();
  parallel_ranges(out(), kRowsPerItem,
                  [&](int64_t begin, int64_t end) { dense_rows(begin, end, target + begin * in()); });
  return dense;
}

Status LowRankTensor::validate(std::string_view path, std::string_view name) const {
  if (shape.rank() != 2) return fault(path, name, "shape", "not a matrix", shape.text());
  if (!left.defined() || left.shape().rank() != 2 || left.size(0) != shape[0] ||
      !is_factor_type(left.dtype()) || !left.is_contiguous())
    return fault(path, name, "left", "not the left factor of this shape", text_of(left));
  if (left.size(1) < 1) return fault(path, name, "left", "rank below 1", text_of(left));
  if (!right.defined() || right.dtype() != left.dtype() || right.shape() != Shape({left.size(1), shape[1]}) ||
      !right.is_contiguous()) {
    return fault(path, name, "right", "does not fit the left factor", text_of(right),
                 std::string(dtype_name(left.dtype())) + " " + Shape({left.size(1), shape[1]}).text());
  }
  PARE_CHECK(require_finite(left, std::string(name), std::string(path)));
  PARE_CHECK(require_finite(right, std::string(name), std::string(path)));
  if (const Tensor* dense = dense_base()) {
    if (dense->shape() != shape || !is_factor_type(dense->dtype()) || !dense->is_contiguous())
      return fault(path, name, "base", "does not fit the product", text_of(*dense), shape.text());
    return require_finite(*dense, std::string(name), std::string(path));
  }
  if (const QuantizedTensor* quantized = quantized_base()) {
    if (quantized->shape != shape)
      return fault(path, name, "base", "does not fit the product", quantized->shape.text(), shape.text());
    return quantized->validate(path, name);
  }
  if (const SparseTensor* sparse = sparse_base()) {
    if (sparse->shape != shape)
      return fault(path, name, "base", "does not fit the product", sparse->shape.text(), shape.text());
    return sparse->validate(path, name);
  }
  return {};
}

}  // namespace pare
