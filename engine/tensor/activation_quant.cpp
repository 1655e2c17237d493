#include "engine/tensor/activation_quant.h"

#include <fmt/core.h>

#include <array>
#include <cfloat>
#include <cmath>

#include "engine/core/text.h"

namespace pare {
namespace {

constexpr std::array<std::string_view, 2> kModes{"dynamic_token", "static_tensor"};  // in the order of Mode
constexpr std::array<std::string_view, 5> kMembers{"mode", "bits", "symmetric", "scale", "zero_point"};

Error error(Exit exit, std::string_view path, std::string_view where, std::string_view member,
            std::string what, std::string got = {}, std::string limit = {}) {
  return Error{.exit = exit,
               .rule = "PK09",
               .path = std::string(path),
               .where = fmt::format("{}.{}", where, member),
               .what = std::move(what),
               .got = std::move(got),
               .limit = std::move(limit),
               .limit_label = "expected"};
}

// Members of one object; errors name file and member.
struct Reader {
  const Json& json;
  std::string_view path, where;

  Error fault(Exit exit, std::string_view member, std::string what, std::string got = {},
              std::string limit = {}) const {
    return error(exit, path, where, member, std::move(what), std::move(got), std::move(limit));
  }

  Result<int> integer(std::string_view member) const {
    const Json* found = json.find(member);
    if (found == nullptr) return fault(Exit::malformed, member, "missing");
    if (found->kind() != Json::Kind::integer || std::abs(found->as_int()) > INT32_MAX) {
      return fault(Exit::malformed, member, "not a small integer",
                   found->is_number() ? found->dump() : found->kind_name());
    }
    return int(found->as_int());
  }

  Result<float> number(std::string_view member) const {
    const Json* found = json.find(member);
    if (found == nullptr) return fault(Exit::malformed, member, "missing");
    if (!found->is_number()) return fault(Exit::malformed, member, "not a number", found->kind_name());
    const double value = found->as_double();
    // Beyond float's range the conversion itself would be undefined.
    if (!(std::abs(value) <= double(FLT_MAX)))
      return fault(Exit::malformed, member, "not a finite float", found->dump());
    return float(value);
  }
};

}  // namespace

std::string ActivationQuant::text() const {
  return fmt::format("int{} activations per {}{}", bits, mode == Mode::static_tensor ? "tensor" : "token",
                     symmetric ? "" : ", asymmetric");
}

Status ActivationQuant::validate(std::string_view path, std::string_view where) const {
  const auto impossible = [&](std::string_view member, std::string got, std::string limit) {
    return error(Exit::malformed, path, where, member, "impossible value", std::move(got), std::move(limit));
  };
  if (bits < 2 || bits > 8) return impossible("bits", std::to_string(bits), "2 to 8");
  const bool is_static = mode == Mode::static_tensor;
  if (is_static && !(std::isfinite(scale) && scale >= FLT_MIN))
    return impossible("scale", format_double(double(scale)), "finite and positive");
  if (!is_static && scale != 0.0f) return impossible("scale", format_double(double(scale)), "none");
  const bool has_zero_point = is_static && !symmetric;
  const int low = has_zero_point ? lowest_code() : 0, high = has_zero_point ? highest_code() : 0;
  if (zero_point < low || zero_point > high)
    return impossible("zero_point", std::to_string(zero_point), fmt::format("{} to {}", low, high));
  return {};
}

Json ActivationQuant::to_json() const {
  Json json = Json::object();
  json["mode"] = kModes[size_t(mode)];
  json["bits"] = bits;
  json["symmetric"] = symmetric;
  if (mode == Mode::static_tensor) {
    json["scale"] = double(scale);
    if (!symmetric) json["zero_point"] = zero_point;
  }
  return json;
}

Result<ActivationQuant> ActivationQuant::from_json(const Json& json, std::string_view path,
                                                   std::string_view where) {
  if (!json.is_object()) {
    return Error{.exit = Exit::malformed,
                 .rule = "PK09",
                 .path = std::string(path),
                 .where = std::string(where),
                 .what = "not an object",
                 .got = json.kind_name(),
                 .limit = {}};
  }
  const Reader reader{json, path, where};
  const Json* mode = json.find("mode");
  if (mode == nullptr || !mode->is_string())
    return reader.fault(Exit::malformed, "mode", mode == nullptr ? "missing" : "not a string");
  ActivationQuant result;
  size_t known = 0;
  while (known < kModes.size() && kModes[known] != mode->as_string()) ++known;
  if (known == kModes.size()) {
    return reader.fault(Exit::unsupported, "mode", "unknown to this version", quote(mode->as_string()),
                        fmt::format("{}, {}", kModes[0], kModes[1]));
  }
  result.mode = Mode(known);
  for (const auto& [name, value] : json.members()) {
    bool is_known = false;
    for (const std::string_view member : kMembers) is_known = is_known || name == member;
    if (!is_known) return reader.fault(Exit::unsupported, quote(name), "unknown to this version");
  }
  PARE_TRY(result.bits, reader.integer("bits"));
  const Json* symmetric = json.find("symmetric");
  if (symmetric == nullptr || !symmetric->is_bool())
    return reader.fault(Exit::malformed, "symmetric", symmetric == nullptr ? "missing" : "not a boolean");
  result.symmetric = symmetric->as_bool();
  const bool is_static = result.mode == Mode::static_tensor;
  if (is_static) {
    PARE_TRY(result.scale, reader.number("scale"));
  }
  if (is_static && !result.symmetric) {
    PARE_TRY(result.zero_point, reader.integer("zero_point"));
  }
  if (!is_static && json.find("scale") != nullptr)
    return reader.fault(Exit::malformed, "scale", "given without a static scale");
  if ((!is_static || result.symmetric) && json.find("zero_point") != nullptr)
    return reader.fault(Exit::malformed, "zero_point", "given for a grid that has none");
  PARE_CHECK(result.validate(path, where));
  return result;
}

}  // namespace pare
