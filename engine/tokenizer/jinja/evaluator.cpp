#include "engine/tokenizer/jinja/evaluator.h"

#include <fmt/core.h>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tokenizer/jinja/depth.h"

namespace pare::jinja {
namespace {

// Frames of evaluate() and execute() on the stack: brackets and blocks within calls of macros.
constexpr int kRecursion = int(limits::kTemplateNesting) * 8;

}  // namespace

const Value* Scope::find(const std::string& name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
    for (const auto& [key, value] : scope->names)
      if (key == name) return &value;
  }
  return nullptr;
}

void Scope::set(const std::string& name, Value value) {
  for (auto& [key, old] : names) {
    if (key != name) continue;
    old = std::move(value);
    return;
  }
  names.emplace_back(name, std::move(value));
}

Result<Evaluator::Depth> Evaluator::enter(Position at) {
  PARE_CHECK(machine_.step(at));
  if (depth_ < kRecursion) return Depth(depth_);
  return machine_.fault(Exit::resource, "CT07", at, "nested too deeply", fmt::format("{}", depth_ + 1),
                        fmt::format("{}", kRecursion));
}

Result<Scope*> Evaluator::new_scope(Scope* parent, Position at) {
  constexpr uint64_t kScopeBytes = 256;  // with the few names that a loop or macro has
  PARE_CHECK(machine_.charge(at, kScopeBytes));
  scopes_.push_back({{}, parent});
  return &scopes_.back();
}

Result<std::string> Evaluator::run(const Body& body, const MapData& variables) {
  constexpr std::pair<const char*, Function> kFunctions[] = {{"range", Function::range},
                                                             {"namespace", Function::make_namespace},
                                                             {"dict", Function::dict},
                                                             {"raise_exception", Function::raise_exception},
                                                             {"strftime_now", Function::strftime_now}};
  PARE_TRY(Scope* const root, new_scope(nullptr, {}));
  for (const auto& [name, function] : kFunctions) root->set(name, Value(Value::Form(function)));
  for (const auto& [name, value] : variables.items) root->set(name, value);
  std::string text;
  output_ = &text;
  PARE_TRY(const Flow flow, execute(body, *root));
  static_cast<void>(flow);
  return text;
}

Status Evaluator::emit(Position at, std::string_view text) {
  PARE_CHECK(machine_.check_text(at, output_->size() + text.size()));
  *output_ += text;
  return {};
}

