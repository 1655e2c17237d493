#include "engine/tensor/sparse_detect.h"

#include <algorithm>
#include <bit>
#include <vector>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/tensor/sparse_walk.h"

namespace pare {
namespace {

using Kind = SparsityPattern::Kind;
constexpr int64_t kRowsPerItem = 16;

// Bits of elements that are not zero once the sign is shifted out.
template <typename Element>
void mark_nonzero(const Tensor& weight, uint8_t* bits) {
  const int64_t in = weight.size(1), row_bytes = (in + 7) / 8;
  parallel_ranges(weight.size(0), kRowsPerItem, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const Element* values = weight.data<Element>() + row * weight.row_stride();
      for (int64_t column = 0; column < in; ++column) {
        const bool is_kept = Element(values[column] << 1) != 0;
        bits[row * row_bytes + column / 8] |= uint8_t(int{is_kept} << (column % 8));
      }
    }
  });
}

// Weights of [begin, begin + width) of a row, width <= 16.
int count_in(const uint8_t* row, int64_t begin, int64_t width) {
  int count = 0;
  for (int64_t i = begin; i < begin + width; ++i) count += (row[i / 8] >> (i % 8)) & 1;
  return count;
}

// The smallest n that every group of m allows, or 0 if it is not below m.
int smallest_n(const Mask& nonzero, int m) {
  const int64_t in = nonzero.in(), row_bytes = (in + 7) / 8,
                items = (nonzero.out() + kRowsPerItem - 1) / kRowsPerItem;
  std::vector<int> most(size_t(items), 1);
  parallel_ranges(nonzero.out(), kRowsPerItem, [&](int64_t begin, int64_t end) {
    int& n = most[size_t(begin / kRowsPerItem)];
    for (int64_t row = begin; row < end && n < m; ++row) {
      const uint8_t* bits = nonzero.bits().data<uint8_t>() + row * row_bytes;
      for (int64_t left = 0; left < in; left += m) {
        const int64_t width = std::min<int64_t>(m, in - left);
        const int count = count_in(bits, left, width);
        // A group of width w keeps w - floor((m - n) w / m).
        while (n < m && width - (m - n) * width / m < count) ++n;
      }
    }
  });
  int n = 1;
  for (const int found : most) n = std::max(n, found);
  return n < m ? n : 0;
}

void fill_groups(Mask& mask, const SparsityPattern& pattern, bool& fits) {
  const int64_t in = mask.in(), m = pattern.m, n = pattern.n, row_bytes = (in + 7) / 8;
  for (int64_t row = 0; row < mask.out() && fits; ++row) {
    const uint8_t* bits = mask.bits().data<uint8_t>() + row * row_bytes;
    for (int64_t left = 0; left < in; left += m) {
      const int64_t width = std::min(m, in - left);
      int64_t missing = width - (m - n) * width / m - count_in(bits, left, width);
      fits = fits && missing >= 0;
      for (int64_t i = 0; i < width && missing > 0; ++i) {
        if (mask.kept(row, left + i)) continue;
        mask.set(row, left + i, true);
        --missing;
      }
    }
  }
}

void fill_blocks(Mask& mask, const SparsityPattern& pattern) {
  for (int64_t top = 0; top < mask.out(); top += pattern.block_rows) {
    const int64_t bottom = std::min<int64_t>(mask.out(), top + pattern.block_rows);
    for (int64_t left = 0; left < mask.in(); left += pattern.block_columns) {
      const int64_t right = std::min<int64_t>(mask.in(), left + pattern.block_columns);
      bool is_kept = false;
      for (int64_t row = top; row < bottom && !is_kept; ++row)
        for (int64_t column = left; column < right && !is_kept; ++column) is_kept = mask.kept(row, column);
      for (int64_t row = top; row < bottom && is_kept; ++row)
        for (int64_t column = left; column < right; ++column) mask.set(row, column, true);
    }
  }
}

Result<Mask> copy_of(const Mask& mask) {
  PARE_TRY(Tensor bits, Tensor::allocate(DType::u8, mask.bits().shape()));
  std::copy_n(mask.bits().data<uint8_t>(), mask.bits().numel(), bits.mutable_data<uint8_t>());
  return Mask(std::move(bits), mask.out(), mask.in());
}

std::vector<SparsityPattern> candidates(const Mask& nonzero) {
  std::vector<SparsityPattern> patterns;
  for (const int m : {2, 4, 8, 16}) {
    if (const int n = smallest_n(nonzero, m); n > 0)
      patterns.push_back({.kind = Kind::n_of_m, .n = n, .m = m});
  }
  patterns.push_back({});
  for (const auto& [rows, columns] : {std::pair{1, 8}, {4, 4}, {16, 16}})
    patterns.push_back({.kind = Kind::block, .block_rows = rows, .block_columns = columns});
  return patterns;
}

