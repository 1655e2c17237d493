// A recipe as YAML; declared in recipe.h. What was applied, given back to `pare compress`, replays to the
// same bytes.
#include <fmt/core.h>

#include "cli/recipe.h"

namespace pare::cli {
namespace {

// Letters, digits and marks that begin nothing in YAML: every other text stands in quotes, and so does what
// other readers of YAML take for a number in base 60 (2:4), a truth (no) or nothing (null).
bool is_plain(std::string_view text) {
  if (text.empty() || text.size() > 64) return false;
  for (const std::string_view word : {"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
    if (text == word) return false;
  for (const char c : text) {
    const bool is_safe = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                         c == '-' || c == '_' || c == '.' || c == '+';
    if (!is_safe) return false;
  }
  return text[0] != '-' && text[0] != '.' && text[0] != '+';
}

// In JSON's quotes, which are YAML's too, and in ASCII: what comes from a file reaches a terminal here.
std::string quoted(const std::string& text) {
  std::string out;
  const std::string json = Json(text).dump();
  for (size_t i = 0; i < json.size();) {
    const auto lead = static_cast<unsigned char>(json[i]);
    if (lead < 0x80) {
      out += lead == 0x7f ? std::string("\\x7f") : std::string(1, json[i]);
      ++i;
      continue;
    }
    const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    uint32_t code = lead & (0xffu >> (length + 1));
    for (size_t k = 1; k < length && i + k < json.size(); ++k)
      code = (code << 6) | (static_cast<unsigned char>(json[i + k]) & 0x3fu);
    out += fmt::format("\\U{:08x}", code);
    i += length;
  }
  return out;
}

std::string scalar(const Json& value) {
  if (!value.is_string()) return value.dump();
  return is_plain(value.as_string()) ? value.as_string() : quoted(value.as_string());
}

std::string key_text(const std::string& key) {
  return is_plain(key) ? key : quoted(key);
}

}  // namespace

std::string recipe_yaml(uint64_t seed, const std::string& data_hash, const Json& steps) {
  std::string out = fmt::format("schema: 1\nseed: {}\n", seed);
  if (!data_hash.empty()) out += fmt::format("data-hash: {}  # give the data with --data\n", data_hash);
  out += "steps:\n";
  for (const Json& step : steps.items()) {
    const Json* verb = step.find("step");
    out += fmt::format("  - {}:\n", verb != nullptr && verb->is_string() ? key_text(verb->as_string()) : "");
    const Json* options = step.find("options");
    if (options == nullptr || !options->is_object()) continue;
    for (const auto& [key, value] : options->members()) {
      if (!value.is_array()) {
        out += fmt::format("      {}: {}\n", key_text(key), scalar(value));
        continue;
      }
      out += fmt::format("      {}:{}\n", key_text(key), value.size() == 0 ? " []" : "");
      for (const Json& item : value.items()) {
        if (!item.is_object()) {
          out += fmt::format("        - {}\n", scalar(item));
          continue;
        }
        std::string members;
        for (const auto& [name, member] : item.members())
          members += fmt::format("{}{}: {}", members.empty() ? "" : ", ", key_text(name), scalar(member));
        out += fmt::format("        - {{{}}}\n", members);
      }
    }
  }
  return out;
}

}  // namespace pare::cli
