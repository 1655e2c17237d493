// engine/tokenizer/regex_syntax.h: which patterns of a file we run at all, and how they read for PCRE2.
//
// Tokenizer files are written for Oniguruma (Ruby syntax). The check is an allow-list: literals, classes,
// \p{..}, groups, look-around, alternation, repeats and inline flags pass; back-references, recursion,
// callouts, verbs, \C and everything that the two engines read differently is refused. Where the meaning can
// be kept by writing it otherwise (\s, \w, \b, \uHHHH, (?m)), the pattern is rewritten.
#pragma once

#include <string>
#include <string_view>

#include "engine/core/result.h"

namespace pare {

// The pattern for PCRE2. Errors: TK11 (unsupported: a construct outside the list, or over 16 KiB, 64 nested
// groups or a repeat count of 1,000) with the construct and its byte offset; TK08 (malformed) for what no
// engine reads.
Result<std::string> translate_pattern(std::string_view pattern, const std::string& path,
                                      const std::string& where);

}  // namespace pare
