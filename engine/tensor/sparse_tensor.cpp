#include "engine/tensor/sparse_tensor.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <vector>

#include "engine/core/assert.h"
#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/code_grid.h"
#include "engine/tensor/sparse_walk.h"

namespace pare {
namespace {

using Kind = SparsityPattern::Kind;
constexpr int64_t kRowsPerItem = 16;

int64_t rows_of(const SparsityPattern& pattern, int64_t out) {
  return pattern.kind == Kind::block ? (out + pattern.block_rows - 1) / pattern.block_rows : out;
}

int64_t padded(int64_t slots, bool are_codes) {
  return are_codes ? (slots + 7) / 8 * 8 : slots;
}

// One bit per block; a block that the mask keeps in part was refused before.
Result<Tensor> block_bits(const Mask& mask, const SparsityPattern& pattern) {
  const int64_t height = pattern.block_rows, width = pattern.block_columns;
  const int64_t block_rows = rows_of(pattern, mask.out()), blocks = (mask.in() + width - 1) / width;
  PARE_TRY(Tensor bits, Tensor::allocate(DType::u8, {block_rows, (blocks + 7) / 8}));
  uint8_t* data = bits.mutable_data<uint8_t>();
  for (int64_t row = 0; row < block_rows; ++row) {
    uint8_t* target = data + row * ((blocks + 7) / 8);
    for (int64_t block = 0; block < blocks; ++block) {
      if (mask.kept(row * height, block * width)) target[block / 8] |= uint8_t(1 << (block % 8));
    }
  }
  return bits;
}

// Positions within groups of m, packed row by row.
Result<Tensor> packed_indices(const Mask& mask, const SparsityPattern& pattern) {
  const int64_t kept = kept_per_row(pattern, mask.in()), m = pattern.m;
  const int bits = index_bits(pattern.m);
  const int64_t row_bytes = (kept * bits + 7) / 8, mask_bytes = (mask.in() + 7) / 8;
  PARE_TRY(Tensor indices, Tensor::allocate(DType::u8, {mask.out(), row_bytes}));
  uint8_t* target = indices.mutable_data<uint8_t>();
  const uint8_t* source = mask.bits().data<uint8_t>();
  parallel_ranges(mask.out(), kRowsPerItem, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> positions(size_t(kept), 0);
    for (int64_t row = begin; row < end; ++row) {
      size_t count = 0;
      int64_t left = 0;
      for_set_bits(source + row * mask_bytes, mask.in(), [&](int64_t column) {
        while (column >= left + m) left += m;
        positions[count++] = uint8_t(column - left);
      });
      PARE_ASSERT(int64_t(count) == kept, "[sparse] row {} keeps {} of {}", row, count, kept);
      pack_codes(positions.data(), kept, bits, target + row * row_bytes);
    }
  });
  return indices;
}

// Everything but values: pattern, shape, mask or indices, row pointers.
Result<SparseTensor> structure_of(const Mask& mask, const SparsityPattern& pattern, bool are_codes) {
  PARE_CHECK(mask.verify(pattern, "mask"));
  SparseTensor tensor;
  tensor.pattern = pattern;
  tensor.shape = Shape{mask.out(), mask.in()};
  if (pattern.kind == Kind::n_of_m) {
    PARE_TRY(tensor.indices, packed_indices(mask, pattern));
    return tensor;
  }
  if (pattern.kind == Kind::block) {
    PARE_TRY(tensor.mask, block_bits(mask, pattern));
  } else {
    PARE_TRY(tensor.mask, Tensor::allocate(DType::u8, mask.bits().shape()));
    if (mask.bits().numel() > 0)
      std::memcpy(tensor.mask.mutable_raw(), mask.bits().raw(), mask.bits().size_bytes());
  }
  const int64_t rows = tensor.storage_rows(), in = mask.in();
  PARE_TRY(tensor.row_pointers, Tensor::allocate(DType::i64, {rows + 1}));
  int64_t* pointers = tensor.row_pointers.mutable_data<int64_t>();
  const int64_t units =
      pattern.kind == Kind::block ? (in + pattern.block_columns - 1) / pattern.block_columns : in;
  const uint8_t* bits = tensor.mask.data<uint8_t>();
  for (int64_t row = 0; row < rows; ++row) {
    int64_t count = 0;
    if (pattern.kind == Kind::unstructured) {
      for (int64_t i = 0; i < (in + 7) / 8; ++i) count += std::popcount(bits[row * ((in + 7) / 8) + i]);
    } else {
      const int64_t height = std::min<int64_t>(pattern.block_rows, mask.out() - row * pattern.block_rows);
      for_set_bits(bits + row * ((units + 7) / 8), units, [&](int64_t block) {
        count += height * std::min<int64_t>(pattern.block_columns, in - block * pattern.block_columns);
      });
    }
    pointers[row + 1] = pointers[row] + padded(count, are_codes);
  }
  return tensor;
}

template <typename Element>
void gather_values(const Tensor& weight, SparseTensor& tensor) {
  Element* values = tensor.values.mutable_data<Element>();
  parallel_ranges(tensor.out(), kRowsPerItem, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const Element* source = weight.data<Element>() + row * weight.row_stride();
      for_row_slots(tensor, row, [&](int64_t column, int64_t slot) { values[slot] = source[column]; });
    }
  });
}

