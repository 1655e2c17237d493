#include "engine/tokenizer/jinja/expression_parser.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <optional>

#include "engine/core/limits.h"
#include "engine/core/text.h"

namespace pare::jinja {
namespace {

ExpressionPtr make(Expression::Kind kind, Position at) {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->at = at;
  return expression;
}

// Operators from the loosest to the tightest; all of one level group from the left.
struct Symbol {
  std::string_view text;
  Operator meaning;
};
constexpr std::array<std::array<Symbol, 4>, 4> kLevels = {{
    {{{"+", Operator::add}, {"-", Operator::subtract}, {}, {}}},
    {{{"~", Operator::concatenate}, {}, {}, {}}},
    {{{"*", Operator::multiply},
      {"/", Operator::divide},
      {"//", Operator::floor_divide},
      {"%", Operator::modulo}}},
    {{{"**", Operator::power}, {}, {}, {}}},
}};

std::optional<Operator> operator_at(const Token& token, size_t level) {
  if (token.kind != TokenKind::symbol) return std::nullopt;
  for (const Symbol& symbol : kLevels[level]) {
    if (!symbol.text.empty() && symbol.text == token.text) return symbol.meaning;
  }
  return std::nullopt;
}

std::optional<Operator> comparison_at(const Token& token, const Token& next) {
  if (token.is(TokenKind::name, "in")) return Operator::in;
  if (token.is(TokenKind::name, "not") && next.is(TokenKind::name, "in")) return Operator::not_in;
  if (token.kind != TokenKind::symbol) return std::nullopt;
  for (const auto& [text, meaning] :
       {Symbol{"==", Operator::equal}, Symbol{"!=", Operator::not_equal}, Symbol{"<", Operator::less},
        Symbol{"<=", Operator::less_equal}, Symbol{">", Operator::greater},
        Symbol{">=", Operator::greater_equal}}) {
    if (token.text == text) return meaning;
  }
  return std::nullopt;
}

bool is_symbol(const Token& token, std::string_view text) {
  return token.is(TokenKind::symbol, text);
}
bool is_word(const Token& token, std::string_view text) {
  return token.is(TokenKind::name, text);
}

}  // namespace

Result<ExpressionParser::Nesting> ExpressionParser::nest() {
  if (depth_ >= int(limits::kTemplateNesting)) {
    return template_error(Exit::resource, "CT07", path_, current().at, "nested too deeply",
                          fmt::format("{}", depth_ + 1), fmt::format("{}", limits::kTemplateNesting));
  }
  return Nesting(depth_);
}

Error ExpressionParser::syntax(std::string what, std::string got, std::string limit) const {
  Error error = template_error(Exit::malformed, "CT03", path_, current().at, std::move(what), std::move(got),
                               std::move(limit));
  error.limit_label = "expected";
  return error;
}

Error ExpressionParser::syntax_at(Position at, std::string what, std::string got) const {
  return template_error(Exit::malformed, "CT03", path_, at, std::move(what), std::move(got));
}

Status ExpressionParser::expect(TokenKind kind, std::string_view text) {
  const bool fits = current().kind == kind && (kind != TokenKind::symbol || current().text == text);
  if (!fits) return syntax("unexpected token", quote(current().text), quote(text));
  advance();
  return {};
}

Result<ExpressionPtr> ExpressionParser::parse_tuple(bool conditional) {
  const Position at = current().at;
  PARE_TRY(ExpressionPtr first, parse_expression(conditional));
  if (!is_symbol(current(), ",")) return first;
  ExpressionPtr tuple = make(Expression::Kind::tuple, at);
  tuple->items.push_back(std::move(first));
  while (is_symbol(current(), ",")) {
    advance();
    const Token& token = current();
    if (token.kind == TokenKind::variable_end || token.kind == TokenKind::block_end || is_symbol(token, ")"))
      break;
    PARE_TRY(ExpressionPtr item, parse_expression(conditional));
    tuple->items.push_back(std::move(item));
  }
  return tuple;
}

Result<ExpressionPtr> ExpressionParser::parse_expression(bool conditional) {
  PARE_TRY(const Nesting nesting, nest());
  PARE_TRY(ExpressionPtr value, parse_logic(true));
  while (conditional && is_word(current(), "if")) {
    ExpressionPtr choice = make(Expression::Kind::conditional, current().at);
    advance();
    choice->items.push_back(std::move(value));
    PARE_TRY(ExpressionPtr condition, parse_logic(true));
    choice->items.push_back(std::move(condition));
    ExpressionPtr otherwise;
    if (is_word(current(), "else")) {
      advance();
      PARE_TRY(otherwise, parse_expression(true));
    }
    choice->items.push_back(std::move(otherwise));
    value = std::move(choice);
  }
  return value;
}

Result<ExpressionPtr> ExpressionParser::parse_logic(bool is_or) {
  const Position at = current().at;
  const std::string_view word = is_or ? "or" : "and";
  auto first = is_or ? parse_logic(false) : parse_not();
  if (!first || !is_word(current(), word)) return first;
  ExpressionPtr node = make(is_or ? Expression::Kind::logic_or : Expression::Kind::logic_and, at);
  node->items.push_back(*std::move(first));
  while (is_word(current(), word)) {
    advance();
    PARE_TRY(ExpressionPtr next, is_or ? parse_logic(false) : parse_not());
    node->items.push_back(std::move(next));
  }
  return node;
}

Result<ExpressionPtr> ExpressionParser::parse_not() {
  if (!is_word(current(), "not")) return parse_comparison();
  PARE_TRY(const Nesting nesting, nest());
  ExpressionPtr node = make(Expression::Kind::logic_not, current().at);
  advance();
  PARE_TRY(ExpressionPtr value, parse_not());
  node->items.push_back(std::move(value));
  return node;
}

Result<ExpressionPtr> ExpressionParser::parse_comparison() {
  const Position at = current().at;
  PARE_TRY(ExpressionPtr first, parse_chain(0));
  auto meaning = comparison_at(current(), peek());
  if (!meaning) return first;
  ExpressionPtr node = make(Expression::Kind::comparison, at);
  node->items.push_back(std::move(first));
  for (; meaning; meaning = comparison_at(current(), peek())) {
    advance();
    if (*meaning == Operator::not_in) advance();
    PARE_TRY(ExpressionPtr next, parse_chain(0));
    node->items.push_back(std::move(next));
    node->operators.push_back(*meaning);
  }
  return node;
}

Result<ExpressionPtr> ExpressionParser::parse_chain(size_t level) {
  const Position at = current().at;
  const auto operand = [&] {
    return level + 1 < kLevels.size() ? parse_chain(level + 1) : parse_unary(true);
  };
  PARE_TRY(ExpressionPtr first, operand());
  auto meaning = operator_at(current(), level);
  if (!meaning) return first;
  ExpressionPtr node = make(Expression::Kind::chain, at);
  node->items.push_back(std::move(first));
  for (; meaning; meaning = operator_at(current(), level)) {
    advance();
    PARE_TRY(ExpressionPtr next, operand());
    node->items.push_back(std::move(next));
    node->operators.push_back(*meaning);
  }
  return node;
}

Result<ExpressionPtr> ExpressionParser::parse_unary(bool with_filter) {
  const Position at = current().at;
  ExpressionPtr node;
  if (is_symbol(current(), "-") || is_symbol(current(), "+")) {
    PARE_TRY(const Nesting nesting, nest());
    node = make(is_symbol(current(), "-") ? Expression::Kind::negate : Expression::Kind::plus, at);
    advance();
    PARE_TRY(ExpressionPtr value, parse_unary(false));
    node->items.push_back(std::move(value));
    PARE_CHECK(parse_postfixes(node, true, with_filter));
    return node;
  }
  PARE_TRY(node, parse_primary());
  PARE_CHECK(parse_postfixes(node, true, with_filter));
  return node;
}

Result<ExpressionPtr> ExpressionParser::parse_primary() {
  const Token& token = current();
  if (token.kind == TokenKind::symbol) return parse_bracketed();
  ExpressionPtr node = make(Expression::Kind::literal, token.at);
  switch (token.kind) {
    case TokenKind::name:
      if (token.text == "true" || token.text == "True" || token.text == "false" || token.text == "False") {
        node->value = Value(token.text == "true" || token.text == "True");
      } else if (token.text == "none" || token.text == "None") {
        node->value = Value::none();
      } else {
        node->kind = Expression::Kind::name;
        node->name = token.text;
      }
      advance();
      return node;
    case TokenKind::string: {
      std::string text;
      for (; current().kind == TokenKind::string; advance()) text += current().text;  // neighbours join
      node->value = Value(std::move(text));
      return node;
    }
    case TokenKind::integer: {
      const auto value = parse_int(token.text);
      if (!value) {
        return template_error(Exit::malformed, "CT12", path_, token.at, "integer does not fit",
                              quote(token.text));
      }
      node->value = Value(*value);
      advance();
      return node;
    }
    case TokenKind::real: {
      const auto value = parse_double(token.text);
      if (!value) {
        return template_error(Exit::malformed, "CT12", path_, token.at, "number does not fit",
                              quote(token.text));
      }
      node->value = Value(*value);
      advance();
      return node;
    }
    default:
      return syntax("expected an expression", quote(token.text));
  }
}

Result<ExpressionPtr> ExpressionParser::parse_bracketed() {
  const Position at = current().at;
  if (is_symbol(current(), "[")) return parse_list();
  if (is_symbol(current(), "{")) return parse_dict();
  if (!is_symbol(current(), "(")) return syntax("expected an expression", quote(current().text));
  advance();
  if (is_symbol(current(), ")")) {
    advance();
    return make(Expression::Kind::tuple, at);
  }
  PARE_TRY(ExpressionPtr inner, parse_tuple(true));
  PARE_CHECK(expect(TokenKind::symbol, ")"));
  return inner;
}

Result<ExpressionPtr> ExpressionParser::parse_list() {
  ExpressionPtr node = make(Expression::Kind::list, current().at);
  advance();
  while (!is_symbol(current(), "]")) {
    PARE_TRY(ExpressionPtr item, parse_expression(true));
    node->items.push_back(std::move(item));
    if (!is_symbol(current(), ",")) break;
    advance();
  }
  PARE_CHECK(expect(TokenKind::symbol, "]"));
  return node;
}

Result<ExpressionPtr> ExpressionParser::parse_dict() {
  ExpressionPtr node = make(Expression::Kind::dict, current().at);
  advance();
  while (!is_symbol(current(), "}")) {
    PARE_TRY(ExpressionPtr key, parse_expression(true));
    PARE_CHECK(expect(TokenKind::symbol, ":"));
    PARE_TRY(ExpressionPtr value, parse_expression(true));
    node->items.push_back(std::move(key));
    node->items.push_back(std::move(value));
    if (!is_symbol(current(), ",")) break;
    advance();
  }
  PARE_CHECK(expect(TokenKind::symbol, "}"));
  return node;
}

Status ExpressionParser::parse_postfixes(ExpressionPtr& base, bool attributes, bool filters) {
  for (bool filtered = false;;) {
    const Token& token = current();
    const bool is_call = is_symbol(token, "(");
    const bool is_plain = attributes && !filtered && (is_symbol(token, ".") || is_symbol(token, "["));
    const bool is_filter = filters && (is_symbol(token, "|") || is_word(token, "is"));
    if (!is_plain && !is_filter && !is_call) return {};
    if (is_filter) filtered = true;
    Postfix postfix;
    postfix.at = token.at;
    if (is_call) {
      postfix.kind = Postfix::Kind::call;
      PARE_CHECK(parse_arguments(postfix.arguments));
    } else if (is_symbol(token, ".")) {
      advance();
      if (current().kind != TokenKind::name && current().kind != TokenKind::integer) {
        return syntax("expected a name", quote(current().text));
      }
      postfix.name = current().text;
      if (current().kind == TokenKind::integer) {
        postfix.kind = Postfix::Kind::subscript;
        PARE_TRY(ExpressionPtr index, parse_primary());
        postfix.parts.push_back(std::move(index));
      } else {
        advance();
      }
    } else if (is_symbol(token, "[")) {
      PARE_CHECK(parse_subscript(postfix));
    } else if (is_symbol(token, "|")) {
      advance();
      postfix.kind = Postfix::Kind::filter;
      if (current().kind != TokenKind::name) return syntax("expected a filter", quote(current().text));
      postfix.name = current().text;
      advance();
      if (is_symbol(current(), "(")) PARE_CHECK(parse_arguments(postfix.arguments));
    } else {
      PARE_CHECK(parse_test(postfix));
    }
    if (base->kind != Expression::Kind::postfix) {
      ExpressionPtr node = make(Expression::Kind::postfix, base->at);
      node->items.push_back(std::move(base));
      base = std::move(node);
    }
    base->postfixes.push_back(std::move(postfix));
  }
}

Status ExpressionParser::parse_subscript(Postfix& postfix) {
  advance();
  postfix.kind = Postfix::Kind::subscript;
  if (is_symbol(current(), "]")) return syntax("empty subscript");
  for (;;) {
    ExpressionPtr part;
    if (!is_symbol(current(), ":") && !is_symbol(current(), "]")) {
      PARE_TRY(part, parse_expression(true));
    }
    postfix.parts.push_back(std::move(part));
    if (!is_symbol(current(), ":")) break;
    postfix.kind = Postfix::Kind::slice;
    advance();
    if (postfix.parts.size() == 3) return syntax("slice has at most three parts");
  }
  if (postfix.kind == Postfix::Kind::slice) postfix.parts.resize(3);
  return expect(TokenKind::symbol, "]");
}

Status ExpressionParser::parse_test(Postfix& postfix) {
  advance();
  postfix.kind = Postfix::Kind::test;
  if (is_word(current(), "not")) {
    postfix.kind = Postfix::Kind::not_test;
    advance();
  }
  if (current().kind != TokenKind::name) return syntax("expected a test", quote(current().text));
  postfix.name = current().text;
  advance();
  const Token& token = current();
  if (is_symbol(token, "(")) return parse_arguments(postfix.arguments);
  const bool is_value = token.kind == TokenKind::string || token.kind == TokenKind::integer ||
                        token.kind == TokenKind::real || is_symbol(token, "[") || is_symbol(token, "{");
  constexpr std::array<std::string_view, 7> kFollowing = {"else", "or",  "and",      "if",
                                                          "in",   "not", "recursive"};
  if (is_word(token, "is")) return syntax("tests cannot be chained with is");
  const bool is_name = token.kind == TokenKind::name &&
                       std::find(kFollowing.begin(), kFollowing.end(), token.text) == kFollowing.end();
  if (!is_value && !is_name) return {};
  PARE_TRY(const Nesting nesting, nest());
  Argument argument;
  PARE_TRY(argument.value, parse_primary());
  PARE_CHECK(parse_postfixes(argument.value, true, false));
  postfix.arguments.push_back(std::move(argument));
  return {};
}

Status ExpressionParser::parse_arguments(std::vector<Argument>& arguments) {
  advance();
  while (!is_symbol(current(), ")")) {
    if (is_symbol(current(), "*") || is_symbol(current(), "**")) {
      return template_error(Exit::unsupported, "CT04", path_, current().at,
                            "unpacked arguments are not supported");
    }
    Argument argument;
    if (current().kind == TokenKind::name && is_symbol(peek(), "=")) {
      argument.name = current().text;
      advance();
      advance();
    } else if (!arguments.empty() && !arguments.back().name.empty()) {
      return syntax("argument by position after one by name");
    }
    PARE_TRY(argument.value, parse_expression(true));
    arguments.push_back(std::move(argument));
    if (!is_symbol(current(), ",")) break;
    advance();
  }
  return expect(TokenKind::symbol, ")");
}

}  // namespace pare::jinja
