// Writing GPTQ checkpoints. v1 (zero points stored minus one) unless a zero point of 0 asks for v2.
#include <fmt/core.h>

#include <algorithm>
#include <map>

#include "engine/core/text.h"
#include "engine/core/version.h"
#include "formats/dialects/gptq.h"
#include "formats/dialects/module_names.h"
#include "formats/dialects/parts.h"
#include "formats/dialects/plan.h"
#include "formats/dialects/words.h"

namespace pare {
namespace {

constexpr int64_t kMultiple = 32;  // of rows and columns, for the kernels of every engine

struct Setting {
  int bits = 4;
  int64_t group_size = -1;
  bool operator<(const Setting& other) const {
    return std::pair(bits, group_size) < std::pair(other.bits, other.group_size);
  }
  bool operator==(const Setting&) const = default;
};

struct Survey {
  std::vector<std::pair<std::string, Setting>> modules;  // in execution order
  bool is_symmetric = true, is_act_order = false, has_zero_zero_point = false, has_head = false;
};

Setting setting_of(const QuantScheme& scheme) {
  return {scheme.bits, scheme.granularity == QuantScheme::Granularity::group ? scheme.group_size : -1};
}

Status check(const DialectTarget& target, const TensorSpec& spec, const QuantizedTensor& tensor,
             Survey& survey) {
  PARE_CHECK(check_plain_integer(target, spec, tensor));
  const QuantScheme& scheme = tensor.scheme;
  const bool is_known = scheme.bits == 2 || scheme.bits == 3 || scheme.bits == 4 || scheme.bits == 8;
  if (!is_known)
    return cannot_hold(target, spec.name, "no layout for this number of bits", std::to_string(scheme.bits),
                       "2, 3, 4 or 8");
  if (tensor.in() % kMultiple != 0 || tensor.out() % kMultiple != 0)
    return cannot_hold(target, spec.name, "rows and columns must be multiples of 32", tensor.shape.text());
  if (!scales_fit(tensor, DType::f16))
    return cannot_hold(target, spec.name, "scales are not exact in F16",
                       std::string(dtype_name(scheme.scale_dtype)), "F16");
  survey.modules.emplace_back(module_of(spec.name), setting_of(scheme));
  survey.is_symmetric = survey.is_symmetric && scheme.is_symmetric();
  survey.is_act_order = survey.is_act_order || tensor.group_index.defined();
  survey.has_head = survey.has_head || spec.role == Role::lm_head;
  if (scheme.is_symmetric()) return {};
  const auto* points = tensor.zero_points.data<uint8_t>();
  survey.has_zero_zero_point =
      survey.has_zero_zero_point ||
      std::any_of(points, points + tensor.zero_points.numel(), [](uint8_t value) { return value == 0; });
  return {};
}

// The setting that most modules have; of equals the first.
Setting most_frequent(const Survey& survey) {
  std::map<Setting, size_t> counts;
  for (const auto& module : survey.modules) ++counts[module.second];
  Setting best = survey.modules.front().second;
  for (const auto& module : survey.modules) {
    if (counts[module.second] > counts[best]) best = module.second;
  }
  return best;
}

// A module path as a pattern that matches nothing else.
std::string exact_pattern(std::string_view sign, std::string_view module) {
  std::string pattern(sign);
  pattern += '^';
  for (const char c : module) {
    if (c == '.') pattern += '\\';
    pattern += c;
  }
  return pattern + '$';
}

Json overrides(const DialectTarget& target, const Survey& survey, const Setting& base) {
  Json dynamic = Json::object();
  for (const auto& [module, setting] : survey.modules) {
    if (setting == base) continue;
    Json values = Json::object();
    values["bits"] = setting.bits;
    values["group_size"] = setting.group_size;
    dynamic[exact_pattern("+:", module)] = values;
  }
  for (const std::string& module : dense_linears(target)) {
    const TensorSpec* spec = target.model.find(module + ".weight");
    if (spec->role != Role::lm_head) dynamic[exact_pattern("-:", module)] = Json::object();
  }
  return dynamic;
}

Json settings_json(const DialectTarget& target, const Survey& survey, bool is_v1) {
  const Setting base = most_frequent(survey);
  Json json = Json::object();
  json["quant_method"] = "gptq";
  json["bits"] = base.bits;
  json["group_size"] = base.group_size;
  json["desc_act"] = survey.is_act_order;
  json["sym"] = survey.is_symmetric;
  json["lm_head"] = survey.has_head;
  json["checkpoint_format"] = is_v1 ? "gptq" : "gptq_v2";
  json["true_sequential"] = true;
  json["static_groups"] = false;
  json["damp_percent"] = 0.01;
  json["pack_dtype"] = "int32";
  Json dynamic = overrides(target, survey, base);
  if (dynamic.size() > 0) json["dynamic"] = std::move(dynamic);
  Json quantizer = Json::array();
  quantizer.push_back(fmt::format("pare:{}", kVersion));
  Json meta = Json::object();
  meta["quantizer"] = std::move(quantizer);
  json["meta"] = std::move(meta);
  return json;
}

Result<Tensor> packed_zero_points(const QuantizedTensor& tensor, bool is_v1) {
  PARE_TRY(const Tensor points, zero_points_by_row(tensor));
  PARE_TRY(const Tensor by_group, transposed_copy(points));  // [groups, out], a new tensor
  auto* values = by_group.mutable_data<uint8_t>();
  for (int64_t i = 0; is_v1 && i < by_group.numel(); ++i) --values[i];
  const int64_t groups = by_group.size(0);
  const int64_t words = stream_words(tensor.out(), tensor.scheme.bits, WordOrder::dense);
  PARE_TRY(Tensor packed, Tensor::allocate(DType::i32, {groups, words}));
  for (int64_t group = 0; group < groups; ++group) {
    pack_stream(values + group * tensor.out(), 1, tensor.out(), tensor.scheme.bits,
                packed.mutable_data<uint32_t>() + group * words, 1);
  }
  return packed;
}

Result<Tensor> group_of_columns(const QuantizedTensor& tensor) {
  if (tensor.group_index.defined()) return tensor.group_index;
  PARE_TRY(Tensor index, Tensor::allocate(DType::i32, {tensor.in()}));
  const int64_t width = tensor.scheme.group_width(tensor.in());
  for (int64_t i = 0; i < tensor.in(); ++i) index.mutable_data<int32_t>()[i] = int32_t(i / width);
  return index;
}

Result<NamedTensors> encode(std::string_view module, const QuantizedTensor& tensor, bool is_v1) {
  const auto name = [&](const char* part) { return fmt::format("{}.{}", module, part); };
  NamedTensors parts;
  PARE_TRY(const Tensor rows, as_words(tensor.codes));
  PARE_TRY(Tensor codes, transposed_words(rows));
  parts.emplace_back(name("qweight"), std::move(codes));
  PARE_TRY(Tensor points, packed_zero_points(tensor, is_v1));
  parts.emplace_back(name("qzeros"), std::move(points));
  PARE_TRY(const Tensor scales, scales_by_row(tensor, DType::f16));
  PARE_TRY(Tensor by_group, transposed_copy(scales));
  parts.emplace_back(name("scales"), std::move(by_group));
  PARE_TRY(Tensor index, group_of_columns(tensor));
  parts.emplace_back(name("g_idx"), std::move(index));
  return parts;
}

}  // namespace

Result<DialectPlan> plan_gptq(const DialectTarget& target) {
  Survey survey;
  PARE_CHECK(for_each_quantized(target, [&](const TensorSpec& spec, const QuantizedTensor& tensor) {
    return check(target, spec, tensor, survey);
  }));
  const bool is_v1 = !survey.has_zero_zero_point;
  DialectPlan plan;
  plan.settings = settings_json(target, survey, is_v1);
  plan.files.push_back({"quantize_config.json", plan.settings.dump(2) + "\n"});
  plan.notes.push_back(fmt::format("GPTQ {}, {}{}",
                                   is_v1 ? "v1" : "v2 (a zero point is 0, which v1 cannot say)",
                                   survey.is_symmetric ? "symmetric" : "with zero points",
                                   survey.is_act_order ? ", columns in activation order" : ""));
  plan.encode = [is_v1](std::string_view module, const QuantizedTensor& tensor) {
    return encode(module, tensor, is_v1);
  };
  return plan;
}

}  // namespace pare