template <typename Element>
void scatter_values(const SparseTensor& tensor, Tensor& dense) {
  const Element* values = tensor.values.data<Element>();
  Element* target = dense.mutable_data<Element>();
  parallel_ranges(tensor.out(), kRowsPerItem, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for_row_slots(tensor, row,
                    [&](int64_t column, int64_t slot) { target[row * tensor.in() + column] = values[slot]; });
    }
  });
}

// Codes of the kept weights of one row of storage, in slot order.
void collect_codes(const QuantizedTensor& weight, const SparseTensor& tensor, int64_t storage_row,
                   std::vector<uint8_t>& row_codes, std::vector<uint8_t>& slots) {
  const int64_t height = tensor.pattern.kind == Kind::block ? tensor.pattern.block_rows : 1;
  const int64_t first = tensor.row_begin(storage_row);
  slots.assign(size_t(tensor.row_begin(storage_row + 1) - first), 0);
  const int64_t end = std::min(tensor.out(), (storage_row + 1) * height);
  for (int64_t row = storage_row * height; row < end; ++row) {
    unpack_codes(weight.codes.data<uint8_t>() + row * weight.scheme.row_bytes(tensor.in()), tensor.in(),
                 weight.scheme.bits, row_codes.data());
    for_row_slots(tensor, row, [&](int64_t column, int64_t slot) {
      slots[size_t(slot - first)] = row_codes[size_t(column)];
    });
  }
}

// The code that stands for exactly 0 on a grid, or -1.
int code_of_zero(const std::array<float, 256>& values, const GroupGrid& grid, int code_count) {
  for (int code = 0; code < code_count; ++code)
    if (grid.weight(values[size_t(code)]) == 0.0f) return code;
  return -1;
}

}  // namespace

int index_bits(int m) {
  return int(std::bit_width(unsigned(m - 1)));
}

int64_t kept_per_row(const SparsityPattern& pattern, int64_t in) {
  const int64_t n = pattern.n, m = pattern.m, width = in % m;
  return in / m * n + width - (m - n) * width / m;
}

int64_t SparseTensor::storage_rows() const {
  return rows_of(pattern, out());
}

int64_t SparseTensor::row_begin(int64_t storage_row) const {
  if (pattern.kind != Kind::n_of_m) return row_pointers.data<int64_t>()[storage_row];
  return storage_row * padded(kept_per_row(pattern, in()), has_codes());
}

uint64_t SparseTensor::size_bytes() const {
  uint64_t total = 0;
  for (const Tensor* part :
       {&mask, &indices, &row_pointers, &values, &codes, &scales, &zero_points, &minimums, &codebook}) {
    if (part->defined()) total += part->size_bytes();
  }
  return total;
}

int64_t SparseTensor::kept_count() const {
  if (pattern.kind == Kind::n_of_m) return out() * kept_per_row(pattern, in());
  if (!has_codes()) return slots();
  if (pattern.kind == Kind::unstructured) return Mask(mask, out(), in()).kept_count();
  int64_t count = 0;
  for (int64_t row = 0; row < out(); ++row) for_row_slots(*this, row, [&](int64_t, int64_t) { ++count; });
  return count;
}

double SparseTensor::sparsity() const {
  const int64_t total = shape.numel();
  return total == 0 ? 0.0 : double(total - kept_count()) / double(total);
}

double SparseTensor::bits_per_weight() const {
  return shape.numel() == 0 ? 0.0 : 8.0 * double(size_bytes()) / double(shape.numel());
}

