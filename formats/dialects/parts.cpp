#include "formats/dialects/parts.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/core/text.h"
#include "engine/tensor/float_formats.h"
#include "formats/fault.h"

namespace pare {
namespace {

float scale_at(const Tensor& scales, int64_t index) {
  switch (scales.dtype()) {
    case DType::f16:
      return f16_to_float(scales.data<uint16_t>()[index]);
    case DType::bf16:
      return bf16_to_float(scales.data<uint16_t>()[index]);
    default:
      return scales.data<float>()[index];
  }
}

void set_smallest_scale(const Tensor& scales, int64_t index) {
  if (scales.dtype() == DType::f32) {
    scales.mutable_data<float>()[index] = 0x1p-126f;
  } else {
    scales.mutable_data<uint16_t>()[index] =
        scales.dtype() == DType::f16 ? 0x0400 : 0x0080;  // smallest normal
  }
}

template <typename T>
void transpose(const T* from, int64_t rows, int64_t columns, T* to) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t column = 0; column < columns; ++column)
      to[column * rows + row] = from[row * columns + column];
  }
}

Result<Tensor> owned_copy(const Tensor& tensor) {
  PARE_TRY(Tensor copy, Tensor::allocate(tensor.dtype(), tensor.shape()));
  std::memcpy(copy.mutable_raw(), tensor.raw(), tensor.size_bytes());
  return copy;
}

// Codes of one row, where the scale of their group is zero, become the code of 0.0.
void clear_codes(QuantizedTensor& tensor, int64_t row, const std::vector<bool>& zero_groups) {
  const QuantScheme& scheme = tensor.scheme;
  std::vector<uint8_t> codes(size_t(tensor.in()));
  uint8_t* packed = tensor.codes.mutable_data<uint8_t>() + row * scheme.row_bytes(tensor.in());
  unpack_codes(packed, tensor.in(), scheme.bits, codes.data());
  const int64_t groups = scheme.groups(tensor.in()), width = scheme.group_width(tensor.in());
  for (int64_t i = 0; i < tensor.in(); ++i) {
    const int64_t group = tensor.group_index.defined() ? tensor.group_index.data<int32_t>()[i] : i / width;
    if (!zero_groups[size_t(group)]) continue;
    uint8_t code = uint8_t(scheme.symmetric_zero_point());
    if (scheme.kind == QuantScheme::Kind::floating) code = 0;
    const bool has_zero_points = scheme.offset == QuantScheme::Offset::zero_point;
    if (has_zero_points) {
      const bool is_one = scheme.granularity == QuantScheme::Granularity::tensor;
      code = tensor.zero_points.data<uint8_t>()[is_one ? 0 : row * groups + group];
    }
    codes[size_t(i)] = code;
  }
  pack_codes(codes.data(), tensor.in(), scheme.bits, packed);
}

Status settle_zero_scales(QuantizedTensor& tensor) {
  const int64_t count = tensor.scales.numel();
  const int64_t groups = tensor.scales.size(1);
  bool is_owned = false;
  std::vector<bool> zero_groups(static_cast<size_t>(groups), false);
  for (int64_t row = 0; row < (groups == 0 ? 0 : count / groups); ++row) {
    bool any = false;
    for (int64_t group = 0; group < groups; ++group) {
      const bool is_zero = scale_at(tensor.scales, row * groups + group) == 0.0f;
      zero_groups[size_t(group)] = is_zero;
      any = any || is_zero;
    }
    if (!any) continue;
    if (!is_owned) {
      PARE_TRY(tensor.codes, owned_copy(tensor.codes));
      PARE_TRY(tensor.scales, owned_copy(tensor.scales));
      is_owned = true;
    }
    for (int64_t group = 0; group < groups; ++group) {
      if (zero_groups[size_t(group)]) set_smallest_scale(tensor.scales, row * groups + group);
    }
    const bool is_whole = tensor.scheme.granularity == QuantScheme::Granularity::tensor;
    for (int64_t r = is_whole ? 0 : row; r < (is_whole ? tensor.out() : row + 1); ++r)
      clear_codes(tensor, r, zero_groups);
  }
  return {};
}

std::string shapes_text(std::initializer_list<Shape> shapes) {
  std::string text;
  for (const Shape& shape : shapes) text += fmt::format("{}{}", text.empty() ? "" : " or ", shape.text());
  return text;
}

std::string dtypes_text(std::initializer_list<DType> dtypes) {
  std::string text;
  for (const DType dtype : dtypes) text += fmt::format("{}{}", text.empty() ? "" : "/", dtype_name(dtype));
  return text;
}

}  // namespace

ModuleParts::ModuleParts(const WeightSource& stored, std::string module)
    : stored_(stored), module_(std::move(module)) {}

