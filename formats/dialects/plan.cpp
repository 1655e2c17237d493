#include "formats/dialects/plan.h"

#include <cstring>

#include "engine/core/text.h"
#include "engine/tensor/float_formats.h"
#include "formats/dialects/module_names.h"
#include "formats/fault.h"

namespace pare {
namespace {

using Granularity = QuantScheme::Granularity;
using Offset = QuantScheme::Offset;

// Whether the file will hold codes of it; a low-rank tensor is written as the dense product.
bool has_codes(const StoredTensor& stored) {
  return stored.scheme.has_value() && !stored.is_low_rank();
}

}  // namespace

Error cannot_hold(const DialectTarget& target, std::string_view tensor, std::string what, std::string got,
                  std::string expected) {
  return unsupported("QC08", target.source.path(), quote(tensor), std::move(what), std::move(got),
                     std::move(expected));
}

Status for_each_quantized(
    const DialectTarget& target,
    const std::function<Status(const TensorSpec& spec, const QuantizedTensor& tensor)>& check) {
  bool has_any = false;
  for (const TensorSpec& spec : target.model.tensors) {
    if (!has_codes(*target.source.find(spec.name))) continue;
    has_any = true;
    PARE_TRY(const WeightData data, target.source.load(spec.name));
    PARE_CHECK(data.validate(target.source.path(), spec.name));
    if (data.is_sparse()) {
      PARE_TRY(const QuantizedTensor whole, data.sparse()->to_quantized(target.source.path(), spec.name));
      PARE_CHECK(check(spec, whole));
    } else {
      PARE_CHECK(check(spec, *data.quantized()));
    }
    target.source.release(spec.name);
  }
  if (has_any) return {};
  return unsupported("QC08", target.source.path(), "",
                     "nothing is quantized; quantize the model first, or export it "
                     "as safetensors");
}

Status check_plain_integer(const DialectTarget& target, const TensorSpec& spec,
                           const QuantizedTensor& tensor) {
  const QuantScheme& scheme = tensor.scheme;
  if (!spec.is_linear && spec.role != Role::lm_head)
    return cannot_hold(target, spec.name, "only linears may be quantized in this format", scheme.text());
  if (scheme.kind != QuantScheme::Kind::integer)
    return cannot_hold(target, spec.name, "codes are not integers", scheme.text());
  if (scheme.offset == Offset::minimum)
    return cannot_hold(target, spec.name, "offsets are not integer zero points", scheme.text());
  if (tensor.activation)
    return cannot_hold(target, spec.name, "the format has no place for quantized activations",
                       tensor.activation->text());
  if (scheme.granularity == Granularity::group && tensor.in() % scheme.group_size != 0) {
    return cannot_hold(target, spec.name, "groups do not divide the rows", std::to_string(scheme.group_size),
                       "a divisor of " + std::to_string(tensor.in()));
  }
  return {};
}

bool scales_fit(const QuantizedTensor& tensor, DType dtype) {
  if (tensor.scheme.scale_dtype == dtype || dtype == DType::f32) return true;
  const auto wide = converted(tensor.scales, DType::f32);
  if (!wide) return false;
  const float* scales = wide->data<float>();
  for (int64_t i = 0; i < wide->numel(); ++i) {
    const float back =
        dtype == DType::f16 ? f16_to_float(float_to_f16(scales[i])) : bf16_to_float(float_to_bf16(scales[i]));
    if (back != scales[i]) return false;
  }
  return true;
}

Result<Tensor> scales_by_row(const QuantizedTensor& tensor, DType dtype) {
  Tensor scales = tensor.scales;
  if (scales.dtype() != dtype) {
    PARE_TRY(scales, converted(scales, dtype));
  }
  if (tensor.scheme.granularity != Granularity::tensor) return scales;
  PARE_TRY(Tensor rows, Tensor::allocate(dtype, {tensor.out(), 1}));
  const auto width = static_cast<size_t>(dtype_bytes(dtype));
  for (int64_t row = 0; row < tensor.out(); ++row)
    std::memcpy(rows.mutable_raw() + size_t(row) * width, scales.raw(), width);
  return rows;
}

Result<Tensor> zero_points_by_row(const QuantizedTensor& tensor) {
  const QuantScheme& scheme = tensor.scheme;
  const bool is_one = scheme.granularity == Granularity::tensor;
  if (scheme.offset == Offset::zero_point && !is_one) return tensor.zero_points;
  PARE_TRY(Tensor points, Tensor::allocate(DType::u8, {tensor.out(), scheme.groups(tensor.in())}));
  const int value = scheme.offset == Offset::zero_point ? tensor.zero_points.data<uint8_t>()[0]
                                                        : scheme.symmetric_zero_point();
  std::memset(points.mutable_raw(), value, points.size_bytes());
  return points;
}

std::vector<std::string> dense_linears(const DialectTarget& target) {
  std::vector<std::string> modules;
  for (const TensorSpec& spec : target.model.tensors) {
    // Routers are linears for the tools that read this, and stay as they are.
    const bool is_linear = spec.is_linear || spec.role == Role::lm_head || spec.role == Role::router;
    if (is_linear && !has_codes(*target.source.find(spec.name))) modules.push_back(module_of(spec.name));
  }
  return modules;
}

}  // namespace pare
