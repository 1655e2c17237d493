// QuantizedTensor::validate(): everything a reader must know before the codes are used. Rules PK07 to PK10.
#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <vector>

#include <fmt/core.h>

#include "engine/core/parallel.h"
#include "engine/core/text.h"
#include "engine/tensor/code_grid.h"
#include "engine/tensor/quantized_tensor.h"

namespace pare {
namespace {

using Kind = QuantScheme::Kind;
using Granularity = QuantScheme::Granularity;
using Offset = QuantScheme::Offset;

// Where the tensor came from, for messages.
struct Origin {
  std::string_view path, name;

  Error error(Exit exit, const char* rule, std::string where, std::string what, std::string got,
              std::string limit = {}) const {
    return Error{.exit = exit,
                 .rule = rule,
                 .path = std::string(path),
                 .where = quote(name) + std::move(where),
                 .what = std::move(what),
                 .got = std::move(got),
                 .limit = std::move(limit),
                 .limit_label = "expected"};
  }
};

std::string at(int64_t row, int64_t column) {
  return fmt::format("[{},{}]", row, column);
}

std::string shape_and_type(const Tensor& tensor) {
  return tensor.defined() ? std::string(dtype_name(tensor.dtype())) + " " + tensor.shape().text() : "nothing";
}

Status check_part(const Origin& origin, const char* role, const Tensor& part, DType dtype,
                  const Shape& shape) {
  if (part.defined() && part.dtype() == dtype && part.shape() == shape && part.is_contiguous()) return {};
  return origin.error(Exit::malformed, "PK09", std::string(".") + role, "part does not fit the scheme",
                      shape_and_type(part), std::string(dtype_name(dtype)) + " " + shape.text());
}

Status check_absent(const Origin& origin, const char* role, const Tensor& part) {
  if (!part.defined()) return {};
  return origin.error(Exit::malformed, "PK09", std::string(".") + role, "part that the scheme does not have",
                      shape_and_type(part));
}

Status check_scheme(const Origin& origin, const QuantizedTensor& tensor) {
  const QuantScheme& scheme = tensor.scheme;
  if (tensor.shape.rank() != 2) {
    return origin.error(Exit::malformed, "PK09", ".shape", "not a matrix", tensor.shape.text());
  }
  if (scheme.bits < 2 || scheme.bits > 8 || (scheme.kind == Kind::floating && scheme.bits != 8)) {
    return origin.error(Exit::malformed, "PK09", ".bits", "impossible value", std::to_string(scheme.bits));
  }
  if (scheme.granularity == Granularity::group && scheme.group_size < 1) {
    return origin.error(Exit::malformed, "PK09", ".group_size", "impossible value",
                        std::to_string(scheme.group_size));
  }
  if (scheme.kind == Kind::codebook && scheme.codebook != "custom" &&
      (scheme.codebook != "nf4" || scheme.bits != 4)) {
    return origin.error(Exit::malformed, "PK09", ".codebook", "unknown codebook", quote(scheme.codebook));
  }
  if (scheme.kind != Kind::integer && !scheme.is_symmetric()) {
    return origin.error(Exit::malformed, "PK09", ".offset", "offset without an integer grid", {});
  }
  return {};
}

Status check_parts(const Origin& origin, const QuantizedTensor& tensor) {
  const QuantScheme& scheme = tensor.scheme;
  const int64_t in = tensor.in();
  const Shape scale_shape{scheme.granularity == Granularity::tensor ? 1 : tensor.out(), scheme.groups(in)};
  PARE_CHECK(check_part(origin, "scales", tensor.scales, scheme.scale_dtype, scale_shape));
  PARE_CHECK(scheme.offset == Offset::zero_point
                 ? check_part(origin, "zero_points", tensor.zero_points, DType::u8, scale_shape)
                 : check_absent(origin, "zero_points", tensor.zero_points));
  PARE_CHECK(scheme.offset == Offset::minimum
                 ? check_part(origin, "minimums", tensor.minimums, scheme.scale_dtype, scale_shape)
                 : check_absent(origin, "minimums", tensor.minimums));
  PARE_CHECK(scheme.kind == Kind::codebook && scheme.codebook == "custom"
                 ? check_part(origin, "codebook", tensor.codebook, DType::f32, {scheme.code_count()})
                 : check_absent(origin, "codebook", tensor.codebook));
  if (!tensor.group_index.defined()) return {};
  return scheme.granularity == Granularity::group
             ? check_part(origin, "group_index", tensor.group_index, DType::i32, {in})
             : check_absent(origin, "group_index", tensor.group_index);
}

Status check_scales(const Origin& origin, const QuantizedTensor& tensor) {
  const int64_t groups = tensor.scales.size(1);
  for (int64_t i = 0; i < tensor.scales.numel(); ++i) {
    const float scale = load_float(tensor.scales, i);
    // Code 0 of a grid with a minimum is the minimum; the grid may then run downwards.
    const bool may_fall = tensor.scheme.offset == Offset::minimum && scale < 0.0f;
    if (std::isfinite(scale) && (scale > 0.0f || may_fall)) continue;
    return origin.error(Exit::numeric, "PK07", ".scales" + at(i / groups, i % groups),
                        "scale must be finite and positive", std::to_string(scale));
  }
  for (int64_t i = 0; tensor.minimums.defined() && i < tensor.minimums.numel(); ++i) {
    if (std::isfinite(load_float(tensor.minimums, i))) continue;
    return origin.error(Exit::numeric, "PK07", ".minimums" + at(i / groups, i % groups),
                        "minimum must be finite", std::to_string(load_float(tensor.minimums, i)));
  }
  for (int64_t i = 0; tensor.codebook.defined() && i < tensor.codebook.numel(); ++i) {
    if (std::isfinite(tensor.codebook.data<float>()[i])) continue;
    return origin.error(Exit::numeric, "PK07", fmt::format(".codebook[{}]", i),
                        "codebook value must be finite", std::to_string(tensor.codebook.data<float>()[i]));
  }
  return {};
}

Status check_indices(const Origin& origin, const QuantizedTensor& tensor) {
  const int64_t groups = tensor.scales.size(1);
  for (int64_t i = 0; tensor.zero_points.defined() && i < tensor.zero_points.numel(); ++i) {
    const int zero_point = tensor.zero_points.data<uint8_t>()[i];
    if (zero_point < tensor.scheme.code_count()) continue;
    return origin.error(Exit::malformed, "PK08", ".zero_points" + at(i / groups, i % groups),
                        "zero point is not a code", std::to_string(zero_point),
                        fmt::format("below {}", tensor.scheme.code_count()));
  }
  for (int64_t i = 0; tensor.group_index.defined() && i < tensor.group_index.numel(); ++i) {
    const int32_t group = tensor.group_index.data<int32_t>()[i];
    if (group >= 0 && group < groups) continue;
    return origin.error(Exit::malformed, "PK10", fmt::format(".group_index[{}]", i), "no such group",
                        std::to_string(group), fmt::format("0 to {}", groups - 1));
  }
  return {};
}

// First bad code of a row, or nothing. `packed` has row_bytes bytes.
std::optional<Error> check_row(const Origin& origin, const QuantScheme& scheme,
                               const std::array<bool, 256>& forbidden, const uint8_t* packed, int64_t row,
                               int64_t in) {
  const int used_bits = int(in * scheme.bits % 8);
  if (used_bits != 0 && (packed[scheme.row_bytes(in) - 1] >> used_bits) != 0) {
    return origin.error(Exit::malformed, "PK08", ".codes" + at(row, in),
                        "bits behind the last code are not zero", {});
  }
  constexpr int64_t kChunk = 512;
  std::array<uint8_t, size_t{kChunk}> codes;
  for (int64_t begin = 0; begin < in; begin += kChunk) {
    const int64_t count = std::min(kChunk, in - begin);
    unpack_codes(packed + begin * scheme.bits / 8, count, scheme.bits, codes.data());
    for (int64_t i = 0; i < count; ++i) {
      if (!forbidden[codes[size_t(i)]]) continue;
      return origin.error(Exit::malformed, "PK08", ".codes" + at(row, begin + i),
                          "code that the scheme does not use", std::to_string(codes[size_t(i)]));
    }
  }
  return std::nullopt;
}

Status check_codes(const Origin& origin, const QuantizedTensor& tensor) {
  const QuantScheme& scheme = tensor.scheme;
  const int64_t in = tensor.in();
  const std::array<bool, 256> forbidden = forbidden_codes(scheme);
  const bool has_forbidden = std::ranges::find(forbidden, true) != forbidden.end();
  if (in == 0 || (!has_forbidden && in * scheme.bits % 8 == 0)) return {};
  constexpr int64_t kRowsPerItem = 64;
  std::vector<std::optional<Error>> errors(size_t((tensor.out() + kRowsPerItem - 1) / kRowsPerItem));
  parallel_ranges(tensor.out(), kRowsPerItem, [&](int64_t begin, int64_t end) {
    std::optional<Error>& error = errors[size_t(begin / kRowsPerItem)];
    for (int64_t row = begin; row < end && !error; ++row) {
      error = check_row(origin, scheme, forbidden, tensor.codes.data<uint8_t>() + row * scheme.row_bytes(in),
                        row, in);
    }
  });
  for (std::optional<Error>& error : errors) {
    if (error) return std::move(*error);
  }
  return {};
}

}  // namespace

Status QuantizedTensor::validate_grid(std::string_view path, std::string_view name) const {
  const Origin origin{path, name};
  PARE_CHECK(check_scheme(origin, *this));
  PARE_CHECK(check_parts(origin, *this));
  if (activation) PARE_CHECK(activation->validate(path, quote(name) + ".activation"));
  PARE_CHECK(check_scales(origin, *this));
  return check_indices(origin, *this);
}

Status QuantizedTensor::validate(std::string_view path, std::string_view name) const {
  const Origin origin{path, name};
  PARE_CHECK(check_scheme(origin, *this));
  PARE_CHECK(check_part(origin, "codes", codes, DType::u8, {out(), scheme.row_bytes(in())}));
  PARE_CHECK(validate_grid(path, name));
  return check_codes(origin, *this);
}

}  // namespace pare
