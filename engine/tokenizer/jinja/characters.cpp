#include "engine/tokenizer/jinja/characters.h"

namespace pare::jinja {
namespace {

bool is_letter(uint32_t code) {
  return (unicode::kinds(code) & unicode::kLetter) != 0;
}

bool in_set(uint32_t code, const std::string* set) {
  if (set == nullptr) return is_python_space(code);
  for (size_t i = 0; i < set->size();) {
    const unicode::Character character = unicode::decode_at(set->data() + i);
    if (character.code == code) return true;
    i += character.bytes;
  }
  return false;
}

}  // namespace

std::string_view stripped(std::string_view text, const std::string* set, bool left, bool right) {
  while (left && !text.empty()) {
    const unicode::Character first = unicode::decode_at(text.data());
    if (!in_set(first.code, set)) break;
    text.remove_prefix(first.bytes);
  }
  while (right && !text.empty()) {
    const unicode::Character last = unicode::decode_before(text.data(), text.data() + text.size());
    if (!in_set(last.code, set)) break;
    text.remove_suffix(last.bytes);
  }
  return text;
}

std::string upper_case(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const unicode::Character character = unicode::decode_at(text.data() + i);
    unicode::append_upper(out, character.code);
    i += character.bytes;
  }
  return out;
}

std::string lower_case(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const unicode::Character character = unicode::decode_at(text.data() + i);
    unicode::append_lower(out, character.code);
    i += character.bytes;
  }
  return out;
}

std::string capitalized(std::string_view text) {
  if (text.empty()) return {};
  const size_t first = unicode::decode_at(text.data()).bytes;
  return upper_case(text.substr(0, first)) + lower_case(text.substr(first));
}

std::string title_case(std::string_view text) {
  std::string out;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const unicode::Character character = unicode::decode_at(text.data() + i);
    if (inside) {
      unicode::append_lower(out, character.code);
    } else {
      unicode::append_upper(out, character.code);
    }
    inside = is_letter(character.code);
    i += character.bytes;
  }
  return out;
}

}  // namespace pare::jinja