const StoredTensor* ModuleParts::find(std::string_view part) const {
  return stored_.find(name_of(part));
}

Result<const StoredTensor*> ModuleParts::need(std::string_view part, std::initializer_list<DType> dtypes,
                                              std::initializer_list<Shape> shapes) {
  PARE_TRY(const StoredTensor* found, may(part, dtypes, shapes));
  if (found != nullptr) return found;
  return malformed("QC06", stored_.path(), quote(module_), "module of the quantization config lacks a tensor",
                   "no " + quote(name_of(part)));
}

Result<const StoredTensor*> ModuleParts::may(std::string_view part, std::initializer_list<DType> dtypes,
                                             std::initializer_list<Shape> shapes) {
  const StoredTensor* found = find(part);
  if (found == nullptr) return found;
  const bool is_known_type = std::find(dtypes.begin(), dtypes.end(), found->dtype) != dtypes.end();
  const bool fits =
      shapes.size() == 0 || std::find(shapes.begin(), shapes.end(), found->shape) != shapes.end();
  if (!is_known_type || !fits || found->scheme) {
    return malformed("QC02", stored_.path(), quote(found->name),
                     "part of a quantized matrix has another shape or dtype",
                     fmt::format("{} {}", dtype_name(found->dtype), found->shape.text()),
                     fmt::format("{} {}", dtypes_text(dtypes), shapes_text(shapes)));
  }
  take(part);
  return found;
}

void ModuleParts::take(std::string_view part) {
  const StoredTensor* found = find(part);
  if (found == nullptr || std::find(names_.begin(), names_.end(), found->name) != names_.end()) return;
  names_.push_back(found->name);
  bytes_ += found->bytes;
}

Result<Tensor> load_part(const WeightSource& stored, const std::string& name) {
  PARE_TRY(const WeightData data, stored.load(name));
  return data.dense();
}

Result<Tensor> transposed_copy(const Tensor& matrix) {
  const int64_t rows = matrix.size(0), columns = matrix.size(1);
  PARE_TRY(Tensor result, Tensor::allocate(matrix.dtype(), {columns, rows}));
  switch (dtype_bytes(matrix.dtype())) {
    case 1:
      transpose(matrix.data<uint8_t>(), rows, columns, result.mutable_data<uint8_t>());
      break;
    case 2:
      transpose(matrix.data<uint16_t>(), rows, columns, result.mutable_data<uint16_t>());
      break;
    default:
      transpose(matrix.data<uint32_t>(), rows, columns, result.mutable_data<uint32_t>());
  }
  return result;
}

Status check_scales(const Tensor& scales, std::string_view path, std::string_view name) {
  const int64_t groups = scales.size(1);
  for (int64_t i = 0; i < scales.numel(); ++i) {
    const float scale = scale_at(scales, i);
    if (std::isfinite(scale) && scale >= 0.0f) continue;
    const std::string where = fmt::format("{}[{},{}]", quote(name), i / groups, i % groups);
    if (!std::isfinite(scale))
      return fault(Exit::numeric, "QC04", path, where, "scale is not finite", fmt::format("{}", scale));
    return unsupported("QC04", path, where, "negative scale", fmt::format("{}", scale), "above 0");
  }
  return {};
}

Result<Tensor> group_index_of(const Tensor& stored, int64_t groups, int64_t group_size, bool is_act_order,
                              std::string_view path, std::string_view name) {
  const int32_t* index = stored.data<int32_t>();
  std::vector<bool> is_used(static_cast<size_t>(groups), false);
  bool is_plain = true;
  for (int64_t i = 0; i < stored.numel(); ++i) {
    if (index[i] < 0 || index[i] >= groups) {
      return malformed("QC03", path, fmt::format("{}[{}]", quote(name), i), "no such group",
                       std::to_string(index[i]), fmt::format("0 to {}", groups - 1));
    }
    is_used[size_t(index[i])] = true;
    is_plain = is_plain && index[i] == i / group_size;
  }
  if (is_plain) return Tensor();
  const auto unused = std::find(is_used.begin(), is_used.end(), false);
  if (unused != is_used.end() && !is_act_order) {
    return malformed("QC03", path, quote(name),
                     "a group without columns, and no act-order that would explain it",
                     fmt::format("group {}", unused - is_used.begin()));
  }
  return owned_copy(stored);
}

Result<QuantizedTensor> finished_tensor(QuantizedTensor tensor, std::string_view path,
                                        std::string_view name) {
  PARE_CHECK(settle_zero_scales(tensor));
  PARE_CHECK(tensor.validate(path, name));
  return tensor;
}

}  // namespace pare
