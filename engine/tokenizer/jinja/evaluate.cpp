// Expressions.
#include <fmt/core.h>

#include <algorithm>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tokenizer/jinja/characters.h"
#include "engine/tokenizer/jinja/depth.h"
#include "engine/tokenizer/jinja/evaluator.h"

namespace pare::jinja {

Result<Value> Evaluator::evaluate(const Expression& expression, Scope& scope) {
  PARE_TRY(const Depth depth, enter(expression.at));
  switch (expression.kind) {
    case Expression::Kind::literal:
      return expression.value;
    case Expression::Kind::name:
      return look_up(expression, scope);
    case Expression::Kind::list:
    case Expression::Kind::tuple:
      return evaluate_items(expression, scope);
    case Expression::Kind::dict:
      return evaluate_dict(expression, scope);
    case Expression::Kind::logic_not: {
      PARE_TRY(const Value value, evaluate(*expression.items[0], scope));
      return Value(!value.truth());
    }
    case Expression::Kind::negate:
    case Expression::Kind::plus:
      return evaluate_sign(expression, scope);
    case Expression::Kind::chain:
      return evaluate_chain(expression, scope);
    case Expression::Kind::comparison:
      return evaluate_comparison(expression, scope);
    case Expression::Kind::logic_and:
    case Expression::Kind::logic_or:
      return evaluate_logic(expression, scope);
    case Expression::Kind::conditional: {
      PARE_TRY(const Value holds, evaluate(*expression.items[1], scope));
      if (holds.truth()) return evaluate(*expression.items[0], scope);
      return expression.items[2] ? evaluate(*expression.items[2], scope) : Value::undefined("else");
    }
    case Expression::Kind::postfix:
      return evaluate_postfix(expression, scope);
  }
  return Value();
}

Result<Value> Evaluator::look_up(const Expression& expression, Scope& scope) {
  const Value* found = scope.find(expression.name);
  return found != nullptr ? *found : Value::undefined(expression.name);
}

Result<Value> Evaluator::evaluate_items(const Expression& expression, Scope& scope) {
  std::vector<Value> items;
  for (const ExpressionPtr& item : expression.items) {
    PARE_TRY(Value value, evaluate(*item, scope));
    items.push_back(std::move(value));
  }
  return machine_.list(expression.at, std::move(items), expression.kind == Expression::Kind::tuple);
}

Result<Value> Evaluator::evaluate_dict(const Expression& expression, Scope& scope) {
  std::vector<std::pair<std::string, Value>> items;
  for (size_t i = 0; i < expression.items.size(); i += 2) {
    PARE_TRY(const Value key, evaluate(*expression.items[i], scope));
    PARE_TRY(Value value, evaluate(*expression.items[i + 1], scope));
    if (key.text() == nullptr) {
      return machine_.fault(Exit::unsupported, "CT04", expression.items[i]->at,
                            "keys of a map that are not texts are not supported", key.kind_name());
    }
    const auto same = std::find_if(items.begin(), items.end(),
                                   [&](const auto& entry) { return entry.first == *key.text(); });
    if (same != items.end()) {
      same->second = std::move(value);
    } else {
      items.emplace_back(*key.text(), std::move(value));
    }
  }
  return machine_.map(expression.at, std::move(items));
}

Result<Value> Evaluator::evaluate_logic(const Expression& expression, Scope& scope) {
  const bool stops_at = expression.kind == Expression::Kind::logic_or;
  Value value;
  for (const ExpressionPtr& item : expression.items) {
    PARE_TRY(value, evaluate(*item, scope));
    if (value.truth() == stops_at) break;
  }
  return value;
}

Result<Value> Evaluator::evaluate_sign(const Expression& expression, Scope& scope) {
  PARE_TRY(const Value value, evaluate(*expression.items[0], scope));
  if (!value.is_number()) return machine_.wrong_value(expression.at, "value is not a number", value);
  if (expression.kind == Expression::Kind::plus) return value;
  if (!value.is_whole()) return Value(-value.number());
  return apply_operator(machine_, expression.at, Operator::subtract, Value(int64_t(0)), value);
}

Result<Value> Evaluator::evaluate_chain(const Expression& expression, Scope& scope) {
  PARE_TRY(Value value, evaluate(*expression.items[0], scope));
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    PARE_TRY(const Value next, evaluate(*expression.items[i + 1], scope));
    PARE_TRY(value,
             apply_operator(machine_, expression.items[i + 1]->at, expression.operators[i], value, next));
  }
  return value;
}

