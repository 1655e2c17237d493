#include "formats/config_edit.h"

#include <optional>

#include "engine/core/json.h"
#include "engine/core/limits.h"

namespace pare {
namespace {

// Bytes of one top-level member in the text.
struct MemberSpan {
  size_t begin = 0;  // of the key
  size_t value_begin = 0, end = 0;
  size_t previous_comma = 0;  // of the comma before the key; 0: it is the first member
  size_t next_comma = 0;      // of the comma after the value; 0: it is the last member
};

size_t end_of_string(std::string_view text, size_t at) {
  for (++at; text[at] != '"'; ++at) {
    if (text[at] == '\\') ++at;
  }
  return at + 1;
}

bool is_space(char c) {
  return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

// The text has been parsed, so the walk needs no checks: strings are closed and brackets match.
std::optional<MemberSpan> find_member(std::string_view text, std::string_view key) {
  MemberSpan member;
  int depth = 0;
  bool at_key = false, found = false;
  size_t last_comma = 0;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (c == '"') {
      const size_t end = end_of_string(text, i);
      if (at_key) {
        at_key = false;
        const std::string quoted(text.substr(i, end - i));
        const auto name = parse_json(quoted, "", {.max_bytes = limits::kConfigBytes, .want_object = false});
        if (name && name->is_string() && name->as_string() == key) {
          found = true;
          member.begin = i;
          member.previous_comma = last_comma;
          size_t value = text.find(':', end) + 1;
          while (is_space(text[value])) ++value;
          member.value_begin = value;
          i = value;
          continue;
        }
      }
      i = end;
      if (found && depth == 1) member.end = end;
      continue;
    }
    if (c == '{' || c == '[') {
      at_key = ++depth == 1;
    } else if (c == '}' || c == ']') {
      --depth;
      if (found && depth == 0) return member;
    } else if (c == ',' && depth == 1) {
      if (found) {
        member.next_comma = i;
        return member;
      }
      last_comma = i;
      at_key = true;
    }
    ++i;
    if (found && depth >= 1 && !is_space(c)) member.end = i;
  }
  return std::nullopt;
}

}  // namespace

std::string with_value(std::string_view text, std::string_view key, std::string_view value) {
  const auto member = find_member(text, key);
  if (!member) return std::string(text);
  std::string result(text.substr(0, member->value_begin));
  result += value;
  result += text.substr(member->end);
  return result;
}

std::string with_member(std::string_view text, std::string_view key, std::string_view value) {
  if (find_member(text, key)) return with_value(text, key, value);
  const size_t brace = text.rfind('}');
  size_t end = brace;
  while (end > 0 && is_space(text[end - 1])) --end;
  const bool is_empty = text[end - 1] == '{';
  std::string indented;
  for (const char c : value) {
    indented += c;
    if (c == '\n') indented += "  ";
  }
  return std::string(text.substr(0, end)) + (is_empty ? "" : ",") + "\n  \"" + std::string(key) +
         "\": " + indented + "\n" + std::string(text.substr(brace));
}

std::string without_key(std::string_view text, std::string_view key) {
  const auto member = find_member(text, key);
  if (!member) return std::string(text);
  // With its comma and the space before the key, so that the lines around it stay as they are.
  size_t begin = member->begin, end = member->end;
  if (member->previous_comma != 0) {
    begin = member->previous_comma;
  } else if (member->next_comma != 0) {
    end = member->next_comma + 1;
    while (is_space(text[end])) ++end;
  }
  return std::string(text.substr(0, begin)) + std::string(text.substr(end));
}

}  // namespace pare
