// tests/support/markup.h: is a page well-formed? Tags nest and close, attributes are quoted and not repeated,
// entities are those of XML, and nothing but text stands between tags. Void elements must close themselves.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace pare::test {

inline int occurrences(std::string_view text, std::string_view word) {
  int count = 0;
  for (size_t at = text.find(word); at != std::string_view::npos; at = text.find(word, at + 1)) ++count;
  return count;
}

// Empty when it is; else what is wrong first.
inline std::string markup_fault(std::string_view page) {
  const auto is_name = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
  };
  constexpr std::string_view kDoctype = "<!DOCTYPE html>\n";
  if (!page.starts_with(kDoctype)) return "no doctype";
  std::vector<std::string> open;
  for (size_t i = kDoctype.size(); i < page.size();) {
    if (page[i] == '&') {
      const size_t end = page.find(';', i);
      static const std::set<std::string_view> known = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
      if (end == std::string_view::npos || !known.contains(page.substr(i, end + 1 - i)))
        return "entity at " + std::string(page.substr(i, 12));
      i = end + 1;
      continue;
    }
    if (page[i] == '>') return "loose > before " + std::string(page.substr(i, 20));
    if (page[i] != '<') {
      ++i;
      continue;
    }
    const bool is_end = page[i + 1] == '/';
    size_t at = i + (is_end ? 2 : 1);
    std::string name;
    while (at < page.size() && is_name(page[at])) name += page[at++];
    if (name.empty()) return "loose < before " + std::string(page.substr(i, 20));
    std::set<std::string> attributes;
    while (at < page.size() && page[at] == ' ') {
      std::string attribute;
      for (++at; at < page.size() && is_name(page[at]);) attribute += page[at++];
      if (page.substr(at, 2) != "=\"") return "attribute without quotes in <" + name;
      const size_t end = page.find('"', at + 2);
      if (page.substr(at + 2, end - at - 2).find_first_of("<>") != std::string_view::npos)
        return "angle bracket in an attribute of <" + name;
      if (!attributes.insert(attribute).second) return "attribute twice in <" + name;
      at = end + 1;
    }
    const bool is_void = page[at] == '/';
    at += is_void ? 1 : 0;
    if (at >= page.size() || page[at] != '>') return "tag <" + name + " does not end";
    i = at + 1;
    if (is_end) {
      if (open.empty() || open.back() != name)
        return "</" + name + "> closes " + (open.empty() ? "nothing" : open.back());
      open.pop_back();
    } else if (!is_void) {
      open.push_back(name);
    }
    if (name == "style" && !is_end) i = page.find("</style>", i);  // not markup
  }
  return open.empty() ? "" : "<" + open.back() + "> is never closed";
}

}  // namespace pare::test
