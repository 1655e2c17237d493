// Reading GPTQ checkpoints: qweight packed along the input, qzeros along the output, v1 (zeros stored minus
// one) and v2.
#include <fmt/core.h>

#include <algorithm>

#include "engine/core/text.h"
#include "formats/dialects/fields.h"
#include "formats/dialects/gptq.h"
#include "formats/dialects/module_names.h"
#include "formats/dialects/parts.h"
#include "formats/dialects/words.h"
#include "formats/fault.h"

namespace pare {
namespace {

struct Settings {
  int bits = 4;
  int64_t group_size = -1;
  bool is_act_order = false;
  std::optional<bool> is_symmetric;
};

// An entry of "dynamic": settings for modules that a pattern names, or their exclusion.
struct Override {
  ModulePattern pattern;
  bool excludes = false;
  Settings settings;
};

struct Config {
  Settings base;
  bool is_v1 = true;
  std::vector<Override> overrides;
};

struct Matrix {
  std::string module;
  int64_t out = 0, in = 0;
  bool is_v1 = true, is_act_order = false, has_group_index = false;
  QuantScheme scheme;

  std::string part(std::string_view suffix) const { return module + "." + std::string(suffix); }
  int64_t groups() const { return scheme.groups(in); }
};

void read_settings(Fields& fields, Settings& settings) {
  settings.bits = int(fields.integer("bits").value_or(settings.bits));
  settings.group_size = fields.integer("group_size").value_or(settings.group_size);
  settings.is_act_order = fields.flag("desc_act").value_or(settings.is_act_order);
  if (const auto sym = fields.flag("sym")) settings.is_symmetric = sym;
  const bool is_known = settings.bits == 2 || settings.bits == 3 || settings.bits == 4 || settings.bits == 8;
  if (!is_known) fields.refuse("bits", "number of bits is not supported", "2, 3, 4 or 8");
  if (settings.group_size < -1 || settings.group_size == 0)
    fields.refuse("group_size", "impossible group size", "-1, or at least 1");
}

Result<std::vector<Override>> read_overrides(Fields& fields, const DialectInput& input,
                                             const Settings& base) {
  std::vector<Override> overrides;
  const Json* dynamic = fields.object("dynamic");
  if (dynamic == nullptr) return overrides;
  for (const auto& [key, value] : dynamic->members()) {
    const std::string prefix = fmt::format("{}.dynamic[{}]", input.key, quote(key));
    std::string_view pattern = key;
    Override entry{.pattern = {}, .excludes = pattern.starts_with("-:"), .settings = base};
    if (pattern.starts_with("-:") || pattern.starts_with("+:")) pattern.remove_prefix(2);
    PARE_TRY(entry.pattern, ModulePattern::compile(pattern, input.config_path, prefix));
    if (!entry.excludes) {
      if (!value.is_object())
        return malformed("CF05", input.config_path, prefix, "value has the wrong type", shown_value(value),
                         "an object");
      Fields own(value, input.config_path, prefix);
      read_settings(own, entry.settings);
      PARE_CHECK(own.status());
    }
    overrides.push_back(std::move(entry));
  }
  return overrides;
}

Result<Config> read_config(const DialectInput& input) {
  Fields fields(input.settings, input.config_path, input.key);
  Config config;
  if (fields.given("bits") == nullptr)
    return malformed("CF04", input.config_path, fields.where("bits"), "required key is missing");
  read_settings(fields, config.base);
  const char* key = fields.given("checkpoint_format") != nullptr ? "checkpoint_format" : "format";
  const std::string format = fields.text(key).value_or("gptq");
  if (format != "gptq" && format != "gptq_v2")
    fields.refuse(key, "format is not supported", "gptq or gptq_v2");
  config.is_v1 = format == "gptq";
  if (fields.flag("is_marlin_format").value_or(false))
    fields.refuse("is_marlin_format", "format is not supported", "false");
  if (fields.text("pack_dtype").value_or("int32") != "int32")
    fields.refuse("pack_dtype", "words of this type are not supported", "int32");
  PARE_CHECK(fields.status());
  PARE_TRY(config.overrides, read_overrides(fields, input, config.base));
  PARE_CHECK(fields.status());
  return config;
}

// The first override that matches decides; nothing: the module is left out.
Result<std::optional<Settings>> settings_of(const Config& config, const std::string& module) {
  for (const Override& entry : config.overrides) {
    PARE_TRY(const bool matched, entry.pattern.matches(module));
    if (matched) return entry.excludes ? std::nullopt : std::optional(entry.settings);
  }
  return std::optional(config.base);
}

// u8 [out, groups]
Result<Tensor> load_zero_points(const Matrix& matrix, const WeightSource& stored) {
  const std::string name = matrix.part("qzeros");
  PARE_TRY(const Tensor words, load_part(stored, name));
  const int64_t groups = matrix.groups();
  const int bits = matrix.scheme.bits;
  PARE_TRY(Tensor points, Tensor::allocate(DType::u8, {matrix.out, groups}));
  auto* to = points.mutable_data<uint8_t>();
  for (int64_t group = 0; group < groups; ++group) {
    unpack_stream(words.data<uint32_t>() + group * words.size(1), 1, matrix.out, bits, WordOrder::dense,
                  to + group, groups);
  }
  if (!matrix.is_v1) return points;
  const int top = (1 << bits) - 1;
  for (int64_t i = 0; i < points.numel(); ++i) {
    // Engines disagree about this one: 0 for some, 2^bits for others.
    if (to[i] == top) {
      return malformed("QC04", stored.path(), fmt::format("{}[{},{}]", quote(name), i % groups, i / groups),
                       "zero point is outside the codes", fmt::format("{} + 1", top),
                       fmt::format("1 to {}", top));
    }
    ++to[i];
  }
  return points;
}

// Whether every zero point is the middle code, which a symmetric scheme has.
Result<bool> has_middle_zero_points(const Matrix& matrix, const WeightSource& stored,
                                    std::optional<bool> declared) {
  PARE_TRY(const Tensor points, load_zero_points(matrix, stored));
  const auto* values = points.data<uint8_t>();
  const int middle = matrix.scheme.symmetric_zero_point();
  const auto* other =
      std::find_if(values, values + points.numel(), [&](uint8_t value) { return value != middle; });
  if (other == values + points.numel()) return true;
  if (!declared.value_or(false)) return false;
  return malformed("QC04", stored.path(), quote(matrix.part("qzeros")),
                   "zero point is not the middle code, though \"sym\" is true", std::to_string(*other),
                   std::to_string(middle));
}

Result<QuantizedTensor> load_matrix(const Matrix& matrix, const WeightSource& stored) {
  QuantizedTensor tensor;
  tensor.scheme = matrix.scheme;
  tensor.shape = {matrix.out, matrix.in};
  PARE_TRY(const Tensor words, load_part(stored, matrix.part("qweight")));
  PARE_TRY(const Tensor rows, transposed_words(words));
  PARE_TRY(tensor.codes, canonical_rows(rows, matrix.in, matrix.scheme.bits));
  PARE_TRY(const Tensor scales, load_part(stored, matrix.part("scales")));
  PARE_CHECK(check_scales(scales, stored.path(), matrix.part("scales")));
  PARE_TRY(tensor.scales, transposed_copy(scales));
  if (!matrix.scheme.is_symmetric()) {
    PARE_TRY(tensor.zero_points, load_zero_points(matrix, stored));
  }
  if (matrix.has_group_index) {
    const std::string name = matrix.part("g_idx");
    PARE_TRY(const Tensor index, load_part(stored, name));
    PARE_TRY(tensor.group_index, group_index_of(index, matrix.groups(), matrix.scheme.group_width(matrix.in),
                                                matrix.is_act_order, stored.path(), name));
    // One group for all has nothing to sort.
    if (matrix.scheme.granularity != QuantScheme::Granularity::group) tensor.group_index = Tensor();
  }
  return finished_tensor(std::move(tensor), stored.path(), matrix.part("weight"));
}

Result<TranslatedTensor> translate(const ModelMatrix& model, const Settings& settings, bool is_v1,
                                   const DialectInput& input) {
  const WeightSource& stored = input.stored;
  ModuleParts parts(stored, model.module);
  Matrix matrix;
  matrix.module = model.module;
  matrix.out = model.spec.out();
  matrix.in = model.spec.in();
  matrix.is_v1 = is_v1;
  matrix.is_act_order = settings.is_act_order;
  QuantScheme& scheme = matrix.scheme;
  scheme.bits = settings.bits;
  scheme.range = QuantScheme::Range::full;
  const bool is_grouped = settings.group_size > 0 && settings.group_size < matrix.in;
  scheme.granularity = is_grouped ? QuantScheme::Granularity::group : QuantScheme::Granularity::channel;
  if (is_grouped) scheme.group_size = settings.group_size;

  PARE_TRY(const StoredTensor* packed, parts.need("qweight", {DType::i32}, {}));
  const Shape expected{stream_words(matrix.in, scheme.bits, WordOrder::dense), matrix.out};
  // Three words hold 32 elements of 3 bits; there is no layout for a part of that.
  const bool is_whole = scheme.bits != 3 || (matrix.in % 32 == 0 && matrix.out % 32 == 0);
  if (!(packed->shape == expected) || !is_whole) {
    return malformed("QC01", stored.path(), quote(packed->name), "shape does not fit the declared bits",
                     packed->shape.text(), expected.text());
  }
  const int64_t zero_words = stream_words(matrix.out, scheme.bits, WordOrder::dense);
  PARE_TRY(const StoredTensor* zeros,
           parts.need("qzeros", {DType::i32}, {Shape{matrix.groups(), zero_words}}));
  static_cast<void>(zeros);
  PARE_TRY(const StoredTensor* scales,
           parts.need("scales", {DType::f16, DType::bf16, DType::f32}, {Shape{matrix.groups(), matrix.out}}));
  scheme.scale_dtype = scales->dtype;
  PARE_TRY(const StoredTensor* index, settings.is_act_order&& is_grouped
                                          ? parts.need("g_idx", {DType::i32}, {Shape{matrix.in}})
                                          : parts.may("g_idx", {DType::i32}, {Shape{matrix.in}}));
  matrix.has_group_index = index != nullptr;
  PARE_TRY(const bool is_symmetric, has_middle_zero_points(matrix, stored, settings.is_symmetric));
  if (!is_symmetric) {
    scheme.offset = QuantScheme::Offset::zero_point;
    scheme.range = QuantScheme::Range::narrow;  // the default where it means nothing
  }
  TranslatedTensor result;
  result.tensor = {.name = model.spec.name,
                   .dtype = scheme.scale_dtype,
                   .shape = {matrix.out, matrix.in},
                   .scheme = scheme,
                   .transposed = model.spec.transposed,
                   .bytes = parts.bytes()};
  result.parts = parts.names();
  result.load = [matrix](const WeightSource& source) { return load_matrix(matrix, source); };
  return result;
}

}  // namespace

Result<Translation> read_gptq(const DialectInput& input) {
  PARE_TRY(const Config config, read_config(input));
  Translation translation;
  for (const ModelMatrix& matrix : input.matrices) {
    const ModuleParts parts(input.stored, matrix.module);
    bool has_part = false;
    for (const char* name : {"qweight", "qzeros", "scales", "g_idx"})
      has_part = has_part || parts.find(name) != nullptr;
    const bool is_dense = parts.find("weight") != nullptr;
    if (!has_part && (is_dense || !matrix.spec.required)) continue;
    PARE_TRY(const auto settings, settings_of(config, matrix.module));
    if (!settings) continue;
    PARE_TRY(TranslatedTensor tensor, translate(matrix, *settings, config.is_v1, input));
    translation.tensors.push_back(std::move(tensor));
  }
  return translation;
}

}  // namespace pare
