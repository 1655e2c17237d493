// engine/tokenizer/jinja/ast.h: a parsed template. Chains of operators are flat, so that the depth of the
// tree is that of its brackets and blocks, which is capped.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/tokenizer/jinja/lexer.h"
#include "engine/tokenizer/jinja/value.h"

namespace pare::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class Operator : uint8_t {
  add,
  subtract,
  multiply,
  divide,
  floor_divide,
  modulo,
  power,
  concatenate,
  equal,
  not_equal,
  less,
  less_equal,
  greater,
  greater_equal,
  in,
  not_in,
};

struct Argument {
  std::string name;  // empty: by position
  ExpressionPtr value;
};

// What follows a primary: .name  [x]  [a:b:c]  (arguments)  | filter  is test
struct Postfix {
  enum class Kind : uint8_t { attribute, subscript, slice, call, filter, test, not_test };
  Kind kind = Kind::attribute;
  Position at;
  std::string name;                  // attribute, filter, test
  std::vector<Argument> arguments;   // call, filter, test
  std::vector<ExpressionPtr> parts;  // subscript: 1; slice: 3, null where left out
};

struct Expression {
  enum class Kind : uint8_t {
    literal,      // value
    name,         // name
    list,         // items
    tuple,        // items
    dict,         // items: key, value, key, value ...
    logic_not,    // items[0]
    negate,       // items[0]
    plus,         // items[0]
    chain,        // items[0] op[0] items[1] op[1] ... from the left
    comparison,   // the same, with Python's meaning: every neighbouring pair must hold
    logic_and,    // items
    logic_or,     // items
    conditional,  // items: value, condition, otherwise (may be null)
    postfix,      // items[0], then postfixes
  };
  Kind kind = Kind::literal;
  Position at;
  Value value;
  std::string name;
  std::vector<ExpressionPtr> items;
  std::vector<Operator> operators;
  std::vector<Postfix> postfixes;
};

struct Statement;
using Body = std::vector<Statement>;

struct Parameter {
  std::string name;
  ExpressionPtr fallback;  // null: none
};
struct MacroNode {
  std::string name;
  std::vector<Parameter> parameters;
  Body body;
};

struct Branch {
  ExpressionPtr condition;  // null: else
  Body body;
};

struct Statement {
  enum class Kind : uint8_t {
    text,       // text
    output,     // expression
    if_block,   // branches
    for_block,  // targets, expression, filter, body, otherwise
    set,        // targets (or a target with attribute), expression
    set_block,  // targets[0], body
    macro,      // macro
    group,      // body: {% generation %}, which marks text for training only
    break_loop,
    continue_loop,
  };
  Kind kind = Kind::text;
  Position at;
  std::string text;
  ExpressionPtr expression;
  ExpressionPtr filter;
  std::vector<std::string> targets;
  std::string attribute;  // of set: `namespace.attribute = ...`
  std::vector<Branch> branches;
  Body body, otherwise;
  std::unique_ptr<MacroNode> macro;
};

}  // namespace pare::jinja
