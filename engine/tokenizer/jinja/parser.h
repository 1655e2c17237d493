// engine/tokenizer/jinja/parser.h: tokens to tree.
#pragma once

#include "engine/tokenizer/jinja/ast.h"

namespace pare::jinja {

// Errors with line:column: CT03 (3) syntax, CT04 (4) a statement that pare does not have, CT07 (6) nesting.
Result<Body> parse(const std::vector<Token>& tokens, const std::string& path);

}  // namespace pare::jinja
