#include "engine/tokenizer/jinja/parser.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tokenizer/jinja/expression_parser.h"

namespace pare::jinja {
namespace {

class StatementParser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Result<Body> run() {
    PARE_TRY(Body body, parse_body({}));
    return body;
  }

 private:
  // Statements up to a block whose name is one of `ends`, which is left to the caller (block_begin consumed).
  Result<Body> parse_body(std::vector<std::string_view> ends) {
    PARE_TRY(const Nesting nesting, nest());
    Body body;
    for (;;) {
      const Token& token = current();
      switch (token.kind) {
        case TokenKind::data: {
          Statement statement;
          statement.at = token.at;
          statement.text = token.text;
          body.push_back(std::move(statement));
          advance();
          break;
        }
        case TokenKind::variable_begin: {
          Statement statement;
          statement.kind = Statement::Kind::output;
          statement.at = token.at;
          advance();
          PARE_TRY(statement.expression, parse_tuple(true));
          PARE_CHECK(expect(TokenKind::variable_end, "}}"));
          body.push_back(std::move(statement));
          break;
        }
        case TokenKind::block_begin: {
          const Position at = token.at;
          advance();
          if (current().kind != TokenKind::name) return syntax("a tag needs a name");
          const std::string word = current().text;
          if (std::find(ends.begin(), ends.end(), word) != ends.end()) return body;
          advance();
          PARE_TRY(Statement statement, parse_statement(word, at));
          body.push_back(std::move(statement));
          break;
        }
        case TokenKind::end:
          if (!ends.empty()) return syntax("block is not closed", {}, fmt::format("{}", ends.back()));
          return body;
        default:
          return syntax("unexpected token", quote(token.text));
      }
    }
  }

  Result<Statement> parse_statement(const std::string& word, Position at) {
    if (word == "if") return parse_if(at);
    if (word == "for") return parse_for(at);
    if (word == "set") return parse_set(at);
    if (word == "macro") return parse_macro(at);
    Statement statement;
    statement.at = at;
    if (word == "break" || word == "continue") {
      if (loops_ == 0) return syntax_at(at, fmt::format("{} outside of a loop", word));
      statement.kind = word == "break" ? Statement::Kind::break_loop : Statement::Kind::continue_loop;
      PARE_CHECK(end_tag());
      return statement;
    }
    if (word == "generation") {
      statement.kind = Statement::Kind::group;
      PARE_CHECK(end_tag());
      PARE_TRY(statement.body, parse_body({"endgeneration"}));
      PARE_CHECK(end_block());
      return statement;
    }
    if (word.starts_with("end") || word == "else" || word == "elif") {
      return syntax_at(at, "tag closes nothing", quote(word));
    }
    return template_error(Exit::unsupported, "CT04", path(), at, "statement is not supported", quote(word));
  }

  Status end_tag() { return expect(TokenKind::block_end, "%}"); }
  // The name of an end tag, and its mark.
  Status end_block() {
    advance();
    return end_tag();
  }

  Result<Statement> parse_if(Position at) {
    Statement statement;
    statement.kind = Statement::Kind::if_block;
    statement.at = at;
    for (;;) {
      Branch branch;
      PARE_TRY(branch.condition, parse_tuple(false));
      PARE_CHECK(end_tag());
      PARE_TRY(branch.body, parse_body({"elif", "else", "endif"}));
      statement.branches.push_back(std::move(branch));
      const std::string word = current().text;
      advance();
      if (word == "elif") continue;
      PARE_CHECK(end_tag());
      if (word == "else") {
        Branch otherwise;
        PARE_TRY(otherwise.body, parse_body({"endif"}));
        statement.branches.push_back(std::move(otherwise));
        PARE_CHECK(end_block());
      }
      return statement;
    }
  }

