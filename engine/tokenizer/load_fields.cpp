#include "engine/tokenizer/load_fields.h"

#include <fmt/core.h>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tokenizer/unicode.h"

namespace pare {

const Json* Fields::find(std::string_view key) const {
  const Json* found = json_->find(key);
  return found == nullptr || found->is_null() ? nullptr : found;
}

Error Fields::malformed(std::string_view rule, std::string_view key, std::string what,
                        std::string got) const {
  return Error{.exit = Exit::malformed,
               .rule = std::string(rule),
               .path = *path_,
               .where = at(key),
               .what = std::move(what),
               .got = std::move(got)};
}

Error Fields::wrong_kind(std::string_view key, std::string_view expected) const {
  const Json* found = json_->find(key);
  return malformed("TK01", key, fmt::format("not {}", expected),
                   found == nullptr ? "nothing" : found->kind_name());
}

Error Fields::unknown_type(std::string_view kind, std::string_view type) const {
  return Error{.exit = Exit::unsupported,
               .rule = "TK12",
               .path = *path_,
               .where = where_,
               .what = fmt::format("unknown {} type", kind),
               .got = quote(type)};
}

Result<bool> Fields::boolean(std::string_view key, std::optional<bool> fallback) const {
  const Json* found = find(key);
  if (found == nullptr && fallback) return *fallback;
  if (found == nullptr || !found->is_bool()) return wrong_kind(key, "true or false");
  return found->as_bool();
}

Result<std::string> Fields::text(std::string_view key, std::optional<std::string> fallback) const {
  const Json* found = find(key);
  if (found == nullptr && fallback) return *std::move(fallback);
  if (found == nullptr || !found->is_string()) return wrong_kind(key, "a string");
  return found->as_string();
}

Result<uint64_t> Fields::count(std::string_view key, std::optional<uint64_t> fallback) const {
  const Json* found = find(key);
  if (found == nullptr && fallback) return *fallback;
  if (found == nullptr || !found->is_integer() ||
      (found->kind() == Json::Kind::integer && found->as_int() < 0)) {
    return wrong_kind(key, "a non-negative integer");
  }
  return found->as_uint();
}

Result<uint32_t> Fields::character(std::string_view key, std::optional<std::string_view> fallback) const {
  PARE_TRY(const std::string found, fallback ? text(key, std::string(*fallback)) : text(key));
  if (found.empty() || unicode::count_characters(found) != 1) {
    return malformed("TK01", key, "not a single character", quote(found));
  }
  return unicode::decode_at(found.data()).code;
}

Result<const Json*> Fields::array(std::string_view key) const {
  const Json* found = find(key);
  if (found == nullptr || !found->is_array()) return wrong_kind(key, "an array");
  return found;
}

Result<const Json*> Fields::object(std::string_view key) const {
  const Json* found = find(key);
  if (found == nullptr || !found->is_object()) return wrong_kind(key, "an object");
  return found;
}

Result<std::vector<Step>> flatten_chain(const Fields& root, std::string_view key, std::string_view list_key) {
  std::vector<Step> steps;
  const Json* chain = root.find(key);
  if (chain == nullptr) return steps;
  std::vector<Fields> stack;  // next on top
  stack.emplace_back(*chain, root.path(), root.at(key));
  while (!stack.empty()) {
    const Fields fields = std::move(stack.back());
    stack.pop_back();
    if (!fields.json().is_object()) {
      return Error{.exit = Exit::malformed,
                   .rule = "TK01",
                   .path = fields.path(),
                   .where = fields.where(),
                   .what = "not an object",
                   .got = fields.json().kind_name()};
    }
    const Json* type = fields.find("type");
    if (type == nullptr || !type->is_string()) return fields.wrong_kind("type", "a string");
    if (type->as_string() != "Sequence") {
      steps.push_back({type->as_string(), fields});
    } else {
      PARE_TRY(const Json* list, fields.array(list_key));
      for (size_t i = list->size(); i-- > 0;) {
        stack.emplace_back((*list)[i], fields.path(), fmt::format("{}[{}]", fields.at(list_key), i));
      }
    }
    if (steps.size() + stack.size() > limits::kTokenizerSteps) {
      return Error{.exit = Exit::unsupported,
                   .rule = "TK12",
                   .path = root.path(),
                   .where = root.at(key),
                   .what = "too many steps",
                   .got = std::to_string(steps.size() + stack.size()),
                   .limit = std::to_string(limits::kTokenizerSteps)};
    }
  }
  return steps;
}

}  // namespace pare
