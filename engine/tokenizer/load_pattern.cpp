#include <fmt/core.h>

#include "engine/core/limits.h"
#include "engine/tokenizer/load.h"

namespace pare {

Result<LoadedPattern> load_pattern(const Fields& step) {
  PARE_TRY(const Json* json, step.object("pattern"));
  const Fields pattern(*json, step.path(), step.at("pattern"));
  LoadedPattern loaded;
  loaded.is_regex = pattern.has("Regex");
  PARE_TRY(loaded.text, pattern.text(loaded.is_regex ? "Regex" : "String"));
  if (loaded.text.empty()) return step.malformed("TK08", "pattern", "pattern is empty, at pattern offset 0");
  return loaded;
}

Result<ReplaceRule> load_replace(const Fields& step) {
  PARE_TRY(LoadedPattern pattern, load_pattern(step));
  ReplaceRule rule;
  if (pattern.is_regex) {
    PARE_TRY(rule.regex, Regex::compile(pattern.text, step.path(), step.at("pattern.Regex")));
  } else {
    rule.literal = std::move(pattern.text);
  }
  PARE_TRY(rule.content, step.text("content"));
  return rule;
}

Status Growth::add(const Fields& step, const ReplaceRule& rule) {
  // A pattern may match nothing at all, between any two bytes; a literal is at least as long as itself.
  const size_t longest = rule.regex != nullptr
                             ? rule.content.size() + 1
                             : (rule.content.size() + rule.literal.size() - 1) / rule.literal.size();
  return add(step, longest);
}

Status Growth::add(const Fields& step, size_t factor) {
  // Both factors stay small enough not to overflow: the product is checked each time, and the content of a
  // step is at most a JSON string.
  if (factor > 1) factor_ *= factor;
  if (factor_ <= limits::kTokenizerGrowth) return {};
  return Error{.exit = Exit::unsupported,
               .rule = "TK12",
               .path = step.path(),
               .where = step.where(),
               .what = "replacements may make a text too long",
               .got = fmt::format("{} times", factor_),
               .limit = std::to_string(limits::kTokenizerGrowth)};
}

}  // namespace pare
