#include "cli/recipe_step.h"

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <optional>

#include "engine/core/limits.h"
#include "engine/core/text.h"

namespace pare::cli {
namespace {

// A setting and the words of the command line that it stands for.
struct Words {
  const YamlMember* setting = nullptr;
  std::vector<std::string> words;
};

Error setting_error(const Recipe& recipe, const YamlNode& place, const std::string& key, std::string what,
                    std::string got, std::string limit) {
  return recipe_error(Exit::malformed, "RC07", recipe.path, place.line, place.column, key, std::move(what),
                      std::move(got), std::move(limit));
}

bool is_flag(const CLI::Option& option) {
  return option.get_items_expected_max() == 0;
}
bool is_list(const CLI::Option& option) {
  return option.get_multi_option_policy() == CLI::MultiOptionPolicy::TakeAll;
}

std::vector<std::string> step_keys(const CLI::App& app) {
  std::vector<std::string> keys;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames())
      if (is_step_option(name)) keys.push_back(name);
  return keys;
}

const CLI::Option* step_option(const CLI::App& app, const std::string& key) {
  return is_step_option(key) ? app.get_option_no_throw("--" + key) : nullptr;
}

// NaN and infinities pass comparisons with a range; no setting takes them.
bool is_not_finite(std::string_view text) {
  std::string word;
  for (const char c : text)
    if (c != '+' && c != '-' && c != '.') word += char(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return word == "nan" || word == "inf" || word == "infinity";
}

Result<std::string> scalar_word(const Recipe& recipe, const YamlNode& value, const std::string& key) {
  if (!value.is_scalar())
    return setting_error(recipe, value, key, "wrong type", value.kind_name(), "one value");
  if (value.text.empty()) return setting_error(recipe, value, key, "empty", {}, "a value");
  if (is_not_finite(value.text))
    return setting_error(recipe, value, key, "not a finite number", quote(value.text), "a number");
  return value.text;
}

// --- overrides -----------------------------------------------------------------------------------------

// Patterns are those of shells, not regular expressions; what only those know would never match a name.
Status check_pattern(const Recipe& recipe, const YamlNode& place, const std::string& pattern) {
  if (pattern.size() > limits::kTensorNameBytes) {
    return recipe_error(Exit::resource, "RC11", recipe.path, place.line, place.column, "pattern", "too long",
                        fmt::format("{} bytes", pattern.size()), fmt::format("{}", limits::kTensorNameBytes),
                        "limit");
  }
  const size_t offset = pattern.find_first_of("[]()^$+|\\");
  if (offset == std::string::npos) return {};
  return recipe_error(Exit::unsupported, "RC11", recipe.path, place.line, place.column, "pattern",
                      fmt::format("offset {}: regular expressions are not supported", offset), quote(pattern),
                      "*, ? and {a,b}");
}

Result<RecipeOverride> read_override(const Recipe& recipe, const YamlNode& item, const std::string& key) {
  RecipeOverride rule;
  rule.line = item.line;
  rule.column = item.column;
  if (item.is_scalar()) {  // as on the command line
    const size_t equals = item.text.find('=');
    if (equals == std::string::npos || equals == 0 || equals + 1 == item.text.size())
      return setting_error(recipe, item, key, "not an exception", quote(item.text), "PATTERN=VALUE");
    rule.pattern = item.text.substr(0, equals);
    rule.value = item.text.substr(equals + 1);
  } else if (!item.is_map()) {
    return setting_error(recipe, item, key, "wrong type", item.kind_name(), "{pattern: ..., value: ...}");
  }
  for (const YamlMember& member : item.members) {
    YamlNode place;
    place.line = member.line;
    place.column = member.column;
    if (member.key == "optional") {
      if (!member.value.is_scalar() || (member.value.text != "true" && member.value.text != "false"))
        return setting_error(recipe, member.value, "optional", "wrong type",
                             member.value.is_scalar() ? quote(member.value.text) : member.value.kind_name(),
                             "true or false");
      rule.optional = member.value.text == "true";
    } else if (member.key == "pattern" || member.key == "value") {
      auto word = scalar_word(recipe, member.value, member.key);
      if (!word) return word.error();
      (member.key == "pattern" ? rule.pattern : rule.value) = *std::move(word);
    } else {
      Error error =
          setting_error(recipe, place, key, "unknown key", quote(member.key), "pattern, value, optional");
      error.rule = "RC02";
      return error;
    }
  }
  if (rule.pattern.empty() || rule.value.empty())
    return setting_error(recipe, item, key, "incomplete", rule.pattern.empty() ? "no pattern" : "no value",
                         "pattern and value");
  if (rule.pattern.find('=') != std::string::npos)
    return setting_error(recipe, item, "pattern", "no name holds '='", quote(rule.pattern),
                         "a pattern of names");
  PARE_CHECK(check_pattern(recipe, item, rule.pattern));
  return rule;
}

// --- settings to words ---------------------------------------------------------------------------------

Result<Words> words_of(const Recipe& recipe, const YamlMember& setting, const CLI::Option& option) {
  Words result{.setting = &setting, .words = {}};
  const std::string& key = setting.key;
  const YamlNode& value = setting.value;
  const std::string flag = "--" + key;
  if (is_flag(option)) {
    const bool is_truth =
        value.is_scalar() && value.is_plain && (value.text == "true" || value.text == "false");
    if (!is_truth)
      return setting_error(recipe, value, key, "wrong type",
                           value.is_scalar() ? quote(value.text) : value.kind_name(), "true or false");
    if (value.text == "true") result.words.push_back(flag);
    return result;
  }
  if (value.is_list() && is_list(option)) {
    for (const YamlNode& item : value.items) {
      auto word = scalar_word(recipe, item, key);
      if (!word) return word.error();
      PARE_CHECK(check_pattern(recipe, item, *word));
      result.words.push_back(fmt::format("{}={}", flag, *word));
    }
    return result;
  }
  auto word = scalar_word(recipe, value, key);
  if (!word) return word.error();
  if (is_list(option)) PARE_CHECK(check_pattern(recipe, value, *word));
  result.words.push_back(fmt::format("{}={}", flag, *word));
  return result;
}

// What CLI11 says of one option: "--samples: Value 0 not in range 1 to 16777216" is {"not accepted", "1 to
// ..."}.
Error refused_value(const Recipe& recipe, const Words& words, const CLI::ParseError& error) {
  const std::string text = error.what();
  const YamlNode& value = words.setting->value;
  const std::string& key = words.setting->key;
  std::string got, limit = "a number";
  if (!words.words.empty()) {
    const std::string& word = words.words.back();
    got = quote(std::string_view(word).substr(std::min(word.size(), key.size() + 3)));
  }
  for (const char* mark : {" not in range ", " not in "}) {
    const size_t at = text.find(mark);
    if (at == std::string::npos) continue;
    limit = text.substr(at + std::string_view(mark).size());
    limit = limit.substr(0, limit.find('\n'));
    break;
  }
  return setting_error(recipe, value, key, "not accepted", got, limit);
}

std::optional<CLI::ParseError> parse_words(CLI::App& app, const std::vector<const Words*>& all) {
  std::vector<std::string> words = {"MODEL", "--output=OUT.pare"};
  for (const Words* one : all) words.insert(words.end(), one->words.begin(), one->words.end());
  std::reverse(words.begin(), words.end());  // as CLI11 wants them
  try {
    app.parse(std::move(words));
  } catch (const CLI::ParseError& error) {
    return error;
  }
  return std::nullopt;
}

// "0.50" and "5e-1" are one number.
Json canonical(const std::string& text) {
  if (parse_int(text)) return text;
  const auto number = parse_double(text);
  return Json(number ? format_double(*number) : text);
}

Json resolved_step(const std::string& verb, const CLI::App& app,
                   const std::vector<RecipeOverride>& overrides) {
  Json step = Json::object();
  step["step"] = verb;
  Json& json = step["options"] = Json::object();
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_lnames().empty() || !is_step_option(option->get_lnames().front())) continue;
    const std::string& key = option->get_lnames().front();
    if (key == "set") {
      Json list = Json::array();
      for (const RecipeOverride& rule : overrides) {
        Json item = Json::object();
        item["pattern"] = rule.pattern;
        item["value"] = rule.value;
        if (rule.optional) item["optional"] = true;
        list.push_back(std::move(item));
      }
      json["overrides"] = std::move(list);
    } else if (is_flag(*option)) {
      json[key] = option->count() > 0;
    } else if (is_list(*option)) {
      Json list = Json::array();
      for (const std::string& word : option->results()) list.push_back(Json(word));
      json[key] = std::move(list);
    } else {
      const std::string text = option->count() > 0 ? option->results().front() : option->get_default_str();
      if (!text.empty()) json[key] = canonical(text);
    }
  }
  return step;
}

