// engine/core/printable.h: the one place that decides which bytes may reach a terminal; internal to core.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace pare {

enum class Backslash { doubled, kept };

// Length in bytes of the UTF-8 sequence at text[0], 0 when it is invalid; `code` receives its code point.
size_t decode_utf8(std::string_view text, char32_t& code);

// Appends the printable form of `text`: bytes that could steer a terminal become \xNN. `kept` is for text
// whose parts went through sanitize() before. Stops at `max_bytes` of output without splitting a character or
// an escape; returns whether everything fitted.
bool append_printable(std::string& out, std::string_view text, Backslash backslash, size_t max_bytes);

}  // namespace pare
