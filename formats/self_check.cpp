#include "formats/self_check.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <vector>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/tensor_scan.h"
#include "formats/fault.h"

namespace pare {

namespace {

constexpr int64_t kRowsPerItem = 16;
// Rows [begin, end) of a matrix into `out`.
using Rows = std::function<void(int64_t begin, int64_t end, float* out)>;

Status check_rows_finite(const Shape& shape, const Rows& rows, std::string_view name, std::string_view path) {
  const int64_t out = shape[0], in = shape[1];
  // Flat index of the first bad value of each item.
  std::vector<int64_t> first(static_cast<size_t>((out + kRowsPerItem - 1) / kRowsPerItem), -1);
  parallel_ranges(out, kRowsPerItem, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>((end - begin) * in));
    rows(begin, end, values.data());
    const auto found =
        std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
    if (found != values.end())
      first[static_cast<size_t>(begin / kRowsPerItem)] = begin * in + (found - values.begin());
  });
  const auto bad = std::find_if(first.begin(), first.end(), [](int64_t index) { return index >= 0; });
  if (bad == first.end()) return {};
  return fault(Exit::numeric, "NU12", path, quote(name) + index_text(shape, *bad),
               "self-check: value is not finite");
}

}  // namespace

Status check_dequantized_finite(const QuantizedTensor& tensor, std::string_view name, std::string_view path) {
  return check_rows_finite(
      tensor.shape, [&](int64_t begin, int64_t end, float* out) { tensor.dequantize_rows(begin, end, out); },
      name, path);
}

Status check_weight_finite(const WeightData& weight, std::string_view name, std::string_view path) {
  if (weight.is_quantized()) return check_dequantized_finite(*weight.quantized(), name, path);
  if (weight.is_sparse()) {
    const SparseTensor& sparse = *weight.sparse();
    if (!sparse.has_codes()) return {};  // values were scanned as they are
    return check_rows_finite(
        sparse.shape, [&](int64_t begin, int64_t end, float* out) { sparse.dense_rows(begin, end, out); },
        name, path);
  }
  if (!weight.is_low_rank()) return {};
  const LowRankTensor& product = *weight.low_rank();
  return check_rows_finite(
      product.shape, [&](int64_t begin, int64_t end, float* out) { product.dense_rows(begin, end, out); },
      name, path);
}

Hash128 dequantized_sum(const QuantizedTensor& tensor) {
  std::vector<Hash128> sums(static_cast<size_t>((tensor.out() + kRowsPerItem - 1) / kRowsPerItem));
  parallel_ranges(tensor.out(), kRowsPerItem, [&](int64_t begin, int64_t end) {
    std::vector<float> rows(static_cast<size_t>((end - begin) * tensor.in()));
    tensor.dequantize_rows(begin, end, rows.data());
    sums[size_t(begin / kRowsPerItem)] = xxh3_128(std::as_bytes(std::span(rows)));
  });
  return xxh3_128(std::as_bytes(std::span(sums)));
}

}  // namespace pare
