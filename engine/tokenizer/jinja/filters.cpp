// Filters over one value.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "engine/core/text.h"
#include "engine/tokenizer/jinja/characters.h"
#include "engine/tokenizer/jinja/machine.h"

namespace pare::jinja {
namespace {

using Filter = Result<Value> (*)(Machine&, Position, const Value&, const Arguments&);

Result<Value> trim(Machine& machine, Position at, const Value& value, const Arguments& arguments) {
  PARE_TRY(const std::string text, machine.printed(at, value));
  const Value& set = arguments.at(0, "chars");
  return machine.text(at, std::string(stripped(text, set.text(), true, true)));
}

Result<Value> upper(Machine& machine, Position at, const Value& value, const Arguments&) {
  PARE_TRY(const std::string text, machine.printed(at, value));
  return machine.text(at, upper_case(text));
}
Result<Value> lower(Machine& machine, Position at, const Value& value, const Arguments&) {
  PARE_TRY(const std::string text, machine.printed(at, value));
  return machine.text(at, lower_case(text));
}
Result<Value> capitalize(Machine& machine, Position at, const Value& value, const Arguments&) {
  PARE_TRY(const std::string text, machine.printed(at, value));
  return machine.text(at, capitalized(text));
}

// Words begin after white space, dashes and opening brackets only.
Result<Value> title(Machine& machine, Position at, const Value& value, const Arguments&) {
  PARE_TRY(const std::string text, machine.printed(at, value));
  std::string out;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const unicode::Character character = unicode::decode_at(text.data() + i);
    const bool separates = is_python_space(character.code) ||
                           (character.code < 0x80 &&
                            std::string_view("-({[<").find(char(character.code)) != std::string_view::npos);
    if (inside) {
      unicode::append_lower(out, character.code);
    } else {
      unicode::append_upper(out, character.code);
    }
    inside = !separates;
    i += character.bytes;
  }
  return machine.text(at, std::move(out));
}

Result<Value> string(Machine& machine, Position at, const Value& value, const Arguments&) {
  PARE_TRY(std::string text, machine.printed(at, value));
  return machine.text(at, std::move(text));
}

Result<Value> length(Machine& machine, Position at, const Value& value, const Arguments&) {
  if (value.text() != nullptr) {
    PARE_CHECK(machine.step(at, value.text()->size() / 4096));
    return Value(unicode::count_characters(*value.text()));
  }
  if (value.list() != nullptr) return Value(int64_t(value.list()->items.size()));
  if (value.map() != nullptr) return Value(int64_t(value.map()->items.size()));
  if (value.is_undefined()) return Value(int64_t(0));
  return machine.wrong_value(at, "value has no length", value);
}

Result<Value> default_value(Machine& machine, Position at, const Value& value, const Arguments& arguments) {
  const bool replace = value.is_undefined() || (arguments.at(1, "boolean").truth() && !value.truth());
  if (!replace) return value;
  if (arguments.has(0, "default_value")) return arguments.at(0, "default_value");
  return machine.text(at, {});
}

// Text as JSON, the way Hugging Face does it: nothing escaped for HTML, characters kept.
Result<Value> to_json(Machine& machine, Position at, const Value& value, const Arguments& arguments) {
  JsonStyle style;
  if (const Value& indent = arguments.at(1, "indent"); arguments.has(1, "indent") && !indent.is_none()) {
    constexpr int64_t kLargestIndent = 16;
    if (!indent.is_whole() || indent.whole() < 0 || indent.whole() > kLargestIndent) {
      return machine.wrong_value(at, "indent is not an integer from 0 to 16", indent);
    }
    style.indent = int(indent.whole());
  }
  style.sort_keys = arguments.at(3, "sort_keys").truth();
  if (const Value& separators = arguments.at(2, "separators");
      arguments.has(2, "separators") && !separators.is_none()) {
    const ListData* pair = separators.list();
    if (pair == nullptr || pair->items.size() != 2 || pair->items[0].text() == nullptr ||
        pair->items[1].text() == nullptr) {
      return machine.wrong_value(at, "separators are not two texts", separators);
    }
    style.item_separator = *pair->items[0].text();
    style.key_separator = *pair->items[1].text();
  }
  if (arguments.has(0, "ensure_ascii") && arguments.at(0, "ensure_ascii").truth()) {
    return machine.fault(Exit::unsupported, "CT04", at, "tojson with ensure_ascii is not supported");
  }
  // An item weighs at least 8, so this bounds the indentation of all lines; escapes take six bytes at most.
  const uint64_t per_item = uint64_t(std::max(style.indent, 0)) * uint64_t(value.depth()) +
                            style.item_separator.size() + style.key_separator.size();
  PARE_CHECK(
      machine.check_text(at, value.weight() > 64 ? value.weight() + value.weight() / 8 * per_item : 0));
  std::string text;
  if (!append_json(text, value, style)) return machine.wrong_value(at, "value has no form in JSON", value);
  return machine.text(at, std::move(text));
}

Result<Value> indent(Machine& machine, Position at, const Value& value, const Arguments& arguments) {
  PARE_TRY(const std::string text, machine.printed(at, value));
  const Value& width = arguments.at(0, "width");
  std::string prefix = "    ";
  if (width.text() != nullptr) prefix = *width.text();
  if (width.is_whole()) {
    if (width.whole() < 0 || width.whole() > 1024)
      return machine.wrong_value(at, "width is not from 0 to 1024", width);
    prefix.assign(size_t(width.whole()), ' ');
  }
  const bool first = arguments.at(1, "first").truth(), blank = arguments.at(2, "blank").truth();
  std::string out;
  for (size_t i = 0, line = 0; i <= text.size(); ++line) {
    const size_t end = std::min(text.find('\n', i), text.size());
    if (line > 0) out += '\n';
    const bool wants = line == 0 ? first : blank || end > i;
    if (wants) out += prefix;
    out.append(text, i, end - i);
    PARE_CHECK(machine.check_text(at, out.size()));
    i = end + 1;
  }
  return machine.text(at, std::move(out));
}

Result<Value> to_integer(Machine&, Position, const Value& value, const Arguments& arguments) {
  const auto whole_of = [](double number) -> std::optional<int64_t> {
    if (!(std::fabs(number) < 9e18)) return std::nullopt;
    return int64_t(number);
  };
  std::optional<int64_t> result;
  if (value.is_whole()) {
    result = value.whole();
  } else if (value.is_number()) {
    result = whole_of(value.number());
  } else if (value.text() != nullptr) {
    const std::string text(stripped(*value.text(), nullptr, true, true));
    result = parse_int(text.starts_with('+') ? text.substr(1) : text);
    if (!result) {
      if (const auto number = parse_double(text)) result = whole_of(*number);
    }
  }
  if (result) return Value(*result);
  return arguments.has(0, "default") ? arguments.at(0, "default") : Value(int64_t(0));
}

Result<Value> to_float(Machine&, Position, const Value& value, const Arguments& arguments) {
  if (value.is_number()) return Value(value.number());
  if (value.text() != nullptr) {
    if (const auto number = parse_double(stripped(*value.text(), nullptr, true, true))) return Value(*number);
  }
  return arguments.has(0, "default") ? arguments.at(0, "default") : Value(0.0);
}

Result<Value> absolute(Machine& machine, Position at, const Value& value, const Arguments&) {
  if (value.is<double>()) return Value(std::fabs(value.number()));
  if (!value.is_whole()) return machine.wrong_value(at, "value is not a number", value);
  if (value.whole() == INT64_MIN) return machine.fault(Exit::malformed, "CT12", at, "integer overflow");
  return Value(std::abs(value.whole()));
}

Result<Value> round_number(Machine& machine, Position at, const Value& value, const Arguments& arguments) {
  if (!value.is_number()) return machine.wrong_value(at, "value is not a number", value);
  const Value& precision = arguments.at(0, "precision");
  const int64_t digits = precision.is_whole() ? precision.whole() : 0;
  const std::string method =
      arguments.at(1, "method").text() != nullptr ? *arguments.at(1, "method").text() : "common";
  if (digits < -15 || digits > 15)
    return machine.wrong_value(at, "precision is not from -15 to 15", precision);
  if (method != "common" && method != "ceil" && method != "floor") {
    return machine.fault(Exit::malformed, "CT13", at, "unknown way of rounding", quote(method));
  }
  const double scale = std::pow(10.0, double(digits)), scaled = value.number() * scale;
  return Value((method == "ceil"    ? std::ceil(scaled)
                : method == "floor" ? std::floor(scaled)
                                    : std::nearbyint(scaled)) /
               scale);
}

Result<Value> replace(Machine& machine, Position at, const Value& value, const Arguments& arguments) {
  PARE_TRY(std::string text, machine.printed(at, value));
  return call_method(machine, at, Value(std::move(text)), "replace", arguments);
}

Result<Value> safe(Machine&, Position, const Value& value, const Arguments&) {
  return value;  // nothing is escaped
}

struct Entry {
  std::string_view name;
  Filter filter;
};
constexpr std::array<Entry, 18> kFilters = {{{"trim", trim},
                                             {"upper", upper},
                                             {"lower", lower},
                                             {"capitalize", capitalize},
                                             {"title", title},
                                             {"string", string},
                                             {"length", length},
                                             {"count", length},
                                             {"default", default_value},
                                             {"d", default_value},
                                             {"tojson", to_json},
                                             {"indent", indent},
                                             {"int", to_integer},
                                             {"float", to_float},
                                             {"abs", absolute},
                                             {"round", round_number},
                                             {"replace", replace},
                                             {"safe", safe}}};

}  // namespace

Result<Value> apply_filter(Machine& machine, Position at, const std::string& name, const Value& value,
                           const Arguments& arguments) {
  PARE_CHECK(machine.step(at));
  for (const Entry& entry : kFilters) {
    if (entry.name == name) return entry.filter(machine, at, value, arguments);
  }
  PARE_TRY(std::optional<Value> result, apply_list_filter(machine, at, name, value, arguments));
  if (result) return *std::move(result);
  return machine.fault(Exit::unsupported, "CT04", at, "filter is not supported", quote(name));
}

}  // namespace pare::jinja