Result<SparseTensor> SparseTensor::from_dense(const Tensor& weight, const Mask& mask,
                                              const SparsityPattern& pattern) {
  PARE_ASSERT(weight.shape() == Shape({mask.out(), mask.in()}), "[sparse] weight {}, mask [{}, {}]",
              weight.shape().text(), mask.out(), mask.in());
  PARE_ASSERT(weight.dtype() == DType::f32 || weight.dtype() == DType::bf16 || weight.dtype() == DType::f16,
              "[sparse] weight of type {}", dtype_name(weight.dtype()));
  PARE_TRY(SparseTensor tensor, structure_of(mask, pattern, false));
  PARE_TRY(tensor.values, Tensor::allocate(weight.dtype(), {tensor.slots()}));
  if (weight.dtype() == DType::f32) {
    gather_values<float>(weight, tensor);
  } else {
    gather_values<uint16_t>(weight, tensor);
  }
  return tensor;
}

Result<SparseTensor> SparseTensor::from_quantized(const QuantizedTensor& weight, const Mask& mask,
                                                  const SparsityPattern& pattern) {
  PARE_ASSERT(weight.shape == Shape({mask.out(), mask.in()}), "[sparse] weight {}, mask [{}, {}]",
              weight.shape.text(), mask.out(), mask.in());
  if (weight.group_index.defined()) {
    return Error{.exit = Exit::unsupported,
                 .rule = "PK11",
                 .path = {},
                 .where = "group_index",
                 .what = "codes whose groups are permuted have no sparse form; use static groups",
                 .got = weight.scheme.text(),
                 .limit = {}};
  }
  PARE_TRY(SparseTensor tensor, structure_of(mask, pattern, true));
  tensor.scheme = weight.scheme;
  tensor.activation = weight.activation;
  tensor.scales = weight.scales;
  tensor.zero_points = weight.zero_points;
  tensor.minimums = weight.minimums;
  tensor.codebook = weight.codebook;
  const int bits = weight.scheme.bits;
  PARE_TRY(tensor.codes, Tensor::allocate(DType::u8, {tensor.slots() / 8 * bits}));
  uint8_t* packed = tensor.codes.mutable_data<uint8_t>();
  parallel_ranges(tensor.storage_rows(), kRowsPerItem, [&](int64_t begin, int64_t end) {
    std::vector<uint8_t> row_codes(size_t(tensor.in()), 0), slots;
    for (int64_t row = begin; row < end; ++row) {
      collect_codes(weight, tensor, row, row_codes, slots);
      pack_codes(slots.data(), int64_t(slots.size()), bits, packed + tensor.row_begin(row) / 8 * bits);
    }
  });
  return tensor;
}

Result<Mask> SparseTensor::kept() const {
  PARE_TRY(Tensor bits, Tensor::allocate(DType::u8, {out(), (in() + 7) / 8}));
  uint8_t* target = bits.mutable_data<uint8_t>();
  parallel_ranges(out(), kRowsPerItem, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      uint8_t* line = target + row * ((in() + 7) / 8);
      for_row_slots(*this, row,
                    [&](int64_t column, int64_t) { line[column / 8] |= uint8_t(1 << (column % 8)); });
    }
  });
  return Mask(std::move(bits), out(), in());
}

Result<Tensor> SparseTensor::to_dense() const {
  PARE_TRY(Tensor dense, Tensor::allocate(has_codes() ? DType::f32 : values.dtype(), shape));
  if (has_codes()) {
    float* target = dense.mutable_data<float>();
    parallel_ranges(out(), kRowsPerItem,
                    [&](int64_t begin, int64_t end) { dense_rows(begin, end, target + begin * in()); });
  } else if (values.dtype() == DType::f32) {
    scatter_values<float>(*this, dense);
  } else {
    scatter_values<uint16_t>(*this, dense);
  }
  return dense;
}

void SparseTensor::dense_rows(int64_t begin, int64_t end, float* target) const {
  PARE_ASSERT(begin >= 0 && begin <= end && end <= out(), "[sparse] rows {} to {} of {}", begin, end,
              shape.text());
  std::fill(target, target + (end - begin) * in(), 0.0f);
  if (!has_codes()) {
    for (int64_t row = begin; row < end; ++row) {
      float* line = target + (row - begin) * in();
      for_row_slots(*this, row,
                    [&](int64_t column, int64_t slot) { line[column] = load_float(values, slot); });
    }
    return;
  }
  const std::array<float, 256> meanings = code_values(*scheme, codebook);
  const int64_t width = scheme->group_width(in());
  const uint8_t* packed = codes.data<uint8_t>();
  for (int64_t row = begin; row < end; ++row) {
    float* line = target + (row - begin) * in();
    int64_t group = -1;
    GroupGrid grid;
    for_row_slots(*this, row, [&](int64_t column, int64_t slot) {
      if (column / width != group) {
        group = column / width;
        grid = grid_at(*this, *scheme, row, group);
      }
      line[column] = grid.weight(meanings[read_bits(packed, slot * scheme->bits, scheme->bits)]);
    });
  }
}