const YamlMember* setting_of(const Recipe& recipe, const BoundStep& step, const std::string& key) {
  if (const YamlMember* setting = recipe.setting(step.place, key)) return setting;
  return key == "set" ? recipe.setting(step.place, "overrides") : nullptr;
}

}  // namespace

bool is_step_option(const std::string& name) {
  static const std::vector<std::string> kHidden = {"help",
                                                   "output",
                                                   "force",
                                                   "dry-run",
                                                   "data",
                                                   "statistics",
                                                   "teacher",
                                                   "student",
                                                   "student-config",
                                                   "validate",
                                                   "token-cache",
                                                   "cache-teacher",
                                                   "tensorboard",
                                                   "checkpoint-every",
                                                   "seed",
                                                   "work-dir",
                                                   "resume",
                                                   "restart",
                                                   "keep-work",
                                                   "report",
                                                   "no-report",
                                                   "report-data",
                                                   "report-tokens",
                                                   "fail-if",
                                                   "json",
                                                   "quiet",
                                                   "verbose",
                                                   "log-format",
                                                   "device",
                                                   "threads",
                                                   "max-memory",
                                                   "cpu-profile",
                                                   "weights",
                                                   "strict",
                                                   "follow-symlinks",
                                                   "allow-unindexed",
                                                   "ignore-activation-quant",
                                                   "no-speed"};
  return std::find(kHidden.begin(), kHidden.end(), name) == kHidden.end();
}

