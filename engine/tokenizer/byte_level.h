// engine/tokenizer/byte_level.h: the table that writes any byte as a printable character (GPT-2).
//
// Bytes 0x21-0x7E, 0xA1-0xAC and 0xAE-0xFF stand for the code point of equal value; the other 68, in
// increasing order, for U+0100, U+0101, ... (space -> U+0120, newline -> U+010A).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace pare::byte_level {

uint32_t character_of(uint8_t byte);
std::optional<uint8_t> byte_of(uint32_t character);

// Every byte of `bytes` as its character, in UTF-8.
void append_mapped(std::string& out, std::string_view bytes);
std::string map(std::string_view bytes);

// The bytes behind a token, or nothing if one of its characters is not in the table.
std::optional<std::string> unmap(std::string_view token);

}  // namespace pare::byte_level
