// Rotary settings of config.json, both spellings. Source: docs of the formats we read, "Rotary embedding".
#include <fmt/core.h>

#include <array>
#include <cmath>

#include "engine/core/text.h"
#include "engine/models/architectures/config_reader.h"

namespace pare {
namespace {

struct NamedKind {
  std::string_view name;
  RopeConfig::Kind kind;
};
constexpr std::array kKinds{
    NamedKind{"default", RopeConfig::Kind::standard},  NamedKind{"linear", RopeConfig::Kind::linear},
    NamedKind{"dynamic", RopeConfig::Kind::dynamic},   NamedKind{"yarn", RopeConfig::Kind::yarn},
    NamedKind{"longrope", RopeConfig::Kind::longrope}, NamedKind{"llama3", RopeConfig::Kind::llama3},
};

// Reads numbers of the rope object, falling back to keys of the root.
class RopeObject {
 public:
  RopeObject(ConfigReader& reader, const Json* object) : reader_(reader), object_(object) {}

  const Json* find(std::string_view key) const {
    const Json* value = object_ == nullptr ? nullptr : object_->find(key);
    return value != nullptr && value->is_null() ? nullptr : value;
  }
  // A finite number above zero. Exit 3 (CF14).
  double number(std::string_view key, double fallback) { return check(find(key), key, fallback); }
  double required(std::string_view key) {
    if (find(key) == nullptr)
      reader_.fail(Exit::malformed, "CF14", object_, key, "required by this rope type");
    return number(key, 1.0);
  }
  // The rope object first, then each of the root's keys.
  double with_root(std::string_view key, std::initializer_list<std::string_view> root_keys, double fallback) {
    if (const Json* value = find(key)) return check(value, key, fallback);
    for (std::string_view root_key : root_keys) {
      const Json* value = reader_.config().find(root_key);
      if (value != nullptr && !value->is_null()) return check(value, root_key, fallback);
    }
    return fallback;
  }
  std::vector<double> factors(std::string_view key, int64_t length) {
    const Json* value = find(key);
    std::vector<double> result;
    if (value == nullptr || !value->is_array() || int64_t(value->size()) != length) {
      reader_.fail(Exit::malformed, "CF14", value, key, "must be a list with one factor per rotary pair",
                   value == nullptr    ? "nothing"
                   : value->is_array() ? std::to_string(value->size())
                                       : value->kind_name(),
                   std::to_string(length));
      return result;
    }
    for (const Json& item : value->items()) result.push_back(check(&item, key, 1.0));
    return result;
  }

 private:
  double check(const Json* value, std::string_view key, double fallback) {
    if (value == nullptr) return fallback;
    if (!value->is_number() || !(value->as_double() > 0.0) || !std::isfinite(value->as_double())) {
      reader_.fail(Exit::malformed, "CF14", value, key, "must be a number above zero", config_got(*value));
      return fallback;
    }
    return value->as_double();
  }