Result<BoundStep> bind_step(const Recipe& recipe, const RecipeStep& step,
                            std::unique_ptr<StepCommand> command, const std::string& data) {
  BoundStep bound;
  bound.place = step;
  bound.command = std::move(command);
  CLI::App app;
  bound.command->add_options(app);

  std::vector<Words> all;
  const auto add = [&](const YamlMember& setting, bool is_shared) -> Status {
    if (setting.key == "overrides" || setting.key == "set") {
      if (bound.command->overrides() != nullptr) {
        if (!bound.overrides.empty())
          return setting_error(recipe, setting.value, setting.key, "given twice, as overrides and as set", {},
                               "one");
        if (!setting.value.is_list())
          return setting_error(recipe, setting.value, setting.key, "wrong type", setting.value.kind_name(),
                               "a list");
        for (const YamlNode& item : setting.value.items) {
          auto rule = read_override(recipe, item, setting.key);
          if (!rule) return rule.error();
          bound.overrides.push_back(*std::move(rule));
        }
        return {};
      }
    }
    const CLI::Option* option = step_option(app, setting.key);
    if (option == nullptr) {
      if (is_shared) return {};
      std::vector<std::string> known = step_keys(app);
      if (bound.command->overrides() != nullptr) known.push_back("overrides");
      const std::string nearest = nearest_word(setting.key, known.data(), known.data() + known.size());
      YamlNode place;
      place.line = setting.line;
      place.column = setting.column;
      const bool is_top = setting.key == "data" || setting.key == "seed";
      Error error =
          setting_error(recipe, place, step.verb,
                        is_top            ? "unknown key of a step; it stands at the top of the recipe"
                        : nearest.empty() ? fmt::format("unknown key; `pare {} --help` lists them", step.verb)
                                          : fmt::format("unknown key; did you mean {}?", nearest),
                        quote(setting.key), {});
      error.rule = "RC02";
      return error;
    }
    auto words = words_of(recipe, setting, *option);
    if (!words) return words.error();
    all.push_back(*std::move(words));
    return {};
  };
  for (const YamlMember& setting : step.settings) PARE_CHECK(add(setting, false));
  for (const YamlMember& setting : recipe.shared)
    if (recipe.setting(step, setting.key) == &setting) PARE_CHECK(add(setting, true));

  Words rules;
  for (const RecipeOverride& rule : bound.overrides)
    rules.words.push_back(fmt::format("--set={}={}", rule.pattern, rule.value));
  // One after the other, so that an error is that of the last.
  std::vector<const Words*> some;
  for (const Words& one : all) {
    some.push_back(&one);
    if (const auto error = parse_words(app, some)) {
      auto refused = refused_value(recipe, one, *error);
      return at_setting(recipe, bound, std::move(refused));
    }
  }
  some.push_back(&rules);
  if (const auto error = parse_words(app, some)) {
    return recipe_error(Exit::malformed, "RC07", recipe.path, step.line, step.column, step.verb,
                        sanitize(error->what()));
  }
  // Data is for the steps that cannot do without.
  if (Status checked = bound.command->check(); !checked) {
    bound.uses_data = true;
    bound.command->arguments().data = data;
    if (!data.empty()) checked = bound.command->check();
    if (!checked) return at_setting(recipe, bound, checked.error());
  }
  bound.resolved = resolved_step(step.verb, app, bound.overrides);
  bound.command->canonicalize(bound.resolved["options"]);
  return bound;
}