struct Choice {
  SparsityPattern pattern;
  std::optional<Mask> mask;
  uint64_t bytes = 0;
};

// The pattern with the fewest bytes; the first of equals.
Result<Choice> best_of(const Mask& nonzero, const std::optional<SparsityPattern>& pattern, int value_bits,
                       bool are_codes) {
  Choice best;
  for (const SparsityPattern& candidate :
       pattern ? std::vector<SparsityPattern>{*pattern} : candidates(nonzero)) {
    PARE_TRY(std::optional<Mask> mask, fitted_mask(nonzero, candidate));
    if (!mask) continue;
    const uint64_t bytes =
        sparse_bytes(candidate, nonzero.out(), nonzero.in(), mask->kept_count(), value_bits, are_codes);
    if (best.mask && bytes >= best.bytes) continue;
    best = {candidate, std::move(mask), bytes};
  }
  return best;
}

bool has_sparse_form(const Tensor& weight) {
  const DType dtype = weight.dtype();
  return weight.shape().rank() == 2 && (dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16);
}

}  // namespace

Result<Mask> nonzero_mask(const Tensor& weight) {
  PARE_ASSERT(has_sparse_form(weight), "[sparse] {} {}", dtype_name(weight.dtype()), weight.shape().text());
  PARE_TRY(Tensor bits, Tensor::allocate(DType::u8, {weight.size(0), (weight.size(1) + 7) / 8}));
  if (weight.dtype() == DType::f32) {
    mark_nonzero<uint32_t>(weight, bits.mutable_data<uint8_t>());
  } else {
    mark_nonzero<uint16_t>(weight, bits.mutable_data<uint8_t>());
  }
  return Mask(std::move(bits), weight.size(0), weight.size(1));
}

Result<Mask> nonzero_mask(const QuantizedTensor& weight) {
  const int64_t in = weight.in(), row_bytes = (in + 7) / 8;
  PARE_TRY(Tensor bits, Tensor::allocate(DType::u8, {weight.out(), row_bytes}));
  uint8_t* target = bits.mutable_data<uint8_t>();
  parallel_ranges(weight.out(), kRowsPerItem, [&](int64_t begin, int64_t end) {
    std::vector<float> values(size_t(in), 0.0f);
    for (int64_t row = begin; row < end; ++row) {
      weight.dequantize_rows(row, row + 1, values.data());
      for (int64_t column = 0; column < in; ++column)
        target[row * row_bytes + column / 8] |= uint8_t(int{values[size_t(column)] != 0.0f} << (column % 8));
    }
  });
  return Mask(std::move(bits), weight.out(), in);
}

Result<bool> zeros_hold(const QuantizedTensor& weight, const Mask& kept) {
  PARE_TRY(const Mask nonzero, nonzero_mask(weight));
  PARE_ASSERT(nonzero.bits().shape() == kept.bits().shape(), "[sparse] mask [{}, {}] of {}", kept.out(),
              kept.in(), weight.shape.text());
  const uint8_t* values = nonzero.bits().data<uint8_t>();
  const uint8_t* allowed = kept.bits().data<uint8_t>();
  for (int64_t i = 0; i < nonzero.bits().numel(); ++i)
    if ((values[i] & ~allowed[i]) != 0) return false;
  return true;
}

Result<std::optional<Mask>> fitted_mask(const Mask& nonzero, const SparsityPattern& pattern) {
  PARE_TRY(Mask mask, copy_of(nonzero));
  bool fits = true;
  if (pattern.kind == Kind::n_of_m) fill_groups(mask, pattern, fits);
  if (pattern.kind == Kind::block) fill_blocks(mask, pattern);
  return fits ? std::optional<Mask>(std::move(mask)) : std::optional<Mask>();
}

Result<std::optional<SparseTensor>> sparse_form_of(const Tensor& weight,
                                                   const std::optional<SparsityPattern>& pattern) {
  if (!has_sparse_form(weight)) return std::optional<SparseTensor>();
  PARE_TRY(const Mask nonzero, nonzero_mask(weight));
  PARE_TRY(const Choice best, best_of(nonzero, pattern, dtype_bits(weight.dtype()), false));
  if (!best.mask) return std::optional<SparseTensor>();
  return smallest_form(weight, *best.mask, best.pattern);
}

Result<std::optional<SparseTensor>> sparse_form_of(const QuantizedTensor& weight,
                                                   const std::optional<SparsityPattern>& pattern) {
  PARE_TRY(const Mask nonzero, nonzero_mask(weight));
  PARE_TRY(const Choice best, best_of(nonzero, pattern, weight.scheme.bits, true));
  if (!best.mask) return std::optional<SparseTensor>();
  return smallest_form(weight, *best.mask, best.pattern);
}

}  // namespace pare
