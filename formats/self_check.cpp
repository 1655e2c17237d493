#include "formats/self_check.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/tensor_scan.h"
#include "formats/fault.h"

namespace pare {

Status check_dequantized_finite(const QuantizedTensor& tensor, std::string_view name, std::string_view path) {
  constexpr int64_t kRowsPerItem = 16;
  const int64_t items = (tensor.out() + kRowsPerItem - 1) / kRowsPerItem;
  std::vector<int64_t> first(static_cast<size_t>(items),
                             -1);  // flat index of the first bad value of each item
  parallel_ranges(tensor.out(), kRowsPerItem, [&](int64_t begin, int64_t end) {
    std::vector<float> row(static_cast<size_t>(tensor.in()));
    int64_t& bad = first[static_cast<size_t>(begin / kRowsPerItem)];
    for (int64_t r = begin; r < end && bad < 0; ++r) {
      tensor.dequantize_rows(r, r + 1, row.data());
      const auto found =
          std::find_if(row.begin(), row.end(), [](float value) { return !std::isfinite(value); });
      if (found != row.end()) bad = r * tensor.in() + (found - row.begin());
    }
  });
  const auto bad = std::find_if(first.begin(), first.end(), [](int64_t index) { return index >= 0; });
  if (bad == first.end()) return {};
  return fault(Exit::numeric, "NU12", path, quote(name) + index_text(tensor.shape, *bad),
               "self-check: value is not finite");
}

Hash128 dequantized_sum(const QuantizedTensor& tensor) {
  constexpr int64_t kRowsPerItem = 16;
  std::vector<Hash128> sums(static_cast<size_t>((tensor.out() + kRowsPerItem - 1) / kRowsPerItem));
  parallel_ranges(tensor.out(), kRowsPerItem, [&](int64_t begin, int64_t end) {
    std::vector<float> rows(static_cast<size_t>((end - begin) * tensor.in()));
    tensor.dequantize_rows(begin, end, rows.data());
    sums[size_t(begin / kRowsPerItem)] = xxh3_128(std::as_bytes(std::span(rows)));
  });
  return xxh3_128(std::as_bytes(std::span(sums)));
}

}  // namespace pare
