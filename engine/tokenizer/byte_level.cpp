#include "engine/tokenizer/byte_level.h"

#include <array>

#include "engine/tokenizer/unicode.h"

namespace pare::byte_level {
namespace {

constexpr bool stands_for_itself(int byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr int kShifted = 68;  // bytes that got a character from U+0100 on

struct Tables {
  std::array<uint16_t, 256> characters{};
  std::array<int16_t, 0x100 + kShifted> bytes{};  // by character; -1: none
};

constexpr Tables kTables = [] {
  Tables tables;
  tables.bytes.fill(-1);
  int next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const int character = stands_for_itself(byte) ? byte : next++;
    tables.characters[static_cast<size_t>(byte)] = static_cast<uint16_t>(character);
    tables.bytes[static_cast<size_t>(character)] = static_cast<int16_t>(byte);
  }
  return tables;
}();

}  // namespace

uint32_t character_of(uint8_t byte) {
  return kTables.characters[byte];
}

std::optional<uint8_t> byte_of(uint32_t character) {
  if (character >= kTables.bytes.size() || kTables.bytes[character] < 0) return std::nullopt;
  return static_cast<uint8_t>(kTables.bytes[character]);
}

void append_mapped(std::string& out, std::string_view bytes) {
  for (char byte : bytes) unicode::append(out, character_of(static_cast<uint8_t>(byte)));
}

std::string map(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  append_mapped(out, bytes);
  return out;
}

std::optional<std::string> unmap(std::string_view token) {
  std::string bytes;
  for (size_t i = 0; i < token.size();) {
    const unicode::Character character = unicode::decode_at(token.data() + i);
    const auto byte = byte_of(character.code);
    if (!byte) return std::nullopt;
    bytes.push_back(static_cast<char>(*byte));
    i += character.bytes;
  }
  return bytes;
}

}  // namespace pare::byte_level
