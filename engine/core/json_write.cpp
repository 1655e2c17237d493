// engine/core/json_write.cpp: Json::dump, byte for byte the same on every machine and in every locale.
#include <algorithm>
#include <cmath>

#include "engine/core/json.h"
#include "engine/core/text.h"

namespace pare {
namespace {

struct Style {
  int indent;   // below zero: one line
  bool sorted;  // keys by bytes
};

void append_string(std::string& out, std::string_view text) {
  constexpr char kDigits[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
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
        if (static_cast<unsigned char>(c) < 0x20) {
          out += "\\u00";
          out += kDigits[static_cast<unsigned char>(c) >> 4];
          out += kDigits[static_cast<unsigned char>(c) & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void append_real(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += "null";
    return;
  }
  const std::string text = format_double(value);
  out += text;
  if (text.find_first_of(".e") == std::string::npos) out += ".0";
}

void new_line(std::string& out, const Style& style, int depth) {
  if (style.indent < 0) return;
  out += '\n';
  out.append(static_cast<size_t>(style.indent) * static_cast<size_t>(depth), ' ');
}

void append(std::string& out, const Json& json, const Style& style, int depth);

void append_array(std::string& out, const Json::Array& items, const Style& style, int depth) {
  // Arrays of plain values stay on one line: a shape or a list of ids is one thing to the eye.
  const bool flat =
      std::none_of(items.begin(), items.end(), [](const Json& j) { return j.is_array() || j.is_object(); });
  const Style inner = flat ? Style{-1, style.sorted} : style;
  out += '[';
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) out += flat && style.indent >= 0 ? ", " : ",";
    new_line(out, inner, depth + 1);
    append(out, items[i], style, depth + 1);
  }
  new_line(out, inner, depth);
  out += ']';
}

void append_object(std::string& out, const Json::Object& members, const Style& style, int depth) {
  std::vector<const Json::Member*> order;
  for (const Json::Member& member : members) order.push_back(&member);
  if (style.sorted) {
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
  }
  out += '{';
  for (size_t i = 0; i < order.size(); ++i) {
    if (i > 0) out += ',';
    new_line(out, style, depth + 1);
    append_string(out, order[i]->first);
    out += style.indent < 0 ? ":" : ": ";
    append(out, order[i]->second, style, depth + 1);
  }
  if (!order.empty()) new_line(out, style, depth);
  out += '}';
}

// Recursive over our own or bounded values (limits::kJsonDepth).
void append(std::string& out, const Json& json, const Style& style, int depth) {
  switch (json.kind()) {
    case Json::Kind::null:
      out += "null";
      break;
    case Json::Kind::boolean:
      out += json.as_bool() ? "true" : "false";
      break;
    case Json::Kind::integer:
      out += std::to_string(json.as_int());
      break;
    case Json::Kind::unsigned_integer:
      out += std::to_string(json.as_uint());
      break;
    case Json::Kind::real:
      append_real(out, json.as_double());
      break;
    case Json::Kind::string:
      append_string(out, json.as_string());
      break;
    case Json::Kind::array:
      append_array(out, json.items(), style, depth);
      break;
    case Json::Kind::object:
      append_object(out, json.members(), style, depth);
      break;
  }
}

std::string dump_with(const Json& json, const Style& style) {
  std::string out;
  append(out, json, style, 0);
  return out;
}

}  // namespace

std::string Json::dump(int indent) const {
  return dump_with(*this, {indent, false});
}
std::string Json::dump_sorted(int indent) const {
  return dump_with(*this, {indent, true});
}

}  // namespace pare