Result<QuantizedTensor> SparseTensor::to_quantized(std::string_view path, std::string_view name) const {
  PARE_ASSERT(has_codes(), "[sparse] {} has no codes", name);
  PARE_TRY(QuantizedTensor whole, QuantizedTensor::allocate(*scheme, out(), in()));
  whole.activation = activation;
  whole.scales = scales;
  whole.zero_points = zero_points;
  whole.minimums = minimums;
  whole.codebook = codebook;
  const std::array<float, 256> meanings = code_values(*scheme, codebook);
  const int64_t width = scheme->group_width(in()), groups = scheme->groups(in());
  constexpr int kRemoved = 256;
  std::vector<int16_t> row_codes(size_t(in()), 0);
  std::vector<uint8_t> bytes(size_t(in()), 0);
  for (int64_t row = 0; row < out() && in() > 0; ++row) {
    std::fill(row_codes.begin(), row_codes.end(), int16_t{kRemoved});
    for_row_slots(*this, row, [&](int64_t column, int64_t slot) {
      row_codes[size_t(column)] =
          int16_t(read_bits(codes.data<uint8_t>(), slot * scheme->bits, scheme->bits));
    });
    for (int64_t group = 0; group < groups; ++group) {
      const int zero = code_of_zero(meanings, grid_at(*this, *scheme, row, group), scheme->code_count());
      for (int64_t column = group * width; column < std::min(in(), (group + 1) * width); ++column) {
        const int code = row_codes[size_t(column)] == kRemoved ? zero : row_codes[size_t(column)];
        if (code < 0) {
          return Error{
              .exit = Exit::unsupported,
              .rule = "PK11",
              .path = std::string(path),
              .where = quote(name),
              .what = "removed weights have no code here: 0 is not on the grid; keep the model in .pare",
              .got = scheme->text(),
              .limit = {}};
        }
        bytes[size_t(column)] = uint8_t(code);
      }
    }
    pack_codes(bytes.data(), in(), scheme->bits,
               whole.codes.mutable_data<uint8_t>() + row * scheme->row_bytes(in()));
  }
  return whole;
}

uint64_t sparse_bytes(const SparsityPattern& pattern, int64_t out, int64_t in, int64_t kept, int value_bits,
                      bool are_codes) {
  const int64_t rows = rows_of(pattern, out);
  int64_t slots = kept, places = 0;
  switch (pattern.kind) {
    case Kind::unstructured:
      places = out * ((in + 7) / 8) + 8 * (rows + 1);
      break;
    case Kind::n_of_m:
      places = out * ((kept_per_row(pattern, in) * index_bits(pattern.m) + 7) / 8);
      slots = out * kept_per_row(pattern, in);
      break;
    case Kind::block:
      places = rows * (((in + pattern.block_columns - 1) / pattern.block_columns + 7) / 8) + 8 * (rows + 1);
      break;
  }
  if (are_codes)
    slots = pattern.kind == Kind::n_of_m ? out * padded(kept_per_row(pattern, in), true) : slots + 7 * rows;
  return uint64_t(places) + uint64_t((slots * value_bits + 7) / 8);
}

Result<std::optional<SparseTensor>> smallest_form(const Tensor& weight, const Mask& mask,
                                                  const SparsityPattern& pattern) {
  const DType dtype = weight.dtype();
  if (dtype != DType::f32 && dtype != DType::bf16 && dtype != DType::f16)
    return std::optional<SparseTensor>();
  const uint64_t bytes =
      sparse_bytes(pattern, mask.out(), mask.in(), mask.kept_count(), dtype_bits(dtype), false);
  if (bytes >= weight.size_bytes()) return std::optional<SparseTensor>();
  PARE_TRY(SparseTensor sparse, SparseTensor::from_dense(weight, mask, pattern));
  return std::optional<SparseTensor>(std::move(sparse));
}

Result<std::optional<SparseTensor>> smallest_form(const QuantizedTensor& weight, const Mask& mask,
                                                  const SparsityPattern& pattern) {
  if (weight.group_index.defined()) return std::optional<SparseTensor>();
  PARE_TRY(SparseTensor sparse, SparseTensor::from_quantized(weight, mask, pattern));
  if (sparse.size_bytes() >= weight.size_bytes()) return std::optional<SparseTensor>();
  return std::optional<SparseTensor>(std::move(sparse));
}

}  // namespace pare
