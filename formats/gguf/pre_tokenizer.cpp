#include "formats/gguf/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <span>
#include <vector>

namespace pare {
namespace {

constexpr const char* kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
// What other programs do for "default": four cuts, one after the other.
constexpr std::array kDefault{
    R"([\p{P}\$\+<=>\^~\|]+)",
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S))",
    R"(\p{N}+)",
    R"([0-9][0-9][0-9])",
};

constexpr std::array kRows{
    PreTokenizerRow{"gpt-2", false, false, false},   PreTokenizerRow{"llama-bpe", true, true, false},
    PreTokenizerRow{"qwen2", false, false, true},    PreTokenizerRow{"smollm", false, false, false},
    PreTokenizerRow{"default", false, false, false},
};
// Other names of the same rules.
constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kAliases{
    {{"phi-2", "gpt-2"}, {"llama3", "llama-bpe"}, {"llama-v3", "llama-bpe"}, {"deepseek-r1-qwen", "qwen2"}}};

Json byte_level(bool use_regex) {
  Json step = Json::object();
  step["type"] = "ByteLevel";
  step["add_prefix_space"] = false;
  step["trim_offsets"] = true;
  step["use_regex"] = use_regex;
  return step;
}

Json split(std::string_view pattern) {
  Json step = Json::object(), regex = Json::object();
  regex["Regex"] = pattern;
  step["type"] = "Split";
  step["pattern"] = std::move(regex);
  step["behavior"] = "Isolated";
  step["invert"] = false;
  return step;
}

Json single_digits() {
  Json step = Json::object();
  step["type"] = "Digits";
  step["individual_digits"] = true;
  return step;
}

Json sequence(Json::Array steps) {
  Json json = Json::object();
  json["type"] = "Sequence";
  json["pretokenizers"] = Json(std::move(steps));
  return json;
}

// Without what does not decide on tokens: trim_offsets concerns offsets only, a missing use_regex means true.
Json comparable(const Json& json) {
  if (!json.is_object()) return json;
  Json copy = json;
  copy.erase("trim_offsets");
  const Json* type = copy.find("type");
  const bool is_byte_level = type != nullptr && type->is_string() && type->as_string() == "ByteLevel";
  if (is_byte_level && copy.find("use_regex") == nullptr) copy["use_regex"] = true;
  if (Json* steps = copy.find("pretokenizers") == nullptr ? nullptr : &copy["pretokenizers"];
      steps != nullptr && steps->is_array()) {
    for (Json& step : steps->items()) step = comparable(step);
  }
  return copy;
}

bool is_null(const Json* json) {
  return json == nullptr || json->is_null();
}

bool is_nfc(const Json* normalizer) {
  if (is_null(normalizer)) return false;
  const Json* type = normalizer->find("type");
  return type != nullptr && type->is_string() && type->as_string() == "NFC";
}

}  // namespace

const PreTokenizerRow* find_pre_tokenizer(std::string_view name) {
  for (const auto& [alias, same] : kAliases) {
    if (alias == name) name = same;
  }
  const auto found =
      std::find_if(kRows.begin(), kRows.end(), [name](const auto& row) { return row.name == name; });
  return found == kRows.end() ? nullptr : &*found;
}

Json pre_tokenizer_json(const PreTokenizerRow& row) {
  if (row.name == "gpt-2") return byte_level(true);
  if (row.name == "smollm") return sequence({single_digits(), byte_level(true)});
  if (row.name == "llama-bpe") return sequence({split(kLlama3), byte_level(false)});
  if (row.name == "qwen2") return sequence({split(kQwen2), byte_level(false)});
  Json::Array steps;
  for (const char* pattern : kDefault) steps.push_back(split(pattern));
  steps.push_back(byte_level(false));
  return sequence(std::move(steps));
}

const PreTokenizerRow* recognise_pre_tokenizer(const Json& root) {
  const Json* pre = root.find("pre_tokenizer");
  const Json* model = root.find("model");
  if (is_null(pre) || is_null(model)) return nullptr;
  const Json* ignores = model->find("ignore_merges");
  const bool ignore_merges = ignores != nullptr && ignores->is_bool() && ignores->as_bool();
  const Json* normalizer = root.find("normalizer");
  const std::string wanted = comparable(*pre).dump_sorted();
  for (const PreTokenizerRow& row : kRows) {
    if (comparable(pre_tokenizer_json(row)).dump_sorted() != wanted) continue;
    const bool same_normalizer = is_null(normalizer) ? !row.is_nfc : row.is_nfc && is_nfc(normalizer);
    return ignore_merges == row.ignore_merges && same_normalizer ? &row : nullptr;
  }
  return nullptr;
}

std::string known_pre_tokenizers() {
  std::string names;
  for (const PreTokenizerRow& row : kRows) names += (names.empty() ? "" : ", ") + std::string(row.name);
  return names;
}

}  // namespace pare
