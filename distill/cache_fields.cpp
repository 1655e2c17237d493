#include "distill/cache_fields.h"

#include <fmt/core.h>

#include <utility>

#include "engine/core/sealed_json.h"
#include "engine/core/text.h"

namespace pare {

Error cache_error(const char* rule, const std::string& path, std::string where, std::string what,
                  std::string got, std::string expected) {
  return Error{.exit = Exit::malformed,
               .rule = rule,
               .path = path,
               .where = std::move(where),
               .what = std::move(what),
               .got = std::move(got),
               .limit = std::move(expected),
               .limit_label = "expected"};
}

Error foreign_cache(const std::string& path, std::string_view field, std::string got, std::string expected) {
  Error error = cache_error("TC05", path, std::string(field), "the cache was made from something else",
                            std::move(got), std::move(expected));
  error.exit = Exit::locked;
  return error;
}

Result<Json> read_sealed(std::string_view text, const std::string& path) {
  Result<Json> body = unseal_json(text, path);
  if (body) return body;
  Error error = body.error();
  if (error.rule.empty()) error.rule = "TC02";
  if (error.where.empty()) error.where = "header";
  return error;
}

Result<int64_t> CacheFields::integer(std::string_view name, int64_t low, int64_t high) const {
  const Json* value = json_.find(name);
  const std::string range = fmt::format("{} to {}", low, high);
  if (value == nullptr || value->kind() != Json::Kind::integer)
    return cache_error("TC03", path_, std::string(name), "not a whole number",
                       value == nullptr ? "nothing" : value->kind_name(), range);
  if (value->as_int() < low || value->as_int() > high)
    return cache_error("TC03", path_, std::string(name), "out of range", fmt::format("{}", value->as_int()),
                       range);
  return value->as_int();
}

Result<double> CacheFields::number(std::string_view name, double low, double high) const {
  const Json* value = json_.find(name);
  const std::string range = fmt::format("{} to {}", low, high);
  if (value == nullptr || !value->is_number())
    return cache_error("TC03", path_, std::string(name), "not a number",
                       value == nullptr ? "nothing" : value->kind_name(), range);
  const double number = value->as_double();
  if (!(number >= low && number <= high))
    return cache_error("TC03", path_, std::string(name), "out of range", fmt::format("{}", number), range);
  return number;
}

Result<std::string> CacheFields::text(std::string_view name, size_t most_bytes) const {
  const Json* value = json_.find(name);
  if (value == nullptr || !value->is_string())
    return cache_error("TC03", path_, std::string(name), "not a text",
                       value == nullptr ? "nothing" : value->kind_name());
  if (value->as_string().size() > most_bytes)
    return cache_error("TC03", path_, std::string(name), "too long",
                       fmt::format("{}", value->as_string().size()), fmt::format("at most {}", most_bytes));
  return value->as_string();
}

}  // namespace pare
