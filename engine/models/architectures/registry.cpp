// Every family, in detection order. An explicit list: the linker drops static initialisers of static
// libraries.
#include <fmt/core.h>

#include <vector>

#include "engine/core/text.h"
#include "engine/models/architectures/config_reader.h"
#include "engine/models/architectures/families.h"

namespace pare {
namespace {

Error refusal(std::string_view path, const Json* at, std::string_view key, std::string_view name,
              std::string what, bool custom_code) {
  std::string supported;
  for (const Architecture& family : architectures())
    if (family.is_enabled) supported += (supported.empty() ? "" : ", ") + std::string(family.name);
  if (custom_code) what += "; the code that auto_map names is never executed";
  return {.exit = Exit::unsupported,
          .rule = custom_code ? "CF11" : "CF10",
          .path = std::string(path),
          .where = config_where(at, key),
          .what = std::move(what),
          .got = quote(name),
          .limit = supported,
          .limit_label = "expected"};
}

const Architecture* find_by_name(std::string_view name) {
  for (const Architecture& family : architectures())
    if (family.name == name) return &family;
  return nullptr;
}

const Architecture* find_by_type(std::string_view model_type) {
  for (const Architecture& family : architectures())
    if (family.model_type == model_type) return &family;
  return nullptr;
}

Error wrong_type(std::string_view path, const Json& at, std::string_view key, std::string_view expected) {
  return {.exit = Exit::malformed,
          .rule = "CF05",
          .path = std::string(path),
          .where = config_where(&at, key),
          .what = fmt::format("must be {}, not {}", expected, at.kind_name())};
}

}  // namespace

std::span<const Architecture> architectures() {
  static const std::vector<Architecture> families = [] {
    std::vector<Architecture> list{kLlama, kMistral, kMixtral, kQwen2, kQwen3, kGpt2};
    for (const Architecture& family : families_not_enabled()) list.push_back(family);
    return list;
  }();
  return families;
}

Result<const Architecture*> find_architecture(const Json& config, std::string_view path) {
  const Json* code = config.find("auto_map");
  const bool custom_code = code != nullptr && !code->is_null();

  const Json* at = config.find("architectures");
  std::string_view key = "architectures";
  const bool has_list = at != nullptr && !at->is_null() && !(at->is_array() && at->size() == 0);
  if (has_list && (!at->is_array() || !(*at)[0].is_string()))
    return wrong_type(path, *at, key, "a list of strings");
  if (has_list) {
    at = &(*at)[0];
  } else {
    at = config.find(key = "model_type");
    if (at == nullptr)
      return Error{.exit = Exit::malformed,
                   .rule = "CF04",
                   .path = std::string(path),
                   .where = "architectures",
                   .what = "required key missing, and model_type too"};
    if (!at->is_string()) return wrong_type(path, *at, key, "a string");
  }
  const std::string_view name = at->as_string();
  const Architecture* family = has_list ? find_by_name(name) : find_by_type(name);
  if (family == nullptr) return refusal(path, at, key, name, "unknown architecture", custom_code);
  if (!family->is_enabled)
    return refusal(path, at, key, name, "architecture is declared but not enabled yet", custom_code);
  return family;
}

}  // namespace pare