Result<Evaluator::Flow> Evaluator::execute(const Body& body, Scope& scope) {
  for (const Statement& statement : body) {
    PARE_TRY(const Flow flow, execute(statement, scope));
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Result<Evaluator::Flow> Evaluator::execute(const Statement& statement, Scope& scope) {
  PARE_TRY(const Depth depth, enter(statement.at));
  switch (statement.kind) {
    case Statement::Kind::text: {
      PARE_CHECK(emit(statement.at, statement.text));
      break;
    }
    case Statement::Kind::output: {
      PARE_TRY(const Value value, evaluate(*statement.expression, scope));
      PARE_TRY(const std::string text, machine_.printed(statement.at, value));
      PARE_CHECK(emit(statement.at, text));
      break;
    }
    case Statement::Kind::if_block:
      return execute_if(statement, scope);
    case Statement::Kind::for_block:
      return execute_for(statement, scope);
    case Statement::Kind::set:
    case Statement::Kind::set_block: {
      PARE_CHECK(execute_set(statement, scope));
      break;
    }
    case Statement::Kind::macro:
      scope.set(statement.macro->name, Value(Value::Form(MacroData{statement.macro.get(), &scope})));
      break;
    case Statement::Kind::group:
      return execute(statement.body, scope);
    case Statement::Kind::break_loop:
      return Flow::broken;
    case Statement::Kind::continue_loop:
      return Flow::continued;
  }
  return Flow::normal;
}

Result<Evaluator::Flow> Evaluator::execute_if(const Statement& statement, Scope& scope) {
  for (const Branch& branch : statement.branches) {
    if (branch.condition) {
      PARE_TRY(const Value holds, evaluate(*branch.condition, scope));
      if (!holds.truth()) continue;
    }
    return execute(branch.body, scope);
  }
  return Flow::normal;
}

Result<Evaluator::Flow> Evaluator::execute_for(const Statement& statement, Scope& scope) {
  PARE_TRY(const Value iterable, evaluate(*statement.expression, scope));
  PARE_TRY(std::vector<Value> items, items_of(machine_, statement.at, iterable));
  if (statement.filter) {
    std::vector<Value> kept;
    PARE_TRY(Scope* const test, new_scope(&scope, statement.at));
    for (Value& item : items) {
      PARE_CHECK(assign(statement, item, *test));
      PARE_TRY(const Value holds, evaluate(*statement.filter, *test));
      if (holds.truth()) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  if (items.empty()) return execute(statement.otherwise, scope);
  PARE_TRY(const Value list, machine_.list(statement.at, std::move(items)));
  LoopData loop{*list.get<Value::List>(), 0};
  for (const Value& item : loop.items->items) {
    PARE_CHECK(machine_.step(statement.at));
    PARE_TRY(Scope* const turn, new_scope(&scope, statement.at));
    turn->set("loop", Value(Value::Form(std::make_shared<const LoopData>(loop))));
    PARE_CHECK(assign(statement, item, *turn));
    PARE_TRY(const Flow flow, execute(statement.body, *turn));
    if (flow == Flow::broken) break;
    ++loop.index;
  }
  return Flow::normal;
}

// The value to the name, or its items to the names.
Status Evaluator::assign(const Statement& statement, const Value& value, Scope& scope) {
  const std::vector<std::string>& targets = statement.targets;
  if (targets.size() == 1) {
    scope.set(targets[0], value);
    return {};
  }
  PARE_TRY(std::vector<Value> items, items_of(machine_, statement.at, value));
  if (items.size() != targets.size()) {
    return machine_.fault(Exit::malformed, "CT13", statement.at, "cannot be spread over the names",
                          fmt::format("{} values", items.size()), fmt::format("{} names", targets.size()));
  }
  for (size_t i = 0; i < targets.size(); ++i) scope.set(targets[i], std::move(items[i]));
  return {};
}

Status Evaluator::execute_set(const Statement& statement, Scope& scope) {
  if (statement.kind == Statement::Kind::set_block) {
    PARE_TRY(Scope* const inner, new_scope(&scope, statement.at));
    PARE_TRY(Value text, captured(statement.body, *inner, statement.at));
    scope.set(statement.targets[0], std::move(text));
    return {};
  }
  PARE_TRY(Value value, evaluate(*statement.expression, scope));
  if (statement.attribute.empty()) return assign(statement, value, scope);
  const Value* target = scope.find(statement.targets[0]);
  const auto* names = target != nullptr ? target->get<Value::Namespace>() : nullptr;
  if (names == nullptr) {
    return machine_.wrong_value(statement.at, "only a namespace has attributes that can be set",
                                target != nullptr ? *target : Value::undefined(statement.targets[0]));
  }
  if (value.is<Value::Namespace>()) {
    return machine_.fault(Exit::unsupported, "CT04", statement.at,
                          "namespace inside another value is not supported");
  }
  NamespaceData& data = **names;
  if (Value* old = data.find(statement.attribute)) {
    *old = std::move(value);
  } else {
    PARE_CHECK(machine_.check_list(statement.at, data.items.size() + 1));
    data.items.emplace_back(statement.attribute, std::move(value));
  }
  return {};
}

Result<Value> Evaluator::captured(const Body& body, Scope& scope, Position at) {
  std::string text;
  std::string* outer = std::exchange(output_, &text);
  auto flow = execute(body, scope);
  output_ = outer;
  if (!flow) return flow.error();
  return machine_.text(at, std::move(text));
}

Result<Value> Evaluator::call_macro(Position at, const MacroData& macro, const Arguments& arguments) {
  if (calls_ >= int(limits::kTemplateCallDepth)) {
    return machine_.fault(Exit::resource, "CT07", at, "macros call each other too deeply",
                          fmt::format("{}", calls_ + 1), fmt::format("{}", limits::kTemplateCallDepth));
  }
  const MacroNode& node = *macro.node;
  if (arguments.positional.size() > node.parameters.size()) {
    return machine_.fault(Exit::malformed, "CT13", at, fmt::format("too many arguments of {}", node.name),
                          fmt::format("{}", arguments.positional.size()),
                          fmt::format("{}", node.parameters.size()));
  }
  PARE_TRY(Scope* const scope, new_scope(macro.scope, at));
  for (const auto& [name, value] : arguments.named) {
    bool known = false;
    for (const Parameter& parameter : node.parameters) known = known || parameter.name == name;
    if (!known) {
      return machine_.fault(Exit::malformed, "CT13", at, fmt::format("unknown argument of {}", node.name),
                            quote(name));
    }
  }
  for (size_t i = 0; i < node.parameters.size(); ++i) {
    const Parameter& parameter = node.parameters[i];
    Value value = Value::undefined(parameter.name);
    if (arguments.has(i, parameter.name)) {
      value = arguments.at(i, parameter.name);
    } else if (parameter.fallback) {
      PARE_TRY(value, evaluate(*parameter.fallback, *scope));
    }
    scope->set(parameter.name, std::move(value));
  }
  ++calls_;
  auto text = captured(node.body, *scope, at);
  --calls_;
  return text;
}

}  // namespace pare::jinja
