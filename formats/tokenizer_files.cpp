#include "formats/tokenizer_files.h"

#include "engine/core/file.h"
#include "engine/core/limits.h"
#include "formats/fault.h"

namespace pare {
namespace {

constexpr const char* kTokenizer = "tokenizer.json";
constexpr const char* kConfig = "tokenizer_config.json";
constexpr const char* kSpecialTokens = "special_tokens_map.json";

std::string join(const std::string& folder, const std::string& name) {
  return folder.ends_with('/') ? folder + name : folder + "/" + name;
}

Result<std::optional<std::string>> read_if_present(const std::string& path) {
  if (!path_exists(path)) return std::optional<std::string>();
  PARE_TRY(std::string text, read_text_file(path, limits::kConfigBytes));
  return std::optional(std::move(text));
}

TokenizerFiles files_in(const std::string& folder, std::string tokenizer_path) {
  TokenizerFiles files;
  files.tokenizer_json_path = std::move(tokenizer_path);
  files.tokenizer_config_path = join(folder, kConfig);
  files.special_tokens_map_path = join(folder, kSpecialTokens);
  return files;
}

}  // namespace

Result<TokenizerFiles> tokenizer_files(const WeightSource& source) {
  const Asset* tokenizer = source.asset(kTokenizer);
  if (tokenizer == nullptr)
    return malformed("IX17", source.path(), kTokenizer, "model has no tokenizer.json");
  TokenizerFiles files = files_in(source.path(), join(source.path(), kTokenizer));
  files.tokenizer_json = tokenizer->bytes;
  if (const Asset* config = source.asset(kConfig)) files.tokenizer_config_json = config->bytes;
  if (const Asset* map = source.asset(kSpecialTokens)) files.special_tokens_map_json = map->bytes;
  return files;
}

Result<TokenizerFiles> tokenizer_files(const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string folder = is_directory(path)           ? path
                             : slash == std::string::npos ? "."
                                                          : path.substr(0, slash + 1);
  TokenizerFiles files = files_in(folder, is_directory(path) ? join(path, kTokenizer) : path);
  if (is_directory(path) && !path_exists(files.tokenizer_json_path)) {
    return malformed("IX17", path, kTokenizer, "folder has no tokenizer.json");
  }
  PARE_TRY(files.tokenizer_json, read_text_file(files.tokenizer_json_path, limits::kTokenizerBytes));
  PARE_TRY(files.tokenizer_config_json, read_if_present(files.tokenizer_config_path));
  PARE_TRY(files.special_tokens_map_json, read_if_present(files.special_tokens_map_path));
  return files;
}

}  // namespace pare
