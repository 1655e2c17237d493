#include "formats/dialects/compressed_tensors_config.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "formats/dialects/fields.h"
#include "formats/fault.h"

namespace pare {
namespace {

constexpr std::array<std::string_view, 12> kArgumentKeys{
    "num_bits", "type",     "symmetric",   "strategy", "group_size", "block_structure",
    "dynamic",  "actorder", "scale_dtype", "zp_dtype", "observer",   "observer_kwargs"};
constexpr std::array<std::string_view, 5> kGroupKeys{"targets", "weights", "input_activations",
                                                     "output_activations", "format"};
constexpr std::string_view kRemedy =
    "activations quantized like this are not executed; --ignore-activation-quant "
    "reads the weights alone";

QuantArgs::Strategy strategy_of(std::string_view name) {
  using Strategy = QuantArgs::Strategy;
  if (name == "tensor") return Strategy::tensor;
  if (name == "channel") return Strategy::channel;
  if (name == "group") return Strategy::group;
  if (name == "block") return Strategy::block;
  if (name == "token") return Strategy::token;
  return Strategy::other;
}

// "group" (or "dynamic", or true) sorts columns into groups by importance; "weight" and "static" do not.
bool read_act_order(Fields& fields, const Json& json) {
  const Json* value = json.find("actorder");
  if (value == nullptr || value->is_null()) return false;
  if (value->is_bool()) return value->as_bool();
  const std::string name = value->is_string() ? value->as_string() : "";
  if (name == "group" || name == "dynamic") return true;
  if (name != "weight" && name != "static") fields.refuse("actorder", "unknown order of columns");
  return false;
}

void read_block(Fields& fields, QuantArgs& args) {
  const Json* block = fields.list("block_structure");
  const bool is_pair =
      block != nullptr && block->size() == 2 && (*block)[0].is_integer() && (*block)[1].is_integer();
  if (is_pair) {
    args.block_rows = (*block)[0].as_int();
    args.block_columns = (*block)[1].as_int();
  }
  if (args.block_rows < 1 || args.block_columns < 1)
    fields.refuse("block_structure", "not two sizes", "[rows, columns]");
}

Result<QuantArgs> parse_args(const Json& json, const std::string& path, const std::string& prefix) {
  Fields fields(json, path, prefix);
  fields.refuse_unknown(kArgumentKeys);
  QuantArgs args;
  const int64_t bits = fields.integer("num_bits").value_or(8);
  if (bits < 1 || bits > 8) fields.refuse("num_bits", "number of bits is not supported", "1 to 8");
  args.bits = int(bits);
  const std::string type = fields.text("type").value_or("int");
  if (type != "int" && type != "float") fields.refuse("type", "unknown type", "int or float");
  args.is_float = type == "float";
  args.symmetric = fields.flag("symmetric").value_or(true);
  const auto group_size = fields.integer("group_size");
  const std::string inferred = !group_size ? "tensor" : *group_size < 0 ? "channel" : "group";
  args.strategy = strategy_of(fields.text("strategy").value_or(inferred));
  if (args.strategy == QuantArgs::Strategy::group) {
    args.group_size = group_size.value_or(0);
    if (args.group_size < 1) fields.refuse("group_size", "impossible group size", "at least 1");
  }
  if (args.strategy == QuantArgs::Strategy::block) read_block(fields, args);
  const Json* dynamic = json.find("dynamic");
  if (dynamic != nullptr && dynamic->is_string()) {
    args.is_dynamic = true;
    args.strategy = QuantArgs::Strategy::other;  // "local"
  } else {
    args.is_dynamic = fields.flag("dynamic").value_or(false);
  }
  args.is_act_order = read_act_order(fields, json);
  PARE_CHECK(fields.status());
  return args;
}

Result<QuantArgs> parse_weights(const Json& json, const std::string& path, const std::string& prefix) {
  PARE_TRY(const QuantArgs args, parse_args(json, path, prefix));
  Fields fields(json, path, prefix);
  const bool is_per_matrix =
      args.strategy != QuantArgs::Strategy::token && args.strategy != QuantArgs::Strategy::other;
  if (!is_per_matrix)
    fields.refuse("strategy", "not a strategy for weights", "tensor, channel, group or block");
  if (args.is_dynamic) fields.refuse("dynamic", "weights cannot be dynamic");
  if (args.is_float && args.bits != 8)
    fields.refuse("num_bits", "floating weights of this width are not supported", "8");
  if (args.is_float && !args.symmetric)
    fields.refuse("symmetric", "floating weights with zero points are not supported");
  PARE_CHECK(fields.status());
  return args;
}

// What the runner can execute: int8 per token, or with one calibrated scale.
Result<ActivationQuant> parse_activation(const Json& json, const std::string& path,
                                         const std::string& prefix) {
  PARE_TRY(const QuantArgs args, parse_args(json, path, prefix));
  Fields fields(json, path, prefix);
  ActivationQuant activation;
  activation.bits = args.bits;
  activation.symmetric = args.symmetric;
  const bool is_dynamic = args.is_dynamic && args.strategy == QuantArgs::Strategy::token;
  const bool is_static = !args.is_dynamic && args.strategy == QuantArgs::Strategy::tensor;
  if (args.is_float) {
    fields.refuse("type", std::string(kRemedy), "int");
  } else if (args.bits != 8) {
    fields.refuse("num_bits", std::string(kRemedy), "8");
  } else if (!is_dynamic && !is_static) {
    fields.refuse("strategy", std::string(kRemedy), "token and dynamic, or tensor and static");
  }
  PARE_CHECK(fields.status());
  activation.mode = is_dynamic ? ActivationQuant::Mode::dynamic_token : ActivationQuant::Mode::static_tensor;
  return activation;
}

Result<std::vector<ModuleEntry>> parse_entries(const Json* list, const std::string& path,
                                               const std::string& prefix) {
  std::vector<ModuleEntry> entries;
  if (list == nullptr) return entries;
  for (size_t i = 0; i < list->size(); ++i) {
    const Json& item = (*list)[i];
    const std::string where = fmt::format("{}:{}: {}[{}]", item.line(), item.column(), prefix, i);
    if (!item.is_string())
      return malformed("CF05", path, where, "value has the wrong type", shown_value(item), "a string");
    PARE_TRY(ModuleEntry entry, ModuleEntry::parse(item.as_string(), path, where));
    entries.push_back(std::move(entry));
  }
  return entries;
}

// The group that a preset name stands for; nothing for one that pare does not know.
std::optional<std::string> preset_text(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](char c) { return c >= 'a' && c <= 'z' ? char(c - 32) : c; });
  const std::string token =
      R"("input_activations":{{"num_bits":8,"type":"{}","strategy":"token","symmetric":true,"dynamic":true}})";
  const auto grouped = [](int bits, bool symmetric) {
    return fmt::format(R"("weights":{{"num_bits":{},"strategy":"group","group_size":128,"symmetric":{}}})",
                       bits, symmetric);
  };
  const auto dynamic = [&](std::string_view type) { return fmt::format(fmt::runtime(token), type); };
  if (name == "UNQUANTIZED") return "{}";
  if (name == "W4A16_ASYM") return fmt::format("{{{}}}", grouped(4, false));
  if (name == "W4AFP8") return fmt::format("{{{},{}}}", grouped(4, true), dynamic("float"));
  if (name == "W8A8" || name == "INT8")
    return fmt::format(R"({{"weights":{{"num_bits":8,"strategy":"channel"}},{}}})", dynamic("int"));
  if (name == "FP8") {
    return R"({"weights":{"type":"float","strategy":"tensor"},)"
           R"("input_activations":{"type":"float","strategy":"tensor","dynamic":false}})";
  }
  if (name == "FP8_DYNAMIC")
    return fmt::format(R"({{"weights":{{"type":"float","strategy":"channel"}},{}}})", dynamic("float"));
  if (name == "FP8_BLOCK") {
    return R"({"weights":{"type":"float","strategy":"block","block_structure":[128,128]},)"
           R"("input_activations":{"type":"float","strategy":"group","group_size":128,"dynamic":true}})";
  }
  const bool is_sized =
      name.size() >= 4 && name[0] == 'W' && name[1] >= '2' && name[1] <= '8' && name[2] == 'A';
  const std::string inputs = is_sized ? name.substr(3) : "";
  if (inputs == "16") return fmt::format("{{{}}}", grouped(name[1] - '0', true));
  if (inputs == "8") return fmt::format("{{{},{}}}", grouped(name[1] - '0', true), dynamic("int"));
  return std::nullopt;
}

