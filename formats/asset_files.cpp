#include "formats/asset_files.h"

#include <algorithm>
#include <array>

#include "engine/core/file.h"
#include "engine/core/json.h"
#include "engine/core/limits.h"
#include "formats/fault.h"

namespace pare {
namespace {

constexpr std::string_view kChatTemplate = "chat_template.jinja";

bool is_small_json(std::string_view name) {
  static constexpr std::array<std::string_view, 3> kNames = {
      "generation_config.json", "special_tokens_map.json", "tokenizer_config.json"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

uint64_t cap_of(std::string_view name) {
  return name == "tokenizer.json" || name == "tokenizer.model" || name == "vocab.json" || name == "merges.txt"
             ? limits::kTokenizerBytes
             : limits::kConfigBytes;
}

Status check_template(uint64_t bytes, const std::string& path, std::string where) {
  if (bytes <= limits::kTemplateBytes) return {};
  return over_cap("TK18", path, std::move(where), "chat template is larger than the limit", bytes,
                  limits::kTemplateBytes);
}

// tokenizer_config.json holds one template or a list of named ones.
Status check_config_templates(const Json& config, const std::string& path) {
  const Json* found = config.find("chat_template");
  if (found == nullptr) return {};
  if (found->is_string()) return check_template(found->as_string().size(), path, "chat_template");
  if (!found->is_array()) return {};
  for (const Json& item : found->items()) {
    const Json* text = item.find("template");
    if (text != nullptr && text->is_string())
      PARE_CHECK(check_template(text->as_string().size(), path, "chat_template"));
  }
  return {};
}

}  // namespace

bool is_asset_name(std::string_view name) {
  static constexpr std::array<std::string_view, 9> kNames = {"added_tokens.json",
                                                             kChatTemplate,
                                                             "generation_config.json",
                                                             "merges.txt",
                                                             "special_tokens_map.json",
                                                             "tokenizer.json",
                                                             "tokenizer_config.json",
                                                             "tokenizer.model",
                                                             "vocab.json"};
  if (std::find(kNames.begin(), kNames.end(), name) != kNames.end()) return true;
  // The name may come from a file and becomes the name of one.
  constexpr size_t kLongest = 64;
  const bool is_plain = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
  });
  return is_plain && name.size() <= kLongest && (name.starts_with("LICENSE") || name.starts_with("LICENCE"));
}

Status check_asset(const Asset& asset, const std::string& path) {
  if (asset.name == kChatTemplate) return check_template(asset.bytes.size(), path, "chat_template");
  if (!is_small_json(asset.name)) return {};
  PARE_TRY(const Json json, parse_json(asset.bytes, path, {.max_bytes = limits::kConfigBytes}, "CF15"));
  return check_config_templates(json, path);
}

Result<std::vector<Asset>> read_assets(const std::string& folder, bool follow_symlinks) {
  PARE_TRY(const std::vector<std::string> names, list_directory(folder));
  std::vector<Asset> assets;
  for (const std::string& name : names) {
    if (!is_asset_name(name)) continue;
    PARE_TRY(const InputFile file, InputFile::open_below(folder, name, follow_symlinks));
    PARE_TRY(std::string bytes, file.read_all(cap_of(name)));
    assets.push_back({name, std::move(bytes)});
    PARE_CHECK(check_asset(assets.back(), file.path()));
  }
  return assets;
}

}  // namespace pare
