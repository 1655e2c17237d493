#include <fmt/core.h>

#include "engine/core/limits.h"
#include "engine/tokenizer/load.h"

namespace pare {
namespace {

// A token as a string or as an AddedToken object.
std::optional<std::string> token_text(const Json& json, std::string_view key) {
  const Json* found = json.find(key);
  if (found != nullptr && found->is_object()) found = found->find("content");
  if (found == nullptr || !found->is_string()) return std::nullopt;
  return found->as_string();
}

std::optional<bool> flag(const Json& json, std::string_view key) {
  const Json* found = json.find(key);
  if (found == nullptr || !found->is_bool()) return std::nullopt;
  return found->as_bool();
}

// The template is carried along byte for byte and never evaluated here; only its size is limited (TK18).
Status check_template(const Json& config, const std::string& path) {
  const auto check = [&](const Json& text, std::string where) -> Status {
    if (!text.is_string() || text.as_string().size() <= limits::kTemplateBytes) return {};
    return Error{.exit = Exit::resource,
                 .rule = "TK18",
                 .path = path,
                 .where = std::move(where),
                 .what = "chat template too large",
                 .got = std::to_string(text.as_string().size()),
                 .limit = std::to_string(limits::kTemplateBytes)};
  };
  const Json* found = config.find("chat_template");
  if (found == nullptr) return {};
  PARE_CHECK(check(*found, "chat_template"));
  if (!found->is_array()) return {};
  for (size_t i = 0; i < found->size(); ++i) {  // several named templates
    if (const Json* text = (*found)[i].find("template")) {
      PARE_CHECK(check(*text, fmt::format("chat_template[{}].template", i)));
    }
  }
  return {};
}

bool is_llama_class(std::string_view name) {
  return name == "LlamaTokenizer" || name == "LlamaTokenizerFast" || name == "CodeLlamaTokenizer" ||
         name == "CodeLlamaTokenizerFast" || name == "GemmaTokenizer" || name == "GemmaTokenizerFast";
}

}  // namespace

Result<ConfigTokens> load_config(const std::optional<std::string>& config_json,
                                 const std::string& config_path, const std::optional<std::string>& map_json,
                                 const std::string& map_path) {
  ConfigTokens tokens;
  const JsonLimits small{.max_bytes = limits::kConfigBytes};
  if (map_json) {
    PARE_TRY(const Json map, parse_json(*map_json, map_path, small, "TK01"));
    tokens.bos = token_text(map, "bos_token");
    tokens.eos = token_text(map, "eos_token");
  }
  if (!config_json) return tokens;
  PARE_TRY(const Json config, parse_json(*config_json, config_path, small, "TK01"));
  PARE_CHECK(check_template(config, config_path));
  if (auto bos = token_text(config, "bos_token")) tokens.bos = std::move(bos);
  if (auto eos = token_text(config, "eos_token")) tokens.eos = std::move(eos);
  tokens.add_bos = flag(config, "add_bos_token");
  tokens.add_eos = flag(config, "add_eos_token");
  tokens.explicit_no_bos = tokens.add_bos == false;
  tokens.explicit_no_eos = tokens.add_eos == false;
  const auto name = token_text(config, "tokenizer_class");
  if (!tokens.add_bos && name && is_llama_class(*name)) tokens.add_bos = true;
  return tokens;
}

}  // namespace pare