struct GroupContext {
  const DialectInput& input;
  std::string root_format;
  std::string prefix;
};

// Which tensors hold the weights; refuses the layouts that pare does not read.
Status read_form(Fields& fields, const GroupContext& context, ModuleGroup& group) {
  const std::string format = fields.text("format").value_or(context.root_format);
  PARE_CHECK(fields.status());
  if (format == "pack-quantized") {
    group.form = CompressedForm::packed;
  } else if (format == "int-quantized" || format == "float-quantized" || format == "naive-quantized") {
    group.form = CompressedForm::plain;
  } else {
    return unsupported("QC05", context.input.config_path, fields.where("format"), "format is not supported",
                       quote(format), "pack-quantized, int-quantized, float-quantized or naive-quantized");
  }
  if (group.form == CompressedForm::packed && group.weights && group.weights->is_float)
    fields.refuse("format", "floating weights are not packed", "float-quantized");
  return fields.status();
}

Result<ModuleGroup> parse_group(const std::string& name, const Json& json, const GroupContext& context) {
  const std::string& path = context.input.config_path;
  Fields fields(json, path, context.prefix);
  fields.refuse_unknown(kGroupKeys);
  const Json* weights = fields.object("weights");
  const Json* inputs = fields.object("input_activations");
  const Json* outputs = fields.object("output_activations");
  const Json* targets = fields.list("targets");
  PARE_CHECK(fields.status());
  ModuleGroup group;
  group.name = name;
  PARE_TRY(group.targets, parse_entries(targets, path, context.prefix + ".targets"));
  if (weights != nullptr) {
    PARE_TRY(group.weights, parse_weights(*weights, path, context.prefix + ".weights"));
    PARE_CHECK(read_form(fields, context, group));
  }
  if (context.input.weights_only) return group;
  if (outputs != nullptr || (inputs != nullptr && weights == nullptr)) {
    fields.refuse(outputs != nullptr ? "output_activations" : "input_activations", std::string(kRemedy));
    return fields.status().error();
  }
  if (inputs != nullptr) {
    PARE_TRY(group.activation, parse_activation(*inputs, path, context.prefix + ".input_activations"));
  }
  return group;
}