Error at_setting(const Recipe& recipe, const BoundStep& step, Error error) {
  const bool is_option = error.path.starts_with("--");
  const bool is_rule = error.rule == "RC09" || error.rule == "RC14";
  if (error.path == recipe.path || (!is_option && !is_rule)) return error;
  const std::string key = is_option ? error.path.substr(2) : "scheme";
  int line = step.place.line, column = step.place.column;
  std::string name = key;
  if (key == "set" && !step.overrides.empty()) {
    // The rule that the message speaks of, by its pattern or by its value.
    name = "overrides";
    const RecipeOverride* found = &step.overrides.front();
    for (const RecipeOverride& rule : step.overrides)
      if (error.got == quote(rule.pattern) || error.where == quote(rule.value) ||
          error.got == quote(rule.value))
        found = &rule;
    line = found->line;
    column = found->column;
  } else if (const YamlMember* setting = setting_of(recipe, step, key)) {
    line = setting->value.line;
    column = setting->value.column;
    for (const YamlNode& item : setting->value.items) {
      if (error.got != quote(item.text)) continue;
      line = item.line;
      column = item.column;
    }
  }
  const bool names_kind = key == "method" || key == "scheme" || key == "embedding" || key == "head" ||
                          key == "kv" || key == "set" || key == "observer";
  if (is_option && !is_rule) {
    const bool is_unknown = names_kind && error.rule != "CL13" && error.rule != "CL12";
    if (error.exit == Exit::usage) error.exit = is_unknown ? Exit::unsupported : Exit::malformed;
    error.rule = is_unknown ? "RC08" : "RC07";
  } else if (error.rule == "RC09") {
    error.exit = Exit::malformed;
  }
  error.where =
      fmt::format("{}:{}: {}{}{}", line, column, name, error.where.empty() ? "" : ": ", error.where);
  error.path = recipe.path;
  return error;
}

// --- overrides of a model ------------------------------------------------------------------------------

namespace {

// How much a pattern says of the name: its characters that stand for themselves.
size_t specificity(const std::string& pattern) {
  return size_t(std::count_if(pattern.begin(), pattern.end(), [](char c) {
    return std::string_view("*?{},").find(c) == std::string_view::npos;
  }));
}

}  // namespace

Status match_overrides(const Recipe& recipe, BoundStep& step, const ModelDescription& model) {
  std::vector<std::string>* const words = step.command->overrides();
  if (words == nullptr) return {};
  std::vector<bool> matched(step.overrides.size(), false);
  for (const TensorSpec& spec : model.tensors) {
    std::vector<const RecipeOverride*> claims;
    for (size_t i = 0; i < step.overrides.size(); ++i) {
      if (!matches_pattern(step.overrides[i].pattern, spec.name)) continue;
      matched[i] = true;
      claims.push_back(&step.overrides[i]);
    }
    if (claims.empty()) continue;
    const RecipeOverride& last = *claims.back();  // wins
    for (const RecipeOverride* other : claims) {
      if (other->value == last.value || specificity(other->pattern) != specificity(last.pattern)) continue;
      return recipe_error(
          Exit::malformed, "RC10", recipe.path, last.line, last.column, "overrides",
          fmt::format("{}: claimed twice, and equally specifically, with different values", quote(spec.name)),
          last.pattern + "=" + last.value,
          fmt::format("{}={} of line {}", other->pattern, other->value, other->line), "other");
    }
  }
  words->clear();
  for (size_t i = 0; i < step.overrides.size(); ++i) {
    const RecipeOverride& rule = step.overrides[i];
    if (matched[i]) {
      words->push_back(rule.pattern + "=" + rule.value);
    } else if (!rule.optional) {
      return recipe_error(Exit::malformed, "RC09", recipe.path, rule.line, rule.column, "overrides",
                          "pattern matches no tensor; optional: true accepts that", quote(rule.pattern));
    }
  }
  if (const Status checked = step.command->check(); !checked)
    return at_setting(recipe, step, checked.error());
  return {};
}

}  // namespace pare::cli
