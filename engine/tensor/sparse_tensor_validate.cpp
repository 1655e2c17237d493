// SparseTensor::validate(): everything a reader must know before slots are used. Rules PK07 to PK09, PK11.
#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <string>
#include <vector>

#include <fmt/core.h>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/code_grid.h"
#include "engine/tensor/sparse_tensor.h"
#include "engine/tensor/sparse_walk.h"
#include "engine/tensor/tensor_scan.h"

namespace pare {
namespace {

using Kind = SparsityPattern::Kind;
constexpr int64_t kRowsPerItem = 64;

// Where the tensor came from, for messages.
struct Origin {
  std::string_view path, name;

  Error error(const char* rule, std::string where, std::string what, std::string got = {},
              std::string limit = {}) const {
    return Error{.exit = Exit::malformed,
                 .rule = rule,
                 .path = std::string(path),
                 .where = quote(name) + std::move(where),
                 .what = std::move(what),
                 .got = std::move(got),
                 .limit = std::move(limit),
                 .limit_label = "expected"};
  }
};

std::string shape_and_type(const Tensor& tensor) {
  return tensor.defined() ? std::string(dtype_name(tensor.dtype())) + " " + tensor.shape().text() : "nothing";
}

Status check_part(const Origin& origin, const char* role, const Tensor& part, DType dtype,
                  const Shape& shape) {
  if (part.defined() && part.dtype() == dtype && part.shape() == shape && part.is_contiguous()) return {};
  return origin.error("PK11", std::string(".") + role, "part does not fit shape and pattern",
                      shape_and_type(part), std::string(dtype_name(dtype)) + " " + shape.text());
}

Status check_absent(const Origin& origin, const char* role, const Tensor& part) {
  if (!part.defined()) return {};
  return origin.error("PK11", std::string(".") + role, "part that this pattern does not have",
                      shape_and_type(part));
}

Status check_pattern(const Origin& origin, const SparseTensor& tensor) {
  if (tensor.shape.rank() != 2) return origin.error("PK11", ".shape", "not a matrix", tensor.shape.text());
  const SparsityPattern& pattern = tensor.pattern;
  const bool is_sound =
      pattern.kind == Kind::unstructured ||
      (pattern.kind == Kind::n_of_m && pattern.n >= 1 && pattern.n < pattern.m && pattern.m <= 16) ||
      (pattern.kind == Kind::block && pattern.block_rows >= 1 && pattern.block_columns >= 1);
  if (!is_sound) return origin.error("PK11", ".pattern", "not a pattern", pattern.text());
  return {};
}

// Bits of the mask in one row of storage.
int64_t units_of(const SparseTensor& tensor) {
  if (tensor.pattern.kind != Kind::block) return tensor.in();
  return (tensor.in() + tensor.pattern.block_columns - 1) / tensor.pattern.block_columns;
}

// Slots that the mask asks for in a row of storage, without padding.
int64_t kept_in_row(const SparseTensor& tensor, int64_t row) {
  const int64_t units = units_of(tensor);
  const uint8_t* bits = tensor.mask.data<uint8_t>() + row * ((units + 7) / 8);
  int64_t count = 0;
  if (tensor.pattern.kind == Kind::unstructured) {
    for (int64_t i = 0; i < (units + 7) / 8; ++i) count += std::popcount(bits[i]);
    return count;
  }
  const int64_t height = tensor.pattern.block_rows, width = tensor.pattern.block_columns;
  const int64_t rows = std::min(height, tensor.out() - row * height);
  for_set_bits(bits, units,
               [&](int64_t block) { count += rows * std::min(width, tensor.in() - block * width); });
  return count;
}

// Mask and row pointers agree, so that every slot lies inside the values. `slots`: how many there are.
Status check_mask(const Origin& origin, const SparseTensor& tensor, int64_t slots) {
  const int64_t rows = tensor.storage_rows(), units = units_of(tensor), row_bytes = (units + 7) / 8;
  PARE_CHECK(check_part(origin, "mask", tensor.mask, DType::u8, {rows, row_bytes}));
  PARE_CHECK(check_part(origin, "row_pointers", tensor.row_pointers, DType::i64, {rows + 1}));
  PARE_CHECK(check_absent(origin, "indices", tensor.indices));
  const int64_t* pointers = tensor.row_pointers.data<int64_t>();
  if (pointers[0] != 0)
    return origin.error("PK11", ".row_pointers[0]", "does not begin at 0", std::to_string(pointers[0]), "0");
  const uint8_t* bits = tensor.mask.data<uint8_t>();
  for (int64_t row = 0; row < rows; ++row) {
    if (units % 8 != 0 && (bits[(row + 1) * row_bytes - 1] >> (units % 8)) != 0)
      return origin.error("PK11", fmt::format(".mask[{}]", row), "bits behind the last column are not zero");
    const int64_t kept = kept_in_row(tensor, row);
    const int64_t expected = pointers[row] + (tensor.has_codes() ? (kept + 7) / 8 * 8 : kept);
    if (pointers[row + 1] == expected) continue;
    return origin.error("PK11", fmt::format(".row_pointers[{}]", row + 1),
                        "does not fit the bits of the mask", std::to_string(pointers[row + 1]),
                        std::to_string(expected));
  }
  if (pointers[rows] != slots) {
    return origin.error("PK11", tensor.has_codes() ? ".codes" : ".values", "not as many as the mask keeps",
                        std::to_string(slots), std::to_string(pointers[rows]));
  }
  return {};
}

// First fault of a row of indices, or nothing.
std::optional<Error> check_index_row(const Origin& origin, const SparseTensor& tensor, int64_t row) {
  const int64_t n = tensor.pattern.n, m = tensor.pattern.m, in = tensor.in();
  const int bits = index_bits(tensor.pattern.m);
  const int64_t kept = kept_per_row(tensor.pattern, in), full = in / m * n,
                row_bytes = tensor.indices.size(1);
  const uint8_t* indices = tensor.indices.data<uint8_t>() + row * row_bytes;
  const int64_t used = kept * bits % 8;
  if (used != 0 && (indices[row_bytes - 1] >> used) != 0)
    return origin.error("PK11", fmt::format(".indices[{}]", row), "bits behind the last index are not zero");
  int64_t lowest = 0;
  for (int64_t i = 0; i < kept; ++i) {
    if (i <= full && i % n == 0) lowest = 0;
    const int64_t width = i < full ? m : in % m;
    const int64_t index = read_bits(indices, i * bits, bits);
    if (index < lowest || index >= width) {
      return origin.error("PK11", fmt::format(".indices[{},{}]", row, i), "index out of range or order",
                          std::to_string(index), fmt::format("{} to {}", lowest, width - 1));
    }
    lowest = index + 1;
  }
  return std::nullopt;
}

std::optional<Error> first_of(std::vector<std::optional<Error>>& errors) {
  for (std::optional<Error>& error : errors)
    if (error) return std::move(error);
  return std::nullopt;
}

// body(row) of all rows, in parallel; the first error by row.
template <typename Body>
Status each_row(int64_t rows, Body&& body) {
  std::vector<std::optional<Error>> errors(size_t((rows + kRowsPerItem - 1) / kRowsPerItem));
  parallel_ranges(rows, kRowsPerItem, [&](int64_t begin, int64_t end) {
    std::optional<Error>& error = errors[size_t(begin / kRowsPerItem)];
    for (int64_t row = begin; row < end && !error; ++row) error = body(row);
  });
  if (std::optional<Error> error = first_of(errors)) return std::move(*error);
  return {};
}

Status check_indices(const Origin& origin, const SparseTensor& tensor, int64_t slots) {
  const int64_t kept = kept_per_row(tensor.pattern, tensor.in());
  const int64_t row_bytes = (kept * index_bits(tensor.pattern.m) + 7) / 8;
  PARE_CHECK(check_part(origin, "indices", tensor.indices, DType::u8, {tensor.out(), row_bytes}));
  PARE_CHECK(check_absent(origin, "mask", tensor.mask));
  PARE_CHECK(check_absent(origin, "row_pointers", tensor.row_pointers));
  if (slots != tensor.slots()) {
    return origin.error("PK11", tensor.has_codes() ? ".codes" : ".values", "not as many as the pattern keeps",
                        std::to_string(slots), std::to_string(tensor.slots()));
  }
  return each_row(tensor.out(), [&](int64_t row) { return check_index_row(origin, tensor, row); });
}

Status check_grid(const Origin& origin, const SparseTensor& tensor) {
  QuantizedTensor grid;
  grid.scheme = *tensor.scheme;
  grid.shape = tensor.shape;
  grid.scales = tensor.scales;
  grid.zero_points = tensor.zero_points;
  grid.minimums = tensor.minimums;
  grid.codebook = tensor.codebook;
  grid.activation = tensor.activation;
  return grid.validate_grid(origin.path, origin.name);
}

// Kept codes are codes of the scheme, padding is zero.
Status check_codes(const Origin& origin, const SparseTensor& tensor) {
  const QuantScheme& scheme = *tensor.scheme;
  const std::array<bool, 256> forbidden = forbidden_codes(scheme);
  const uint8_t* packed = tensor.codes.data<uint8_t>();
  const int64_t height = tensor.pattern.kind == Kind::block ? tensor.pattern.block_rows : 1;
  return each_row(tensor.storage_rows(), [&](int64_t storage_row) -> std::optional<Error> {
    std::optional<Error> error;
    int64_t kept = 0;
    const int64_t end = std::min(tensor.out(), (storage_row + 1) * height);
    for (int64_t row = storage_row * height; row < end && !error; ++row) {
      for_row_slots(tensor, row, [&](int64_t column, int64_t slot) {
        ++kept;
        const uint32_t code = read_bits(packed, slot * scheme.bits, scheme.bits);
        if (!forbidden[code] || error) return;
        error = origin.error("PK08", fmt::format(".codes[{},{}]", row, column),
                             "code that the scheme does not use", std::to_string(code));
      });
    }
    for (int64_t slot = tensor.row_begin(storage_row) + kept;
         slot < tensor.row_begin(storage_row + 1) && !error; ++slot) {
      if (read_bits(packed, slot * scheme.bits, scheme.bits) != 0)
        error =
            origin.error("PK08", fmt::format(".codes, row {}", storage_row), "padding codes are not zero");
    }
    return error;
  });
}

}  // namespace

Status SparseTensor::validate(std::string_view path, std::string_view name) const {
  const Origin origin{path, name};
  PARE_CHECK(check_pattern(origin, *this));
  const Tensor& stored = has_codes() ? codes : values;
  if (!stored.defined() || stored.shape().rank() != 1 || !stored.is_contiguous())
    return origin.error("PK11", has_codes() ? ".codes" : ".values", "not a list", shape_and_type(stored));
  int64_t stored_slots = stored.numel();
  if (has_codes()) {
    PARE_CHECK(check_grid(origin, *this));
    PARE_CHECK(check_absent(origin, "values", values));
    if (codes.dtype() != DType::u8 || codes.numel() % scheme->bits != 0)
      return origin.error("PK11", ".codes", "not whole groups of eight codes", shape_and_type(codes));
    stored_slots = codes.numel() / scheme->bits * 8;
  } else {
    if (values.dtype() != DType::f32 && values.dtype() != DType::bf16 && values.dtype() != DType::f16)
      return origin.error("PK11", ".values", "type without a sparse form", shape_and_type(values),
                          "F32, BF16 or F16");
    for (const auto& [role, part] : {std::pair<const char*, const Tensor*>{"codes", &codes},
                                     {"scales", &scales},
                                     {"zero_points", &zero_points},
                                     {"minimums", &minimums},
                                     {"codebook", &codebook}})
      PARE_CHECK(check_absent(origin, role, *part));
    if (activation) return origin.error("PK11", ".activation", "given for values that are not rounded");
  }
  if (pattern.kind == Kind::n_of_m) {
    PARE_CHECK(check_indices(origin, *this, stored_slots));
  } else {
    PARE_CHECK(check_mask(origin, *this, stored_slots));
  }
  if (has_codes()) return check_codes(origin, *this);
  return require_finite(values, std::string(name), std::string(path));
}

}  // namespace pare
