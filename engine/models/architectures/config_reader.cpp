#include "engine/models/architectures/config_reader.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "engine/core/text.h"

namespace pare {
namespace {

std::string range_text(int64_t low, int64_t high) {
  return fmt::format("{} to {}", low, high);
}

struct NamedActivation {
  std::string_view name;
  Activation activation;
};
constexpr std::array kActivations{
    NamedActivation{"silu", Activation::silu},
    NamedActivation{"swish", Activation::silu},
    NamedActivation{"gelu", Activation::gelu},
    NamedActivation{"gelu_new", Activation::gelu_tanh},
    NamedActivation{"gelu_pytorch_tanh", Activation::gelu_tanh},
    NamedActivation{"gelu_fast", Activation::gelu_tanh},
    NamedActivation{"quick_gelu", Activation::quick_gelu},
    NamedActivation{"relu", Activation::relu},
};

}  // namespace

std::string config_where(const Json* value, std::string_view key) {
  if (value == nullptr || value->line() == 0) return std::string(key);
  return fmt::format("{}:{}: {}", value->line(), value->column(), key);
}

std::string config_got(const Json& value) {
  if (value.is_string()) return quote(value.as_string());
  if (value.is_array() || value.is_object()) return value.kind_name();
  return value.dump();
}

void ConfigReader::fail(Exit exit, std::string_view rule, const Json* at, std::string_view key,
                        std::string what, std::string got, std::string limit) {
  if (error_) return;
  error_ = Error{.exit = exit,
                 .rule = std::string(rule),
                 .path = std::string(path_),
                 .where = config_where(at, key),
                 .what = std::move(what),
                 .got = std::move(got),
                 .limit = std::move(limit),
                 .limit_label = "expected"};
}

Result<ModelConfig> ConfigReader::finish(ModelConfig config) const {
  if (error_) return *error_;
  return config;
}

int64_t ConfigReader::required(std::string_view key, int64_t low, int64_t high) {
  if (config_.find(key) == nullptr) {
    fail(Exit::malformed, "CF04", nullptr, key, "required key missing");
    return low;
  }
  return integer(key, low, low, high);
}

int64_t ConfigReader::integer(std::string_view key, int64_t fallback, int64_t low, int64_t high) {
  const Json* value = config_.find(key);
  if (value == nullptr) return fallback;
  if (!value->is_integer()) {
    fail(Exit::malformed, "CF05", value, key, fmt::format("must be an integer, not {}", value->kind_name()),
         config_got(*value));
    return low;
  }
  const bool too_big =
      value->kind() == Json::Kind::unsigned_integer && value->as_uint() > uint64_t(INT64_MAX);
  if (too_big || value->as_int() < low || value->as_int() > high) {
    fail(Exit::malformed, key == "num_hidden_layers" || key == "n_layer" ? "CF08" : "CF06", value, key,
         "out of range", value->dump(), range_text(low, high));
    return low;
  }
  return value->as_int();
}

std::optional<int64_t> ConfigReader::optional_integer(std::string_view key, std::optional<int64_t> missing,
                                                      int64_t low, int64_t high) {
  const Json* value = config_.find(key);
  if (value == nullptr) return missing;
  if (value->is_null()) return std::nullopt;
  return integer(key, low, low, high);
}

double ConfigReader::positive(std::string_view key, double fallback, double high) {
  const Json* value = config_.find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number()) {
    fail(Exit::malformed, "CF05", value, key, fmt::format("must be a number, not {}", value->kind_name()),
         config_got(*value));
    return fallback;
  }
  const double number = value->as_double();
  if (!(number > 0.0) || number > high) {  // also NaN
    fail(Exit::malformed, "CF06", value, key, "out of range", value->dump(),
         fmt::format("above 0, up to {}", high));
    return fallback;
  }
  return number;
}

bool ConfigReader::flag(std::string_view key, bool fallback) {
  const Json* value = config_.find(key);
  if (value == nullptr) return fallback;
  if (!value->is_bool()) {
    fail(Exit::malformed, "CF05", value, key,
         fmt::format("must be true or false, not {}", value->kind_name()), config_got(*value));
    return fallback;
  }
  return value->as_bool();
}

Activation ConfigReader::activation(std::string_view key, std::string_view fallback) {
  const Json* value = config_.find(key);
  if (value != nullptr && !value->is_string()) {
    fail(Exit::malformed, "CF05", value, key, fmt::format("must be a string, not {}", value->kind_name()),
         config_got(*value));
    return Activation::identity;
  }
  const std::string_view name = value == nullptr ? fallback : std::string_view(value->as_string());
  for (const NamedActivation& row : kActivations)
    if (row.name == name) return row.activation;
  std::string known;
  for (const NamedActivation& row : kActivations)
    known += (known.empty() ? "" : ", ") + std::string(row.name);
  fail(Exit::unsupported, "CF10", value, key, "activation is not supported", quote(name), known);
  return Activation::identity;
}

std::optional<std::vector<bool>> ConfigReader::sliding_layers(int64_t layers) {
  const Json* value = config_.find("layer_types");
  if (value == nullptr || value->is_null()) return std::nullopt;
  std::vector<bool> sliding;
  if (!value->is_array()) {
    fail(Exit::malformed, "CF05", value, "layer_types",
         fmt::format("must be a list, not {}", value->kind_name()));
    return std::nullopt;
  }
  if (int64_t(value->size()) != layers) {
    fail(Exit::malformed, "CF06", value, "layer_types", "needs one entry per layer",
         std::to_string(value->size()), std::to_string(layers));
    return std::nullopt;
  }
  for (const Json& item : value->items()) {
    if (!item.is_string()) {
      fail(Exit::malformed, "CF05", &item, "layer_types",
           fmt::format("must hold strings, not {}", item.kind_name()));
      return std::nullopt;
    }
    if (item.as_string() != "full_attention" && item.as_string() != "sliding_attention") {
      fail(Exit::unsupported, "CF10", &item, "layer_types", "layer type is not supported",
           quote(item.as_string()), "full_attention, sliding_attention");
      return std::nullopt;
    }
    sliding.push_back(item.as_string() == "sliding_attention");
  }
  return sliding;
}

