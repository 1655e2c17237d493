// cli/yaml_document.h: a YAML text (or JSON, which is YAML) as a tree with positions, for recipes.
//
// A small part of YAML on purpose: maps with text keys, lists and scalars of one document. What makes YAML
// files surprising or dangerous is refused: anchors and aliases (RC04), merge keys (RC04), tags (RC05), keys
// given twice (RC03). Scalars stay text: whoever asks for a number gets one, so that `no`, `2:4` and `1e-3`
// mean what they say. Nothing is expanded: `$HOME`, `~` and backticks are text (RC13).
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"

namespace pare::cli {

struct YamlMember;

struct YamlNode {
  enum class Kind { null, scalar, list, map } kind = Kind::null;
  std::string text{};             // of scalars
  bool is_plain = false;          // a scalar without quotes
  int line = 0, column = 0;       // from 1
  std::vector<YamlNode> items{};  // of lists
  std::vector<YamlMember>
      members;  // of maps, in their order (clang takes no {} here: the type is incomplete)

  bool is_scalar() const { return kind == Kind::scalar; }
  bool is_list() const { return kind == Kind::list; }
  bool is_map() const { return kind == Kind::map; }
  const char* kind_name() const;  // "text", "list", "map", "nothing"
  const YamlMember* find(std::string_view key) const;
};

struct YamlMember {
  std::string key;
  int line = 0, column = 0;  // of the key
  YamlNode value{};
};

// Errors name `path` and "line:column": RC01 (3) not YAML or not UTF-8, RC03 (3), RC04 and RC05 (4), RC06 (3
// for depth, 6 for size and for the number of values).
Result<YamlNode> parse_yaml(std::string_view text, const std::string& path);

}  // namespace pare::cli