  ConfigReader& reader_;
  const Json* object_;
};

// rope_parameters keyed by layer type: all kinds must agree, for all blocks share one table.
const Json* same_for_all_layers(ConfigReader& reader, const Json* parameters) {
  const Json* full = parameters->find("full_attention");
  const Json* sliding = parameters->find("sliding_attention");
  if (full == nullptr && sliding == nullptr) return parameters;
  if (full != nullptr && sliding != nullptr && !(*full == *sliding))
    reader.fail(Exit::unsupported, "CF14", parameters, "rope_parameters",
                "different rotary settings per layer type are not supported");
  return full != nullptr ? full : sliding;
}

}  // namespace

RopeConfig ConfigReader::rope(int64_t head_dim, int64_t max_positions, double default_theta) {
  RopeConfig rope;
  std::string_view source = "rope_parameters";
  const Json* object = config_.find(source);
  if (object == nullptr || object->is_null()) object = config_.find(source = "rope_scaling");
  if (object != nullptr && object->is_null()) object = nullptr;
  if (object != nullptr && !object->is_object()) {
    fail(Exit::malformed, "CF14", object, source,
         fmt::format("must be an object, not {}", object->kind_name()));
    return rope;
  }
  if (object != nullptr) object = same_for_all_layers(*this, object);

  RopeObject read(*this, object);
  rope.theta = read.with_root("rope_theta", {"rope_theta", "rotary_emb_base"}, default_theta);
  rope.partial_factor = read.with_root("partial_rotary_factor", {"partial_rotary_factor", "rotary_pct"}, 1.0);
  if (rope.partial_factor > 1.0)
    fail(Exit::malformed, "CF14", read.find("partial_rotary_factor"), "partial_rotary_factor", "out of range",
         format_double(rope.partial_factor), "above 0, up to 1");

  const Json* type = read.find("rope_type");
  std::string_view type_key = "rope_type";
  if (type == nullptr && read.find("type") != nullptr) type = read.find(type_key = "type");
  if (type != nullptr && !type->is_string()) {
    fail(Exit::malformed, "CF14", type, type_key, fmt::format("must be a string, not {}", type->kind_name()));
    return rope;
  }
  const std::string_view name = type == nullptr ? "default" : std::string_view(type->as_string());
  for (const NamedKind& row : kKinds)
    if (row.name == name) rope.kind = row.kind;
  if (rope.kind == RopeConfig::Kind::none) {
    fail(Exit::unsupported, "CF14", type, type_key, "unknown rope scaling", quote(name),
         "default, linear, dynamic, yarn, longrope, llama3");
    return rope;
  }
  const int64_t rotary_dim = int64_t(double(head_dim) * rope.partial_factor);
  if (rotary_dim < 2 || rotary_dim % 2 != 0) {
    fail(Exit::malformed, "CF14", config_.find("head_dim"), "head_dim",
         "rotary size of a head must be even and above 0", std::to_string(rotary_dim));
    return rope;
  }

  const auto original = [&](double fallback) {
    const double value =
        read.with_root("original_max_position_embeddings", {"original_max_position_embeddings"}, fallback);
    if (value != std::floor(value) || value > double(INT32_MAX))
      fail(Exit::malformed, "CF14", read.find("original_max_position_embeddings"),
           "original_max_position_embeddings", "out of range", format_double(value),
           fmt::format("an integer up to {}", INT32_MAX));
    return ok() ? int64_t(value) : int64_t{1};
  };
  rope.attention_factor = read.number("attention_factor", 0.0);
  switch (rope.kind) {
    case RopeConfig::Kind::none:
    case RopeConfig::Kind::standard:
      rope.attention_factor = 0.0;
      break;
    case RopeConfig::Kind::linear:
    case RopeConfig::Kind::dynamic:
      rope.factor = read.required("factor");
      rope.attention_factor = 0.0;
      break;
    case RopeConfig::Kind::llama3:
      rope.factor = read.required("factor");
      rope.low_frequency_factor = read.required("low_freq_factor");
      rope.high_frequency_factor = read.required("high_freq_factor");
      if (read.find("original_max_position_embeddings") == nullptr)
        read.required("original_max_position_embeddings");
      rope.original_max_positions = original(1.0);
      rope.attention_factor = 0.0;
      if (rope.high_frequency_factor <= rope.low_frequency_factor)
        fail(Exit::malformed, "CF14", read.find("high_freq_factor"), "high_freq_factor",
             "must exceed low_freq_factor", format_double(rope.high_frequency_factor),
             "above " + format_double(rope.low_frequency_factor));
      break;
    case RopeConfig::Kind::yarn:
      rope.factor = read.required("factor");
      rope.beta_fast = read.number("beta_fast", 32.0);
      rope.beta_slow = read.number("beta_slow", 1.0);
      rope.original_max_positions = original(double(max_positions));
      for (std::string_view key : {"mscale", "mscale_all_dim", "truncate"}) {
        const Json* value = read.find(key);
        if (value != nullptr && !(key == "truncate" && value->is_bool() && value->as_bool()))
          fail(Exit::unsupported, "CF14", value, key, "this variant of yarn is not supported",
               config_got(*value));
      }
      break;
    case RopeConfig::Kind::longrope:
      rope.original_max_positions = original(double(max_positions));
      rope.factor = read.number("factor", double(max_positions) / double(rope.original_max_positions));
      rope.short_factors = read.factors("short_factor", rotary_dim / 2);
      rope.long_factors = read.factors("long_factor", rotary_dim / 2);
      break;
  }
  return rope;
}

}  // namespace pare
