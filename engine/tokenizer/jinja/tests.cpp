// Tests: `value is name(arguments)`.
#include "engine/core/text.h"
#include "engine/tokenizer/jinja/characters.h"
#include "engine/tokenizer/jinja/machine.h"

namespace pare::jinja {
namespace {

// Comparisons have a name, a sign, or both.
std::optional<std::string_view> comparison_of(std::string_view name) {
  if (name == "eq" || name == "equalto" || name == "==") return "==";
  if (name == "ne" || name == "!=") return "!=";
  if (name == "lt" || name == "lessthan" || name == "<") return "<";
  if (name == "le" || name == "<=") return "<=";
  if (name == "gt" || name == "greaterthan" || name == ">") return ">";
  if (name == "ge" || name == ">=") return ">=";
  return std::nullopt;
}

Result<bool> compare_by(Machine& machine, Position at, std::string_view sign, const Value& value,
                        const Value& other) {
  if (sign == "==" || sign == "!=") {
    PARE_CHECK(machine.step(at, std::min(value.weight(), other.weight()) / 1024));
    return value.equals(other) == (sign == "==");
  }
  PARE_TRY(const int order, compare(machine, at, value, other));
  if (sign == "<") return order < 0;
  if (sign == "<=") return order <= 0;
  if (sign == ">") return order > 0;
  return order >= 0;
}

}  // namespace

Result<bool> apply_test(Machine& machine, Position at, const std::string& name, const Value& value,
                        const Arguments& arguments) {
  PARE_CHECK(machine.step(at));
  if (name == "defined") return !value.is_undefined();
  if (name == "undefined") return value.is_undefined();
  if (name == "none") return value.is_none();
  if (name == "boolean") return value.is<bool>();
  if (name == "true") return value.is<bool>() && value.truth();
  if (name == "false") return value.is<bool>() && !value.truth();
  if (name == "integer") return value.is<int64_t>();
  if (name == "float") return value.is<double>();
  if (name == "number") return value.is_number();
  if (name == "string") return value.text() != nullptr;
  if (name == "mapping") return value.map() != nullptr;
  if (name == "sequence") {
    return value.text() != nullptr || value.list() != nullptr || value.map() != nullptr ||
           value.is_undefined();
  }
  if (name == "iterable") {
    return value.text() != nullptr || value.list() != nullptr || value.map() != nullptr ||
           value.is_undefined();
  }
  if (name == "callable") return value.is<MacroData>() || value.is<Function>();
  if (name == "even" || name == "odd") {
    if (!value.is_whole()) return machine.wrong_value(at, "value is not an integer", value);
    return (value.whole() % 2 == 0) == (name == "even");
  }
  if (name == "divisibleby") {
    const Value& divisor = arguments.at(0, "num");
    if (!value.is_whole() || !divisor.is_whole())
      return machine.wrong_value(at, "value is not an integer", value);
    if (divisor.whole() == 0) return machine.fault(Exit::malformed, "CT12", at, "division by zero");
    return divisor.whole() == -1 || value.whole() % divisor.whole() == 0;
  }
  if (name == "upper" || name == "lower") {
    PARE_TRY(const std::string text, machine.printed(at, value));
    const std::string same = name == "upper" ? upper_case(text) : lower_case(text);
    const std::string other = name == "upper" ? lower_case(text) : upper_case(text);
    return text == same && text != other;
  }
  if (name == "in") return contains(machine, at, arguments.at(0, "seq"), value);
  if (const auto sign = comparison_of(name))
    return compare_by(machine, at, *sign, value, arguments.at(0, "other"));
  return machine.fault(Exit::unsupported, "CT04", at, "test is not supported", quote(name));
}

}  // namespace pare::jinja
