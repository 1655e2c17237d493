// Writing compressed-tensors: pack-quantized for 4- and 8-bit weights, int-quantized where activations are
// int8 as well, float-quantized for f8_e4m3.
#include <fmt/core.h>

#include <cstring>

#include "engine/core/text.h"
#include "formats/dialects/compressed_tensors.h"
#include "formats/dialects/module_names.h"
#include "formats/dialects/plan.h"
#include "formats/dialects/words.h"

namespace pare {
namespace {

using Granularity = QuantScheme::Granularity;
using Offset = QuantScheme::Offset;

constexpr std::string_view kPacked = "pack-quantized", kInteger = "int-quantized", kFloat = "float-quantized";

// Matrices with equal settings; one config group each.
struct Group {
  QuantScheme scheme;                         // with one scale type and range, which the config does not name
  std::optional<ActivationQuant> activation;  // without the values of a static one
  std::vector<std::string> modules;

  std::string_view format() const {
    if (scheme.kind == QuantScheme::Kind::floating) return kFloat;
    return activation ? kInteger : kPacked;
  }
};

struct Survey {
  std::vector<Group> groups;
  DType scale_dtype = DType::f16;  // that of the model
  bool fits_model_dtype = true;
  bool has_head = false;
};

QuantScheme comparable(QuantScheme scheme) {
  scheme.scale_dtype = DType::f16;
  scheme.range = QuantScheme::Range::full;
  return scheme;
}

std::optional<ActivationQuant> comparable(std::optional<ActivationQuant> activation) {
  if (activation) {
    activation->scale = 0.0f;
    activation->zero_point = 0;
  }
  return activation;
}

Status check_scheme(const DialectTarget& target, const TensorSpec& spec, const QuantizedTensor& tensor) {
  const QuantScheme& scheme = tensor.scheme;
  if (scheme.kind == QuantScheme::Kind::codebook || scheme.offset == Offset::minimum)
    return cannot_hold(target, spec.name, "neither integer nor floating codes with integer zero points",
                       scheme.text());
  if (scheme.kind == QuantScheme::Kind::floating) {
    if (scheme.float_type != DType::f8_e4m3 || scheme.granularity == Granularity::group)
      return cannot_hold(target, spec.name, "floating weights must be F8_E4M3 per channel or tensor",
                         scheme.text());
    if (tensor.activation)
      return cannot_hold(target, spec.name, "floating weights with int activations have no format",
                         scheme.text());
    return {};
  }
  if (scheme.bits != 4 && scheme.bits != 8)
    return cannot_hold(target, spec.name, "engines load 4 and 8 bits only", std::to_string(scheme.bits),
                       "4 or 8");
  if (!tensor.activation) return {};
  if (scheme.bits != 8 || tensor.activation->bits != 8)
    return cannot_hold(target, spec.name, "int activations go with int8 weights only", scheme.text(), "int8");
  if (scheme.granularity == Granularity::group)
    return cannot_hold(target, spec.name,
                       "weights in groups with int activations are not executed by engines", scheme.text());
  return {};
}

Status check(const DialectTarget& target, const TensorSpec& spec, const QuantizedTensor& tensor,
             Survey& survey) {
  const QuantScheme& scheme = tensor.scheme;
  if (!spec.is_linear && spec.role != Role::lm_head)
    return cannot_hold(target, spec.name, "only linears may be quantized in this format", scheme.text());
  if (spec.transposed)
    return cannot_hold(target, spec.name, "matrices stored [in, out] are not part of this format",
                       scheme.text());
  if (tensor.group_index.defined()) {
    return cannot_hold(target, spec.name,
                       "columns in activation order are refused by current versions; --format gptq "
                       "holds them",
                       scheme.text());
  }
  PARE_CHECK(check_scheme(target, spec, tensor));
  if (scheme.granularity == Granularity::group && tensor.in() % scheme.group_size != 0) {
    return cannot_hold(target, spec.name, "groups do not divide the rows", std::to_string(scheme.group_size),
                       "a divisor of " + std::to_string(tensor.in()));
  }
  survey.fits_model_dtype = survey.fits_model_dtype && scales_fit(tensor, survey.scale_dtype);
  survey.has_head = survey.has_head || spec.role == Role::lm_head;
  const QuantScheme key = comparable(scheme);
  const auto activation = comparable(tensor.activation);
  Group* group = nullptr;
  for (Group& known : survey.groups) {
    if (known.scheme == key && known.activation == activation) group = &known;
  }
  if (group == nullptr) group = &survey.groups.emplace_back(Group{key, activation, {}});
  group->modules.push_back(module_of(spec.name));
  return {};
}

// Every key that the library knows in all of its versions; unknown ones are errors there.
Json arguments(int bits, std::string_view type, bool is_symmetric, std::string_view strategy, Json group_size,
               bool is_dynamic) {
  Json json = Json::object();
  json["num_bits"] = bits;
  json["type"] = type;
  json["symmetric"] = is_symmetric;
  json["strategy"] = strategy;
  json["group_size"] = std::move(group_size);
  json["block_structure"] = Json();
  json["dynamic"] = is_dynamic;
  json["actorder"] = Json();
  json["observer"] = is_dynamic ? Json() : Json("minmax");
  json["observer_kwargs"] = Json::object();
  return json;
}

Json weight_arguments(const QuantScheme& scheme) {
  const char* strategy = scheme.granularity == Granularity::group     ? "group"
                         : scheme.granularity == Granularity::channel ? "channel"
                                                                      : "tensor";
  const bool is_grouped = scheme.granularity == Granularity::group;
  return arguments(scheme.bits, scheme.kind == QuantScheme::Kind::floating ? "float" : "int",
                   scheme.is_symmetric(), strategy, is_grouped ? Json(scheme.group_size) : Json(), false);
}

Json activation_arguments(const ActivationQuant& activation) {
  const bool is_dynamic = activation.mode == ActivationQuant::Mode::dynamic_token;
  return arguments(activation.bits, "int", activation.symmetric, is_dynamic ? "token" : "tensor", Json(),
                   is_dynamic);
}

Json settings_json(const DialectTarget& target, const Survey& survey) {
  const bool is_one = survey.groups.size() == 1;
  bool has_one_format = true;
  for (const Group& group : survey.groups)
    has_one_format = has_one_format && group.format() == survey.groups[0].format();
  Json groups = Json::object();
  for (size_t i = 0; i < survey.groups.size(); ++i) {
    const Group& group = survey.groups[i];
    Json targets = Json::array();
    if (is_one) targets.push_back("Linear");
    for (size_t m = 0; !is_one && m < group.modules.size(); ++m) targets.push_back(group.modules[m]);
    Json json = Json::object();
    json["targets"] = std::move(targets);
    json["weights"] = weight_arguments(group.scheme);
    json["input_activations"] = group.activation ? activation_arguments(*group.activation) : Json();
    json["output_activations"] = Json();
    if (!has_one_format) json["format"] = group.format();
    groups[fmt::format("group_{}", i)] = std::move(json);
  }
  Json ignore = Json::array();
  bool lists_head = false;
  for (const std::string& module : dense_linears(target)) {
    ignore.push_back(module);
    lists_head = lists_head || module == "lm_head";
  }
  // A tied head is a Linear of its own for the library.
  if (!survey.has_head && !lists_head) ignore.push_back("lm_head");
  Json json = Json::object();
  json["quant_method"] = "compressed-tensors";
  json["format"] = has_one_format ? survey.groups[0].format() : std::string_view("mixed-precision");
  json["quantization_status"] = "compressed";
  json["global_compression_ratio"] = Json();
  json["ignore"] = std::move(ignore);
  json["kv_cache_scheme"] = Json();
  json["version"] = "0.12.2";  // the library whose files these are like
  json["config_groups"] = std::move(groups);
  return json;
}

// i32 [out, ceil(in * bits / 32)]
Result<Tensor> packed_codes(const QuantizedTensor& tensor) {
  const int64_t row_bytes = tensor.codes.size(1);
  const int64_t words = stream_words(tensor.in(), tensor.scheme.bits, WordOrder::dense);
  if (row_bytes == 4 * words) return as_words(tensor.codes);
  PARE_TRY(Tensor packed, Tensor::allocate(DType::i32, {tensor.out(), words}));
  for (int64_t row = 0; row < tensor.out(); ++row) {
    std::memcpy(packed.mutable_raw() + row * 4 * words, tensor.codes.raw() + row * row_bytes,
                size_t(row_bytes));
  }
  return packed;
}

// i32 [ceil(out * bits / 32), groups]
Result<Tensor> packed_zero_points(const QuantizedTensor& tensor) {
  const int64_t groups = tensor.zero_points.size(1);
  const int64_t words = stream_words(tensor.out(), tensor.scheme.bits, WordOrder::dense);
  PARE_TRY(Tensor packed, Tensor::allocate(DType::i32, {words, groups}));
  for (int64_t group = 0; group < groups; ++group) {
    pack_stream(tensor.zero_points.data<uint8_t>() + group, groups, tensor.out(), tensor.scheme.bits,
                packed.mutable_data<uint32_t>() + group, groups);
  }
  return packed;
}

// Codes less the middle code, one signed byte each.
Result<Tensor> signed_bytes(const Tensor& codes, int bits, int64_t count_per_row) {
  PARE_TRY(Tensor values, Tensor::allocate(DType::i8, {codes.size(0), count_per_row}));
  const int half = 1 << (bits - 1);
  for (int64_t i = 0; i < values.numel(); ++i)
    values.mutable_data<int8_t>()[i] = int8_t(int(codes.data<uint8_t>()[i]) - half);
  return values;
}

Result<Tensor> scalar(float value, DType dtype) {
  PARE_TRY(Tensor tensor, Tensor::allocate(DType::f32, {1}));
  tensor.mutable_data<float>()[0] = value;
  PARE_TRY(Tensor narrow, converted(tensor, dtype));
  PARE_TRY(const Tensor back, converted(narrow, DType::f32));
  return back.data<float>()[0] == value ? narrow : tensor;
}

Status encode_weight(std::string_view module, const QuantizedTensor& tensor, NamedTensors& parts) {
  const QuantScheme& scheme = tensor.scheme;
  const auto name = [&](const char* part) { return fmt::format("{}.{}", module, part); };
  const bool is_float = scheme.kind == QuantScheme::Kind::floating;
  const bool is_packed = !is_float && !tensor.activation;
  if (is_float) {
    const auto offset = static_cast<size_t>(tensor.codes.raw() - tensor.codes.storage()->data());
    parts.emplace_back(name("weight"), Tensor(tensor.codes.storage(), offset, DType::f8_e4m3, tensor.shape));
    return {};
  }
  if (!is_packed) {
    PARE_TRY(Tensor weight, signed_bytes(tensor.codes, scheme.bits, tensor.in()));
    parts.emplace_back(name("weight"), std::move(weight));
  } else {
    PARE_TRY(Tensor weight, packed_codes(tensor));
    parts.emplace_back(name("weight_packed"), std::move(weight));
    PARE_TRY(Tensor shape, Tensor::allocate(DType::i64, {2}));
    shape.mutable_data<int64_t>()[0] = tensor.out();
    shape.mutable_data<int64_t>()[1] = tensor.in();
    parts.emplace_back(name("weight_shape"), std::move(shape));
  }
  if (scheme.is_symmetric()) return {};
  const bool is_one = scheme.granularity == Granularity::tensor;
  if (is_packed && !is_one) {
    PARE_TRY(Tensor points, packed_zero_points(tensor));
    parts.emplace_back(name("weight_zero_point"), std::move(points));
  } else {
    PARE_TRY(Tensor points, signed_bytes(tensor.zero_points, scheme.bits, tensor.zero_points.size(1)));
    parts.emplace_back(name("weight_zero_point"), is_one ? points.reshaped({1}) : points);
  }
  return {};
}

// scale_dtype: of the model, when every scale fits; else each matrix keeps its own.
Result<NamedTensors> encode(std::string_view module, const QuantizedTensor& tensor,
                            std::optional<DType> scale_dtype, DType model_dtype) {
  const auto name = [&](const char* part) { return fmt::format("{}.{}", module, part); };
  NamedTensors parts;
  PARE_CHECK(encode_weight(module, tensor, parts));
  PARE_TRY(Tensor scales, converted(tensor.scales, scale_dtype.value_or(tensor.scheme.scale_dtype)));
  const bool is_one = tensor.scheme.granularity == Granularity::tensor;
  parts.emplace_back(name("weight_scale"), is_one ? scales.reshaped({1}) : scales);
  const bool is_static = tensor.activation && tensor.activation->mode == ActivationQuant::Mode::static_tensor;
  if (!is_static) return parts;
  PARE_TRY(Tensor input_scale, scalar(tensor.activation->scale, model_dtype));
  parts.emplace_back(name("input_scale"), std::move(input_scale));
  if (tensor.activation->symmetric) return parts;
  PARE_TRY(Tensor point, Tensor::allocate(DType::i8, {1}));
  point.mutable_data<int8_t>()[0] = int8_t(tensor.activation->zero_point);
  parts.emplace_back(name("input_zero_point"), std::move(point));
  return parts;
}

}  // namespace

Result<DialectPlan> plan_compressed_tensors(const DialectTarget& target) {
  Survey survey;
  survey.scale_dtype = target.model.config.stored_dtype;
  const bool is_usual = survey.scale_dtype == DType::bf16 || survey.scale_dtype == DType::f16;
  if (!is_usual) survey.scale_dtype = DType::f32;
  PARE_CHECK(for_each_quantized(target, [&](const TensorSpec& spec, const QuantizedTensor& tensor) {
    return check(target, spec, tensor, survey);
  }));
  DialectPlan plan;
  plan.settings = settings_json(target, survey);
  plan.notes.push_back(fmt::format("compressed-tensors, {}", plan.settings.find("format")->as_string()));
  if (survey.fits_model_dtype) {
    plan.notes.push_back(fmt::format("scales in {}", dtype_name(survey.scale_dtype)));
  } else {
    plan.notes.push_back(
        fmt::format("scales keep their type, since {} would change them; an engine that computes in {} "
                    "rounds them (quantize with -s{} in the scheme to avoid that)",
                    dtype_name(survey.scale_dtype), dtype_name(survey.scale_dtype),
                    survey.scale_dtype == DType::bf16 ? "bf16" : "f16"));
  }
  const std::optional<DType> common =
      survey.fits_model_dtype ? std::optional(survey.scale_dtype) : std::nullopt;
  plan.encode = [common, model_dtype = survey.scale_dtype](std::string_view module,
                                                           const QuantizedTensor& tensor) {
    return encode(module, tensor, common, model_dtype);
  };
  return plan;
}

}  // namespace pare
