// engine/tokenizer/jinja/expression_parser.h: expressions, with the precedence of Jinja.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/tokenizer/jinja/ast.h"

namespace pare::jinja {

class ExpressionParser {
 public:
  ExpressionParser(const std::vector<Token>& tokens, const std::string& path)
      : tokens_(tokens), path_(path) {}

 protected:
  // One level of brackets or blocks; CT07 (6) beyond the cap.
  class Nesting {
   public:
    explicit Nesting(int& depth) : depth_(&depth) { ++depth; }
    Nesting(Nesting&& other) noexcept : depth_(std::exchange(other.depth_, nullptr)) {}
    Nesting& operator=(Nesting&&) = delete;
    ~Nesting() {
      if (depth_ != nullptr) --*depth_;
    }

   private:
    int* depth_;
  };
  Result<Nesting> nest();

  const Token& current() const { return tokens_[next_]; }
  const Token& peek() const { return tokens_[std::min(next_ + 1, tokens_.size() - 1)]; }
  void advance() {
    if (next_ + 1 < tokens_.size()) ++next_;
  }
  const std::string& path() const { return path_; }
  Status expect(TokenKind kind, std::string_view text);
  Error syntax(std::string what, std::string got = {}, std::string limit = {}) const;
  Error syntax_at(Position at, std::string what, std::string got = {}) const;

  // An expression; `conditional`: may be `a if b else c`.
  Result<ExpressionPtr> parse_expression(bool conditional);
  // The same, where commas make a tuple.
  Result<ExpressionPtr> parse_tuple(bool conditional);

 private:
  Result<ExpressionPtr> parse_logic(bool is_or);
  Result<ExpressionPtr> parse_not();
  Result<ExpressionPtr> parse_comparison();
  Result<ExpressionPtr> parse_chain(size_t level);
  Result<ExpressionPtr> parse_unary(bool with_filter);
  Result<ExpressionPtr> parse_primary();
  Result<ExpressionPtr> parse_bracketed();
  Result<ExpressionPtr> parse_list();
  Result<ExpressionPtr> parse_dict();
  Status parse_postfixes(ExpressionPtr& base, bool attributes, bool filters);
  Status parse_subscript(Postfix& postfix);
  Status parse_test(Postfix& postfix);
  Status parse_arguments(std::vector<Argument>& arguments);

  const std::vector<Token>& tokens_;
  const std::string& path_;
  size_t next_ = 0;
  int depth_ = 0;
};

}  // namespace pare::jinja
