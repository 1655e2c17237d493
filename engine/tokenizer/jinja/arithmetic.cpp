// Operators, with Python's meaning: // and % round towards minus infinity, / is never whole.
#include <cmath>

#include "engine/tokenizer/jinja/evaluator.h"

namespace pare::jinja {
namespace {

Error overflow(Machine& machine, Position at) {
  return machine.fault(Exit::malformed, "CT12", at, "integer overflow");
}

Result<Value> power(Machine& machine, Position at, int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 0) return machine.fault(Exit::malformed, "CT12", at, "division by zero");
    return Value(std::pow(double(base), double(exponent)));
  }
  int64_t result = 1;
  for (;;) {
    if (exponent & 1) {
      if (__builtin_mul_overflow(result, base, &result)) return overflow(machine, at);
    }
    exponent >>= 1;
    if (exponent == 0) return Value(result);
    if (__builtin_mul_overflow(base, base, &base)) return overflow(machine, at);
  }
}

Result<Value> whole_numbers(Machine& machine, Position at, Operator op, int64_t a, int64_t b) {
  int64_t result = 0;
  switch (op) {
    case Operator::add:
      if (__builtin_add_overflow(a, b, &result)) return overflow(machine, at);
      return Value(result);
    case Operator::subtract:
      if (__builtin_sub_overflow(a, b, &result)) return overflow(machine, at);
      return Value(result);
    case Operator::multiply:
      if (__builtin_mul_overflow(a, b, &result)) return overflow(machine, at);
      return Value(result);
    case Operator::power:
      return power(machine, at, a, b);
    default:
      break;
  }
  if (b == 0) return machine.fault(Exit::malformed, "CT12", at, "division by zero");
  if (op == Operator::divide) return Value(double(a) / double(b));
  if (b == -1) {  // the smallest integer has no opposite
    if (op == Operator::modulo) return Value(int64_t(0));
    if (a == INT64_MIN) return overflow(machine, at);
    return Value(-a);
  }
  const int64_t quotient = a / b, rest = a % b;
  const bool down = rest != 0 && (rest < 0) != (b < 0);
  return op == Operator::modulo ? Value(down ? rest + b : rest) : Value(down ? quotient - 1 : quotient);
}

Result<Value> real_numbers(Machine& machine, Position at, Operator op, double a, double b) {
  if (b == 0.0 && (op == Operator::divide || op == Operator::floor_divide || op == Operator::modulo)) {
    return machine.fault(Exit::malformed, "CT12", at, "division by zero");
  }
  switch (op) {
    case Operator::add:
      return Value(a + b);
    case Operator::subtract:
      return Value(a - b);
    case Operator::multiply:
      return Value(a * b);
    case Operator::divide:
      return Value(a / b);
    case Operator::floor_divide:
      return Value(std::floor(a / b));
    case Operator::modulo: {
      const double rest = std::fmod(a, b);
      return Value(rest != 0.0 && (rest < 0.0) != (b < 0.0) ? rest + b : rest);
    }
    default:
      return Value(std::pow(a, b));
  }
}

Result<Value> repeated(Machine& machine, Position at, const Value& value, int64_t times) {
  const uint64_t count = times > 0 ? uint64_t(times) : 0;
  if (const std::string* text = value.text()) {
    if (text->empty()) return value;
    PARE_CHECK(machine.check_text(at, count > UINT32_MAX ? UINT64_MAX : count * text->size()));
    PARE_CHECK(machine.step(at, count / 1024));
    std::string result;
    for (uint64_t i = 0; i < count; ++i) result += *text;
    return machine.text(at, std::move(result));
  }
  const std::vector<Value>& items = value.list()->items;
  if (items.empty()) return value;
  PARE_CHECK(machine.check_list(at, count > UINT32_MAX ? UINT64_MAX : count * items.size()));
  std::vector<Value> result;
  for (uint64_t i = 0; i < count; ++i) result.insert(result.end(), items.begin(), items.end());
  return machine.list(at, std::move(result), value.list()->is_tuple);
}

}  // namespace

Result<Value> apply_operator(Machine& machine, Position at, Operator op, const Value& a, const Value& b) {
  if (op == Operator::concatenate) {
    PARE_TRY(std::string text, machine.printed(at, a));
    PARE_TRY(const std::string more, machine.printed(at, b));
    return machine.text(at, std::move(text) + more);
  }
  if (a.is_whole() && b.is_whole()) return whole_numbers(machine, at, op, a.whole(), b.whole());
  if (a.is_number() && b.is_number()) return real_numbers(machine, at, op, a.number(), b.number());
  if (op == Operator::add && a.text() != nullptr && b.text() != nullptr) {
    PARE_CHECK(machine.check_text(at, a.text()->size() + b.text()->size()));
    return machine.text(at, *a.text() + *b.text());
  }
  if (op == Operator::add && a.list() != nullptr && b.list() != nullptr) {
    std::vector<Value> items = a.list()->items;
    items.insert(items.end(), b.list()->items.begin(), b.list()->items.end());
    return machine.list(at, std::move(items), a.list()->is_tuple);
  }
  if (op == Operator::multiply && b.is_whole() && (a.text() != nullptr || a.list() != nullptr)) {
    return repeated(machine, at, a, b.whole());
  }
  if (op == Operator::multiply && a.is_whole() && (b.text() != nullptr || b.list() != nullptr)) {
    return repeated(machine, at, b, a.whole());
  }
  if (op == Operator::modulo && a.text() != nullptr) {
    return machine.fault(Exit::unsupported, "CT04", at, "formatting with % is not supported");
  }
  const bool left_is_wrong = !a.is_number() && a.text() == nullptr && a.list() == nullptr;
  return machine.wrong_value(at, "operator does not take this value", left_is_wrong ? a : b);
}

}  // namespace pare::jinja
