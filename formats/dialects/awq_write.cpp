// Writing AWQ checkpoints in GEMM order: 4 bits, one group size for all, zero points always stored.
#include <fmt/core.h>

#include "engine/core/text.h"
#include "formats/dialects/awq.h"
#include "formats/dialects/awq_order.h"
#include "formats/dialects/module_names.h"
#include "formats/dialects/parts.h"
#include "formats/dialects/plan.h"

namespace pare {
namespace {

struct Survey {
  std::optional<int64_t> group_size;
  bool is_symmetric = true;
};

Status check(const DialectTarget& target, const TensorSpec& spec, const QuantizedTensor& tensor,
             Survey& survey) {
  PARE_CHECK(check_plain_integer(target, spec, tensor));
  const QuantScheme& scheme = tensor.scheme;
  if (scheme.bits != 4)
    return cannot_hold(target, spec.name, "the format has 4 bits only", std::to_string(scheme.bits), "4");
  if (spec.role == Role::lm_head)
    return cannot_hold(target, spec.name, "engines expect the head dense in this format", scheme.text());
  if (spec.transposed)
    return cannot_hold(target, spec.name, "matrices stored [in, out] are not part of this format",
                       scheme.text());
  if (tensor.group_index.defined())
    return cannot_hold(target, spec.name, "columns in activation order; --format gptq holds them",
                       scheme.text());
  if (tensor.out() % kAwqPerWord != 0)
    return cannot_hold(target, spec.name, "rows must be a multiple of 8", std::to_string(tensor.out()));
  if (!scales_fit(tensor, DType::f16))
    return cannot_hold(target, spec.name, "scales are not exact in F16",
                       std::string(dtype_name(scheme.scale_dtype)), "F16");
  const int64_t group_size = scheme.granularity == QuantScheme::Granularity::group ? scheme.group_size : -1;
  if (survey.group_size.value_or(group_size) != group_size) {
    return cannot_hold(target, spec.name, "the format has one group size for all matrices",
                       std::to_string(group_size), std::to_string(*survey.group_size));
  }
  survey.group_size = group_size;
  survey.is_symmetric = survey.is_symmetric && scheme.is_symmetric();
  return {};
}

Result<NamedTensors> encode(std::string_view module, const QuantizedTensor& tensor) {
  const auto name = [&](const char* part) { return fmt::format("{}.{}", module, part); };
  PARE_TRY(Tensor codes, Tensor::allocate(DType::u8, {tensor.out(), tensor.in()}));
  for (int64_t row = 0; row < tensor.out(); ++row) {
    unpack_codes(tensor.codes.data<uint8_t>() + row * tensor.scheme.row_bytes(tensor.in()), tensor.in(), 4,
                 codes.mutable_data<uint8_t>() + row * tensor.in());
  }
  NamedTensors parts;
  PARE_TRY(Tensor words, pack_awq(codes));
  parts.emplace_back(name("qweight"), std::move(words));
  PARE_TRY(const Tensor points, zero_points_by_row(tensor));
  PARE_TRY(Tensor zeros, pack_awq(points));
  parts.emplace_back(name("qzeros"), std::move(zeros));
  PARE_TRY(const Tensor scales, scales_by_row(tensor, DType::f16));
  PARE_TRY(Tensor by_group, transposed_copy(scales));
  parts.emplace_back(name("scales"), std::move(by_group));
  return parts;
}

Json settings_json(const DialectTarget& target, const Survey& survey) {
  Json json = Json::object();
  json["quant_method"] = "awq";
  json["bits"] = 4;
  json["group_size"] = *survey.group_size;
  json["zero_point"] = true;  // always stored, and engines that read false would leave them out
  json["version"] = "gemm";
  Json dense = Json::array();
  for (const std::string& module : dense_linears(target)) dense.push_back(module);
  json["modules_to_not_convert"] = dense.size() > 0 ? std::move(dense) : Json();
  return json;
}

}  // namespace

Result<DialectPlan> plan_awq(const DialectTarget& target) {
  Survey survey;
  PARE_CHECK(for_each_quantized(target, [&](const TensorSpec& spec, const QuantizedTensor& tensor) {
    return check(target, spec, tensor, survey);
  }));
  DialectPlan plan;
  plan.settings = settings_json(target, survey);
  plan.notes.push_back(fmt::format(
      "AWQ, GEMM order, {}", survey.is_symmetric ? "symmetric (zero points of 8)" : "with zero points"));
  plan.encode = encode;
  return plan;
}

}  // namespace pare