  Result<Statement> parse_for(Position at) {
    Statement statement;
    statement.kind = Statement::Kind::for_block;
    statement.at = at;
    PARE_CHECK(parse_targets(statement.targets));
    if (!current().is(TokenKind::name, "in")) return syntax("expected 'in'", quote(current().text));
    advance();
    PARE_TRY(statement.expression, parse_tuple(false));
    if (current().is(TokenKind::name, "if")) {
      advance();
      PARE_TRY(statement.filter, parse_expression(true));
    }
    if (current().is(TokenKind::name, "recursive")) {
      return template_error(Exit::unsupported, "CT04", path(), current().at,
                            "recursive loops are not supported");
    }
    PARE_CHECK(end_tag());
    ++loops_;
    auto body = parse_body({"else", "endfor"});
    --loops_;
    if (!body) return body.error();
    statement.body = *std::move(body);
    const std::string word = current().text;
    PARE_CHECK(end_block());
    if (word == "else") {
      PARE_TRY(statement.otherwise, parse_body({"endfor"}));
      PARE_CHECK(end_block());
    }
    return statement;
  }

  // a   a, b   (a, b)
  Status parse_targets(std::vector<std::string>& targets) {
    const bool bracket = current().is(TokenKind::symbol, "(");
    if (bracket) advance();
    for (;;) {
      PARE_TRY(std::string name, target_name());
      targets.push_back(std::move(name));
      if (!current().is(TokenKind::symbol, ",")) break;
      advance();
      if (current().kind != TokenKind::name || current().text == "in") break;
    }
    if (bracket) PARE_CHECK(expect(TokenKind::symbol, ")"));
    return {};
  }

  Result<std::string> target_name() {
    constexpr std::array<std::string_view, 13> kKeywords = {
        "true", "false", "none", "True", "False", "None", "and", "or", "not", "in", "is", "if", "else"};
    const Token token = current();
    if (token.kind != TokenKind::name) return syntax("expected a name", quote(token.text));
    if (std::find(kKeywords.begin(), kKeywords.end(), token.text) != kKeywords.end()) {
      return syntax("cannot assign to this name", quote(token.text));
    }
    advance();
    return token.text;
  }

  Result<Statement> parse_set(Position at) {
    Statement statement;
    statement.kind = Statement::Kind::set;
    statement.at = at;
    PARE_CHECK(parse_targets(statement.targets));
    if (current().is(TokenKind::symbol, ".") && statement.targets.size() == 1) {
      advance();
      PARE_TRY(statement.attribute, target_name());
    }
    if (current().is(TokenKind::symbol, "=")) {
      advance();
      PARE_TRY(statement.expression, parse_tuple(true));
      PARE_CHECK(end_tag());
      return statement;
    }
    if (current().is(TokenKind::symbol, "|")) {
      return template_error(Exit::unsupported, "CT04", path(), current().at,
                            "set block with a filter is not supported");
    }
    PARE_CHECK(end_tag());
    if (statement.targets.size() != 1) return syntax_at(at, "set block needs one name");
    statement.kind = Statement::Kind::set_block;
    PARE_TRY(statement.body, parse_body({"endset"}));
    PARE_CHECK(end_block());
    return statement;
  }

  Result<Statement> parse_macro(Position at) {
    Statement statement;
    statement.kind = Statement::Kind::macro;
    statement.at = at;
    statement.macro = std::make_unique<MacroNode>();
    PARE_TRY(statement.macro->name, target_name());
    PARE_CHECK(expect(TokenKind::symbol, "("));
    while (!current().is(TokenKind::symbol, ")")) {
      Parameter parameter;
      PARE_TRY(parameter.name, target_name());
      if (current().is(TokenKind::symbol, "=")) {
        advance();
        PARE_TRY(parameter.fallback, parse_expression(true));
      } else if (!statement.macro->parameters.empty() && statement.macro->parameters.back().fallback) {
        return syntax("parameter without default after one with");
      }
      statement.macro->parameters.push_back(std::move(parameter));
      if (!current().is(TokenKind::symbol, ",")) break;
      advance();
    }
    PARE_CHECK(expect(TokenKind::symbol, ")"));
    PARE_CHECK(end_tag());
    const int loops = std::exchange(loops_, 0);  // break belongs to a loop of the macro itself
    auto body = parse_body({"endmacro"});
    loops_ = loops;
    if (!body) return body.error();
    statement.macro->body = *std::move(body);
    PARE_CHECK(end_block());
    return statement;
  }

  int loops_ = 0;  // around the current statement
};

}  // namespace

Result<Body> parse(const std::vector<Token>& tokens, const std::string& path) {
  return StatementParser(tokens, path).run();
}

}  // namespace pare::jinja
