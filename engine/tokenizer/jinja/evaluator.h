// engine/tokenizer/jinja/evaluator.h: walks the tree of a template and collects its text.
#pragma once

#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "engine/tokenizer/jinja/ast.h"
#include "engine/tokenizer/jinja/machine.h"

namespace pare::jinja {

// Names of one block: the template, a turn of a loop, a call of a macro.
struct Scope {
  std::vector<std::pair<std::string, Value>> names;
  Scope* parent = nullptr;

  const Value* find(const std::string& name) const;
  void set(const std::string& name, Value value);
};

class Evaluator {
 public:
  explicit Evaluator(Machine& machine) : machine_(machine) {}

  // The text of the template with these variables. Errors: CT04 to CT13.
  Result<std::string> run(const Body& body, const MapData& variables);

 private:
  enum class Flow : uint8_t { normal, broken, continued };
  class Depth;
  Result<Depth> enter(Position at);
  Result<Scope*> new_scope(Scope* parent, Position at);

  // --- statements (evaluator.cpp)
  Result<Flow> execute(const Body& body, Scope& scope);
  Result<Flow> execute(const Statement& statement, Scope& scope);
  Result<Flow> execute_if(const Statement& statement, Scope& scope);
  Result<Flow> execute_for(const Statement& statement, Scope& scope);
  Status execute_set(const Statement& statement, Scope& scope);
  Status emit(Position at, std::string_view text);
  Result<Value> captured(const Body& body, Scope& scope, Position at);
  Status assign(const Statement& statement, const Value& value, Scope& scope);
  Result<Value> call_macro(Position at, const MacroData& macro, const Arguments& arguments);

  // --- expressions (evaluate.cpp)
  Result<Value> evaluate(const Expression& expression, Scope& scope);
  Result<Value> look_up(const Expression& expression, Scope& scope);
  Result<Value> evaluate_items(const Expression& expression, Scope& scope);
  Result<Value> evaluate_dict(const Expression& expression, Scope& scope);
  Result<Value> evaluate_logic(const Expression& expression, Scope& scope);
  Result<Value> evaluate_sign(const Expression& expression, Scope& scope);
  Result<Value> evaluate_chain(const Expression& expression, Scope& scope);
  Result<Value> evaluate_comparison(const Expression& expression, Scope& scope);
  Result<Value> evaluate_postfix(const Expression& expression, Scope& scope);
  Result<Value> evaluate_slice(const Value& value, const Postfix& slice, Scope& scope);
  Result<Value> evaluate_call(const Value& callee, const Postfix& call, Scope& scope);
  Result<Arguments> evaluate_arguments(const std::vector<Argument>& arguments, Scope& scope);

  Machine& machine_;
  std::deque<Scope> scopes_;  // all of them until the end: macros keep the scope that they were defined in
  std::string* output_ = nullptr;
  int depth_ = 0, calls_ = 0;
};

// a op b for the arithmetic operators and ~. CT12 (3) for overflow and division by zero, CT13 (3) for wrong
// types.
Result<Value> apply_operator(Machine& machine, Position at, Operator op, const Value& a, const Value& b);

}  // namespace pare::jinja
