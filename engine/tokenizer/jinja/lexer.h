// engine/tokenizer/jinja/lexer.h: the text of a template as tokens, with trim_blocks and lstrip_blocks on, as
// Hugging Face renders templates.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"

namespace pare::jinja {

struct Position {
  uint32_t line = 1, column = 1;  // columns count bytes
};
std::string position_text(Position at);  // "12:3"

enum class TokenKind : uint8_t {
  data,            // text outside of tags
  variable_begin,  // {{
  variable_end,
  block_begin,  // {%
  block_end,
  name,
  string,   // decoded
  integer,  // digits without underscores
  real,
  symbol,  // operators and brackets: "==", "(", "//" ...
  end,
};
struct Token {
  TokenKind kind = TokenKind::end;
  std::string text{};
  Position at{};
  bool is(TokenKind other, std::string_view word) const { return kind == other && text == word; }
};

// Errors: CT03 (3) with line:column; CT02 (3) when the source is not UTF-8; exit 6 for a source over the cap.
Result<std::vector<Token>> tokenize(std::string_view source, const std::string& path);

Error template_error(Exit exit, const char* rule, const std::string& path, Position at, std::string what,
                     std::string got = {}, std::string limit = {});

}  // namespace pare::jinja