Result<Value> Evaluator::evaluate_comparison(const Expression& expression, Scope& scope) {
  PARE_TRY(Value left, evaluate(*expression.items[0], scope));
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    PARE_TRY(Value right, evaluate(*expression.items[i + 1], scope));
    const Position at = expression.items[i + 1]->at;
    bool holds = false;
    switch (expression.operators[i]) {
      case Operator::in:
      case Operator::not_in: {
        PARE_TRY(holds, contains(machine_, at, right, left));
        holds = holds == (expression.operators[i] == Operator::in);
        break;
      }
      case Operator::equal:
      case Operator::not_equal: {
        PARE_CHECK(machine_.step(at, std::min(left.weight(), right.weight()) / 1024));
        holds = left.equals(right) == (expression.operators[i] == Operator::equal);
        break;
      }
      default: {
        PARE_TRY(const int order, compare(machine_, at, left, right));
        const Operator op = expression.operators[i];
        holds = op == Operator::less         ? order < 0
                : op == Operator::less_equal ? order <= 0
                : op == Operator::greater    ? order > 0
                                             : order >= 0;
      }
    }
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Result<Value> Evaluator::evaluate_postfix(const Expression& expression, Scope& scope) {
  PARE_TRY(Value value, evaluate(*expression.items[0], scope));
  const std::vector<Postfix>& chain = expression.postfixes;
  for (size_t i = 0; i < chain.size(); ++i) {
    const Postfix& part = chain[i];
    PARE_CHECK(machine_.step(part.at));
    switch (part.kind) {
      case Postfix::Kind::attribute: {
        const bool is_called = i + 1 < chain.size() && chain[i + 1].kind == Postfix::Kind::call;
        const bool is_method = is_called && !value.is<Value::Namespace>() &&
                               (value.map() == nullptr || part.name == "items" || part.name == "keys" ||
                                part.name == "values" || part.name == "get");
        if (is_method && !part.name.starts_with("__")) {
          PARE_TRY(const Arguments arguments, evaluate_arguments(chain[++i].arguments, scope));
          PARE_TRY(value, call_method(machine_, part.at, value, part.name, arguments));
        } else {
          PARE_TRY(value, get_attribute(machine_, part.at, value, part.name));
        }
        break;
      }
      case Postfix::Kind::subscript: {
        PARE_TRY(const Value index, evaluate(*part.parts[0], scope));
        PARE_TRY(value, get_item(machine_, part.at, value, index));
        break;
      }
      case Postfix::Kind::slice: {
        PARE_TRY(value, evaluate_slice(value, part, scope));
        break;
      }
      case Postfix::Kind::call: {
        PARE_TRY(value, evaluate_call(value, part, scope));
        break;
      }
      case Postfix::Kind::filter: {
        PARE_TRY(const Arguments arguments, evaluate_arguments(part.arguments, scope));
        PARE_TRY(value, apply_filter(machine_, part.at, part.name, value, arguments));
        break;
      }
      case Postfix::Kind::test:
      case Postfix::Kind::not_test: {
        PARE_TRY(const Arguments arguments, evaluate_arguments(part.arguments, scope));
        PARE_TRY(const bool holds, apply_test(machine_, part.at, part.name, value, arguments));
        value = Value(holds == (part.kind == Postfix::Kind::test));
        break;
      }
    }
  }
  return value;
}

// Python's rules: parts left out are the ends, parts beyond the ends are moved to them.
Result<Value> Evaluator::evaluate_slice(const Value& value, const Postfix& slice, Scope& scope) {
  std::optional<int64_t> parts[3];
  for (size_t i = 0; i < 3; ++i) {
    if (!slice.parts[i]) continue;
    PARE_TRY(const Value part, evaluate(*slice.parts[i], scope));
    if (part.is_none()) continue;
    if (!part.is_whole()) return machine_.wrong_value(slice.at, "part of a slice is not an integer", part);
    parts[i] = part.whole();
  }
  if (value.text() == nullptr && value.list() == nullptr) {
    return machine_.wrong_value(slice.at, "value cannot be sliced", value);
  }
  const int64_t step = parts[2].value_or(1);
  if (step == 0) return machine_.fault(Exit::malformed, "CT12", slice.at, "slice with step 0");
  PARE_TRY(const std::vector<Value> items, items_of(machine_, slice.at, value));
  const int64_t size = int64_t(items.size());
  const auto place = [&](const std::optional<int64_t>& part, int64_t fallback) {
    if (!part) return fallback;
    const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
    return *part < 0 ? std::max(low, std::max(*part, -size - 1) + size) : std::min(high, *part);
  };
  const int64_t start = place(parts[0], step > 0 ? 0 : size - 1),
                stop = place(parts[1], step > 0 ? size : -1);
  std::vector<Value> kept;
  const int64_t stride = std::clamp(step, -size - 1, size + 1);  // no further than beyond the end
  for (int64_t i = start; stride > 0 ? i < stop : i > stop; i += stride) kept.push_back(items[size_t(i)]);
  if (value.list() != nullptr) return machine_.list(slice.at, std::move(kept), value.list()->is_tuple);
  std::string text;
  for (const Value& one : kept) text += *one.text();
  return machine_.text(slice.at, std::move(text));
}

Result<Value> Evaluator::evaluate_call(const Value& callee, const Postfix& call, Scope& scope) {
  if (const Undefined* missing = callee.get<Undefined>()) {
    return machine_.fault(Exit::unsupported, "CT04", call.at, "function is not supported",
                          quote(missing->name));
  }
  PARE_TRY(const Arguments arguments, evaluate_arguments(call.arguments, scope));
  if (const MacroData* macro = callee.get<MacroData>()) return call_macro(call.at, *macro, arguments);
  if (const Function* function = callee.get<Function>()) {
    return call_function(machine_, call.at, *function, arguments);
  }
  return machine_.wrong_value(call.at, "value cannot be called", callee);
}

Result<Arguments> Evaluator::evaluate_arguments(const std::vector<Argument>& arguments, Scope& scope) {
  Arguments values;
  for (const Argument& argument : arguments) {
    PARE_TRY(Value value, evaluate(*argument.value, scope));
    if (argument.name.empty()) {
      values.positional.push_back(std::move(value));
    } else {
      values.named.emplace_back(argument.name, std::move(value));
    }
  }
  return values;
}

}  // namespace pare::jinja
