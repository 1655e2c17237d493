#include "evaluate/gate.h"

#include <algorithm>

#include "engine/core/text.h"

namespace pare {
namespace {

Error gate_error(std::string_view text, std::string what, std::string limit) {
  return Error{.exit = Exit::usage,
               .rule = "CL12",
               .path = "--fail-if",
               .where = {},
               .what = std::move(what),
               .got = quote(text),
               .limit = std::move(limit),
               .limit_label = "expected"};
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

}  // namespace

bool Gate::fails(double value) const {
  if (op == ">") return value > bound;
  if (op == ">=") return value >= bound;
  if (op == "<") return value < bound;
  return value <= bound;
}

Result<Gate> parse_gate(std::string_view text, const std::vector<std::string>& metrics) {
  const size_t at = text.find_first_of("<>");
  if (at == std::string_view::npos) return gate_error(text, "no comparison", "METRIC>NUMBER");
  const size_t width = at + 1 < text.size() && text[at + 1] == '=' ? 2 : 1;
  Gate gate;
  gate.text = std::string(text);
  gate.metric = std::string(trimmed(text.substr(0, at)));
  gate.op = std::string(text.substr(at, width));
  if (std::find(metrics.begin(), metrics.end(), gate.metric) == metrics.end()) {
    std::string list;
    for (const std::string& metric : metrics) list += (list.empty() ? "" : ", ") + metric;
    return gate_error(text, "unknown metric", list);
  }
  const auto bound = parse_double(trimmed(text.substr(at + width)));
  if (!bound)
    return gate_error(text, "not a number at offset " + std::to_string(at + width), "METRIC>NUMBER");
  gate.bound = *bound;
  return gate;
}

}  // namespace pare
