#include "engine/tokenizer/jinja/value.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "engine/tokenizer/unicode.h"

namespace pare::jinja {
namespace {

// Python prefers single quotes, and takes double ones when the text holds single ones only.
void append_quoted(std::string& out, const std::string& text) {
  const bool use_double = text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
  const char quote = use_double ? '"' : '\'';
  out += quote;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == quote || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  out += quote;
}

void append_json_string(std::string& out, const std::string& text) {
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (byte < 0x20) {
          out += fmt::format("\\u{:04x}", byte);
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void append_line(std::string& out, const JsonStyle& style, int level) {
  if (style.indent < 0) return;
  out += '\n';
  out.append(size_t(style.indent) * size_t(level), ' ');
}

// With an indent, Python leaves out the space at the end of the separator.
std::string between_items(const JsonStyle& style) {
  return style.indent >= 0 && style.item_separator == ", " ? "," : style.item_separator;
}

template <typename Items, typename Append>
bool append_json_items(std::string& out, const Items& items, const JsonStyle& style, int level, char open,
                       char close, const Append& append_item) {
  out += open;
  bool is_first = true;
  for (const auto& item : items) {
    if (!is_first) out += between_items(style);
    is_first = false;
    append_line(out, style, level + 1);
    if (!append_item(item)) return false;
  }
  if (!is_first) append_line(out, style, level);
  out += close;
  return true;
}

}  // namespace

const Value* MapData::find(std::string_view name) const {
  for (const auto& [key, value] : items)
    if (key == name) return &value;
  return nullptr;
}

Value* NamespaceData::find(std::string_view name) {
  for (auto& [key, value] : items)
    if (key == name) return &value;
  return nullptr;
}

bool Value::truth() const {
  if (const bool* value = get<bool>()) return *value;
  if (const int64_t* value = get<int64_t>()) return *value != 0;
  if (const double* value = get<double>()) return *value != 0.0;
  if (text() != nullptr) return !text()->empty();
  if (list() != nullptr) return !list()->items.empty();
  if (map() != nullptr) return !map()->items.empty();
  return !is_undefined() && !is_none();
}

const char* Value::kind_name() const {
  constexpr const char* kNames[] = {"undefined", "none", "boolean",   "integer", "float", "string",
                                    "list",      "map",  "namespace", "loop",    "macro", "function"};
  return kNames[form_.index()];
}

int Value::depth() const {
  if (list() != nullptr) return list()->depth;
  if (map() != nullptr) return map()->depth;
  return 0;
}

uint64_t Value::weight() const {
  if (text() != nullptr) return text()->size() + 8;
  if (list() != nullptr) return list()->weight;
  if (map() != nullptr) return map()->weight;
  return 16;
}

bool Value::equals(const Value& other) const {
  if (is_number() && other.is_number()) {
    return is_whole() && other.is_whole() ? whole() == other.whole() : number() == other.number();
  }
  if (text() != nullptr && other.text() != nullptr) return *text() == *other.text();
  if (list() != nullptr && other.list() != nullptr) {
    const auto &a = list()->items, &b = other.list()->items;
    return list()->is_tuple == other.list()->is_tuple && a.size() == b.size() &&
           std::equal(a.begin(), a.end(), b.begin(),
                      [](const Value& x, const Value& y) { return x.equals(y); });
  }
  if (map() != nullptr && other.map() != nullptr) {
    if (map()->items.size() != other.map()->items.size()) return false;
    for (const auto& [key, value] : map()->items) {
      const Value* found = other.map()->find(key);
      if (found == nullptr || !value.equals(*found)) return false;
    }
    return true;
  }
  return (is_undefined() && other.is_undefined()) || (is_none() && other.is_none());
}

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  const std::string_view scientific(buffer, size_t(end.ptr - buffer));
  const size_t mark = scientific.find('e');
  int exponent = 0;
  const size_t digits = mark + (scientific[mark + 1] == '+' ? 2 : 1);
  std::from_chars(scientific.data() + digits, scientific.data() + scientific.size(), exponent);
  if (exponent < -4 || exponent >= 16) {
    return fmt::format("{}e{}{:02}", scientific.substr(0, mark), exponent < 0 ? '-' : '+',
                       std::abs(exponent));
  }
  const auto fixed = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed);
  std::string text(buffer, fixed.ptr);
  if (text.find('.') == std::string::npos) text += ".0";
  return text;
}

void append_text(std::string& out, const Value& value) {
  if (value.is_undefined()) return;
  if (value.text() != nullptr) {
    out += *value.text();
  } else {
    append_repr(out, value);
  }
}

void append_repr(std::string& out, const Value& value) {
  if (value.text() != nullptr) {
    append_quoted(out, *value.text());
  } else if (const bool* truth = value.get<bool>()) {
    out += *truth ? "True" : "False";
  } else if (const int64_t* whole = value.get<int64_t>()) {
    out += fmt::format("{}", *whole);
  } else if (const double* number = value.get<double>()) {
    out += float_text(*number);
  } else if (const ListData* list = value.list()) {
    out += list->is_tuple ? '(' : '[';
    for (size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) out += ", ";
      append_repr(out, list->items[i]);
    }
    if (list->is_tuple && list->items.size() == 1) out += ',';
    out += list->is_tuple ? ')' : ']';
  } else if (const MapData* map = value.map()) {
    out += '{';
    for (size_t i = 0; i < map->items.size(); ++i) {
      if (i > 0) out += ", ";
      append_quoted(out, map->items[i].first);
      out += ": ";
      append_repr(out, map->items[i].second);
    }
    out += '}';
  } else if (value.is_none()) {
    out += "None";
  } else {
    out += value.is_undefined() ? "Undefined" : fmt::format("<{}>", value.kind_name());
  }
}

bool append_json(std::string& out, const Value& value, const JsonStyle& style, int level) {
  if (value.is_none()) {
    out += "null";
  } else if (const bool* truth = value.get<bool>()) {
    out += *truth ? "true" : "false";
  } else if (value.is_whole()) {
    out += fmt::format("{}", value.whole());
  } else if (const double* number = value.get<double>()) {
    out += std::isnan(*number)   ? "NaN"
           : std::isinf(*number) ? (*number < 0 ? "-Infinity" : "Infinity")
                                 : float_text(*number);
  } else if (value.text() != nullptr) {
    append_json_string(out, *value.text());
  } else if (const ListData* list = value.list()) {
    return append_json_items(out, list->items, style, level, '[', ']',
                             [&](const Value& item) { return append_json(out, item, style, level + 1); });
  } else if (const MapData* map = value.map()) {
    auto items = map->items;
    if (style.sort_keys) {
      std::sort(items.begin(), items.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    }
    return append_json_items(out, items, style, level, '{', '}', [&](const auto& item) {
      append_json_string(out, item.first);
      out += style.key_separator;
      return append_json(out, item.second, style, level + 1);
    });
  } else {
    return false;
  }
  return true;
}

}  // namespace pare::jinja