void ConfigReader::require_divisible(std::string_view key, int64_t value, std::string_view divisor_key,
                                     int64_t divisor) {
  if (!ok() || value % divisor == 0) return;
  const Json* at = config_.find(key);
  fail(Exit::malformed, "CF07", at, key, fmt::format("not divisible by {}", divisor_key),
       std::to_string(value), fmt::format("a multiple of {}", divisor));
}

void ConfigReader::refuse(std::string_view key, std::string_view what) {
  const Json* value = config_.find(key);
  if (value == nullptr || value->is_null() || (value->is_bool() && !value->as_bool())) return;
  fail(Exit::unsupported, "CF10", value, key, std::string(what), config_got(*value));
}

void ConfigReader::common(ModelConfig& config) {
  if (!ok()) return;
  const int64_t vocabulary = config.vocabulary_size;
  if (const Json* bos = config_.find("bos_token_id"); bos != nullptr && !bos->is_null()) {
    if (!bos->is_integer()) {
      fail(Exit::malformed, "CF13", bos, "bos_token_id",
           fmt::format("must be an integer, not {}", bos->kind_name()), config_got(*bos));
      return;
    }
    if (bos->kind() == Json::Kind::unsigned_integer && bos->as_uint() > uint64_t(INT32_MAX)) {
      fail(Exit::malformed, "CF13", bos, "bos_token_id", "not an id of the vocabulary", bos->dump(),
           range_text(0, vocabulary - 1));
      return;
    }
    if (bos->as_int() < 0 || bos->as_int() >= vocabulary) {
      fail(Exit::malformed, "CF13", bos, "bos_token_id", "not an id of the vocabulary", bos->dump(),
           fmt::format("vocab_size {}", vocabulary));
      return;
    }
    config.bos_id = int32_t(bos->as_int());
  }
  if (Status eos = read_eos_ids(config_, path_, vocabulary, config.eos_ids); !eos) {
    if (!error_) error_ = eos.error();
    return;
  }
  const std::string_view key = config_.find("dtype") != nullptr ? "dtype" : "torch_dtype";
  if (const Json* dtype = config_.find(key); dtype != nullptr && !dtype->is_null()) {
    if (!dtype->is_string()) {
      fail(Exit::malformed, "CF05", dtype, key, fmt::format("must be a string, not {}", dtype->kind_name()));
      return;
    }
    // "auto" and types that no tensor has say nothing; the tensors themselves decide.
    if (const auto known = dtype_from_config(dtype->as_string())) config.stored_dtype = *known;
  }
}

Status read_eos_ids(const Json& object, std::string_view path, int64_t vocabulary_size,
                    std::vector<int32_t>& ids) {
  constexpr std::string_view kKey = "eos_token_id";
  const Json* value = object.find(kKey);
  if (value == nullptr || value->is_null()) return {};
  const auto error = [&](const Json& at, std::string what) {
    return Error{.exit = Exit::malformed,
                 .rule = "CF13",
                 .path = std::string(path),
                 .where = config_where(&at, kKey),
                 .what = std::move(what),
                 .got = config_got(at),
                 .limit = fmt::format("vocab_size {}", vocabulary_size),
                 .limit_label = "limit"};
  };
  const auto add = [&](const Json& item) -> Status {
    if (!item.is_integer()) return error(item, "must be an integer or a list of integers");
    const bool fits = item.kind() != Json::Kind::unsigned_integer || item.as_uint() <= uint64_t(INT32_MAX);
    if (!fits || item.as_int() < 0 || item.as_int() >= vocabulary_size)
      return error(item, "not an id of the vocabulary");
    const int32_t id = int32_t(item.as_int());
    if (std::find(ids.begin(), ids.end(), id) == ids.end()) ids.push_back(id);
    return {};
  };
  if (!value->is_array()) return add(*value);
  if (value->size() == 0) return error(*value, "an empty list");
  for (const Json& item : value->items()) PARE_CHECK(add(item));
  return {};
}

Result<Json> language_config(const Json& config, std::string_view path) {
  const Json* text = config.find("text_config");
  if (text == nullptr || text->is_null()) return config;
  if (!text->is_object()) {
    return Error{.exit = Exit::malformed,
                 .rule = "CF05",
                 .path = std::string(path),
                 .where = config_where(text, "text_config"),
                 .what = fmt::format("must be an object, not {}", text->kind_name())};
  }
  for (const auto& [key, value] : config.members()) {
    const bool is_part = key.size() > 7 && key.ends_with("_config") && value.is_object() &&
                         key != "text_config" && key != "quantization_config" && key != "generation_config";
    if (!is_part) continue;
    return Error{.exit = Exit::unsupported,
                 .rule = "CF10",
                 .path = std::string(path),
                 .where = config_where(&value, quote(key)),
                 .what = "multi-modal models are not supported; only the language model alone is"};
  }
  Json merged = config;
  merged.erase("text_config");
  for (const auto& [key, value] : text->members()) merged[key] = value;
  return merged;
}

}  // namespace pare
