#include "engine/tensor/tensor_scan.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include <fmt/core.h>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/float_formats.h"

namespace pare {
namespace {

constexpr int64_t kChunk = 65'536;  // elements per work item; results are combined in chunk order

// NaN or infinity of one stored element, from its bits.
struct BitClass {
  uint64_t magnitude_mask;  // everything but the sign
  uint64_t infinity;        // pattern of infinity, or the first NaN where there is no infinity
  bool has_infinity;
};

BitClass bit_class(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return {0x7fffffffffffffffu, 0x7ff0000000000000u, true};
    case DType::f32:
      return {0x7fffffffu, 0x7f800000u, true};
    case DType::bf16:
      return {0x7fffu, 0x7f80u, true};
    case DType::f16:
      return {0x7fffu, 0x7c00u, true};
    case DType::f8_e5m2:
      return {0x7fu, 0x7cu, true};
    case DType::f8_e4m3:
      return {0x7fu, 0x7fu, false};
    case DType::f8_e8m0:
      return {0xffu, 0xffu, false};
    default:
      return {0, 1, false};  // types without either: nothing ever reaches the pattern
  }
}

// Runs of consecutive elements of chunk `item`: body(first flat index, first element index in storage,
// count).
template <typename Body>
void for_each_run(const Tensor& tensor, int64_t item, Body body) {
  const bool contiguous = tensor.is_contiguous();
  const int64_t width = contiguous ? tensor.numel() : tensor.shape()[-1];
  const int64_t stride = contiguous ? width : tensor.row_stride();
  int64_t begin = item * kChunk;
  const int64_t end = std::min(tensor.numel(), begin + kChunk);
  while (begin < end) {
    const int64_t row = begin / width, column = begin % width;
    const int64_t count = std::min(end - begin, width - column);
    body(begin, row * stride + column, count);
    begin += count;
  }
}

int64_t chunk_count(const Tensor& tensor) {
  return (tensor.numel() + kChunk - 1) / kChunk;
}

template <typename T>
NonFinite scan_chunk(const Tensor& tensor, int64_t item, const BitClass& bits) {
  NonFinite found;
  const T* data = tensor.data<T>();
  const T mask = T(bits.magnitude_mask);
  const T infinity = T(bits.infinity);
  for_each_run(tensor, item, [&](int64_t flat, int64_t offset, int64_t count) {
    T largest = 0;  // one pass without branches tells whether the run is clean, which it nearly always is
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, T(data[offset + i] & mask));
    if (largest < infinity) return;
    for (int64_t i = 0; i < count; ++i) {
      const T magnitude = T(data[offset + i] & mask);
      if (magnitude < infinity) continue;
      if (!found.any()) found.first_index = flat + i;
      if (bits.has_infinity && magnitude == infinity) {
        ++found.infinity_count;
      } else {
        ++found.nan_count;
      }
    }
  });
  return found;
}

// Smallest float magnitude (as bits) that rounds beyond the largest finite value of `target`.
uint32_t first_overflow(DType target) {
  switch (target) {
    case DType::f16:
      return std::bit_cast<uint32_t>(65520.0f);  // half way to 65536, to even
    case DType::bf16:
      return 0x7f7f8000u;  // half a step above the largest bf16
    case DType::f8_e4m3:
      return std::bit_cast<uint32_t>(464.0f) + 1u;  // the tie at 464 goes to 448
    case DType::f8_e5m2:
      return std::bit_cast<uint32_t>(61440.0f);
    default:
      return 0x7f800000u;  // f32: nothing finite overflows
  }
}

float element(const Tensor& tensor, int64_t offset) {
  switch (tensor.dtype()) {
    case DType::f32:
      return tensor.data<float>()[offset];
    case DType::bf16:
      return bf16_to_float(tensor.data<uint16_t>()[offset]);
    case DType::f16:
      return f16_to_float(tensor.data<uint16_t>()[offset]);
    case DType::f8_e4m3:
      return f8_e4m3_to_float(tensor.data<uint8_t>()[offset]);
    case DType::f8_e5m2:
      return f8_e5m2_to_float(tensor.data<uint8_t>()[offset]);
    default:
      PARE_ASSERT(false, "[count_overflow] of {}", dtype_name(tensor.dtype()));
  }
  return 0.0f;
}

}  // namespace

NonFinite scan_non_finite(const Tensor& tensor) {
  const BitClass bits = bit_class(tensor.dtype());
  NonFinite total;
  if (bits.magnitude_mask == 0 || tensor.numel() == 0) return total;
  std::vector<NonFinite> parts(size_t(chunk_count(tensor)));
  parallel_for(chunk_count(tensor), [&](int64_t item) {
    switch (dtype_bytes(tensor.dtype())) {
      case 1:
        parts[size_t(item)] = scan_chunk<uint8_t>(tensor, item, bits);
        break;
      case 2:
        parts[size_t(item)] = scan_chunk<uint16_t>(tensor, item, bits);
        break;
      case 4:
        parts[size_t(item)] = scan_chunk<uint32_t>(tensor, item, bits);
        break;
      default:
        parts[size_t(item)] = scan_chunk<uint64_t>(tensor, item, bits);
        break;
    }
  });
  for (const NonFinite& part : parts) {
    total.nan_count += part.nan_count;
    total.infinity_count += part.infinity_count;
    if (!total.any()) total.first_index = part.first_index;
  }
  return total;
}

Status require_finite(const Tensor& tensor, const std::string& name, const std::string& path) {
  const NonFinite found = scan_non_finite(tensor);
  if (!found.any()) return {};
  const bool has_nan = found.nan_count > 0;
  const std::string counts = std::to_string(found.nan_count) + " NaN, " +
                             std::to_string(found.infinity_count) + " infinite of " +
                             std::to_string(tensor.numel());
  return Error{.exit = Exit::numeric,
               .rule = has_nan ? "NU01" : "NU02",
               .path = path,
               .where = quote(name) + index_text(tensor.shape(), found.first_index),
               .what = "values are not finite; the position is the first one",
               .got = counts,
               .limit = {}};
}

int64_t count_overflow(const Tensor& tensor, DType target, int64_t* first_index) {
  struct Part {
    int64_t count = 0, first = -1;
  };
  const uint32_t threshold = first_overflow(target);
  std::vector<Part> parts(size_t(chunk_count(tensor)));
  parallel_for(chunk_count(tensor), [&](int64_t item) {
    Part& part = parts[size_t(item)];
    for_each_run(tensor, item, [&](int64_t flat, int64_t offset, int64_t count) {
      for (int64_t i = 0; i < count; ++i) {
        const uint32_t magnitude = std::bit_cast<uint32_t>(element(tensor, offset + i)) & 0x7fffffffu;
        if (magnitude < threshold || magnitude >= 0x7f800000u) continue;
        if (part.first < 0) part.first = flat + i;
        ++part.count;
      }
    });
  });
  Part total;
  for (const Part& part : parts) {
    total.count += part.count;
    if (total.first < 0) total.first = part.first;
  }
  if (first_index != nullptr) *first_index = total.first;
  return total.count;
}

std::string index_text(const Shape& shape, int64_t flat_index) {
  std::string text;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    const int64_t size = std::max<int64_t>(1, shape[axis]);
    text = fmt::format("{}{}{}", flat_index % size, text.empty() ? "" : ",", text);
    flat_index /= size;
  }
  return fmt::format("[{}]", text);
}

}  // namespace pare