// From 0.17 on, elements of 3, 5, 6 and 7 bits may straddle words.
std::optional<bool> packs_dense(const std::string& version) {
  const size_t dot = version.find('.');
  if (dot == std::string::npos) return std::nullopt;
  const auto major = parse_int(version.substr(0, dot));
  const auto minor = parse_int(version.substr(dot + 1, version.find('.', dot + 1) - dot - 1));
  if (!major || !minor) return std::nullopt;
  return *major > 0 || *minor >= 17;
}

Status check_root(Fields& fields, const DialectInput& input, CompressedTensorsConfig& config) {
  const std::string status = fields.text("quantization_status").value_or("compressed");
  if (status != "compressed")
    fields.refuse("quantization_status", "weights are not compressed", "compressed");
  if (fields.given("transform_config") != nullptr)
    fields.refuse("transform_config", "transforms of activations are not supported");
  if (fields.given("moe_sparsity_config") != nullptr) fields.refuse("moe_sparsity_config", "not supported");
  if (const Json* sparsity = fields.given("sparsity_config"); sparsity != nullptr) {
    const Json* format = sparsity->find("format");
    const bool is_dense = format != nullptr && format->is_string() && format->as_string() == "dense";
    if (!is_dense) fields.refuse("sparsity_config", "sparse formats are not supported");
  }
  config.has_cache_scheme = fields.given("kv_cache_scheme") != nullptr;
  if (config.has_cache_scheme && !input.weights_only) fields.refuse("kv_cache_scheme", std::string(kRemedy));
  config.packs_dense = packs_dense(fields.text("version").value_or(""));
  return fields.status();
}

}  // namespace

Result<CompressedTensorsConfig> parse_compressed_tensors(const DialectInput& input) {
  Fields fields(input.settings, input.config_path, input.key);
  CompressedTensorsConfig config;
  PARE_CHECK(check_root(fields, input, config));
  PARE_TRY(config.ignore, parse_entries(fields.list("ignore"), input.config_path, input.key + ".ignore"));
  const Json* groups = fields.object("config_groups");
  const std::string format = fields.text("format").value_or("");
  PARE_CHECK(fields.status());
  if (groups == nullptr)
    return malformed("CF04", input.config_path, fields.where("config_groups"), "required key is missing");
  for (const auto& [name, value] : groups->members()) {
    const GroupContext context{input, format, fmt::format("{}.config_groups.{}", input.key, sanitize(name))};
    Json json = value;
    if (value.is_array()) {  // a preset by its name, with a list of targets
      const auto text = preset_text(name);
      if (!text) {
        return unsupported("QC05", input.config_path,
                           fmt::format("{}:{}: {}", value.line(), value.column(), context.prefix),
                           "preset is not supported", quote(name));
      }
      PARE_TRY(json, parse_json(*text, input.config_path, {.max_bytes = limits::kConfigBytes}));
      json["targets"] = value;
    } else if (!value.is_object()) {
      return malformed("CF05", input.config_path, context.prefix, "value has the wrong type",
                       shown_value(value), "an object");
    }
    PARE_TRY(ModuleGroup group, parse_group(name, json, context));
    config.groups.push_back(std::move(group));
  }
  return config;
}

Result<const ModuleGroup*> CompressedTensorsConfig::group_of(const ModelMatrix& matrix) const {
  for (const ModuleEntry& entry : ignore) {
    PARE_TRY(const auto match, entry.match(matrix));
    if (match != ModuleEntry::Match::none) return nullptr;
  }
  // The most exact kind of match wins; of several patterns the first in byte order does, as in their library.
  const ModuleGroup* best = nullptr;
  auto best_match = ModuleEntry::Match::none;
  const std::string* best_text = nullptr;
  for (const ModuleGroup& group : groups) {
    for (const ModuleEntry& entry : group.targets) {
      PARE_TRY(const auto match, entry.match(matrix));
      const bool is_better =
          match > best_match || (match == best_match && best_text != nullptr && entry.text() < *best_text);
      if (match == ModuleEntry::Match::none || !is_better) continue;
      best = &group;
      best_match = match;
      best_text = &entry.text();
    }
  }
  return best;
}

}  // namespace pare
