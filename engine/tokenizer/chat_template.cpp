#include "engine/tokenizer/chat_template.h"

#include <fmt/core.h>

#include <charconv>

#include "engine/core/limits.h"
#include "engine/core/text.h"
#include "engine/tokenizer/jinja/evaluator.h"
#include "engine/tokenizer/jinja/parser.h"

namespace pare {
namespace {

using jinja::CalendarTime;
using jinja::Machine;
using jinja::Value;

// Data of the caller as values. The depth is that of JSON, which the reader caps.
Result<Value> value_of(Machine& machine, const Json& json) {
  switch (json.kind()) {
    case Json::Kind::null:
      return Value::none();
    case Json::Kind::boolean:
      return Value(json.as_bool());
    case Json::Kind::integer:
      return Value(json.as_int());
    case Json::Kind::unsigned_integer:
    case Json::Kind::real:
      return Value(json.as_double());
    case Json::Kind::string:
      return machine.text({}, json.as_string());
    case Json::Kind::array: {
      std::vector<Value> items;
      for (const Json& item : json.items()) {
        PARE_TRY(Value value, value_of(machine, item));
        items.push_back(std::move(value));
      }
      return machine.list({}, std::move(items));
    }
    case Json::Kind::object:
      break;
  }
  std::vector<std::pair<std::string, Value>> items;
  for (const auto& [key, item] : json.members()) {
    PARE_TRY(Value value, value_of(machine, item));
    items.emplace_back(key, std::move(value));
  }
  return machine.map({}, std::move(items));
}

std::optional<int> digits(std::string_view text, size_t at, size_t count, int low, int high) {
  int value = 0;
  if (text.size() < at + count) return std::nullopt;
  const auto end = std::from_chars(text.data() + at, text.data() + at + count, value);
  if (end.ec != std::errc() || end.ptr != text.data() + at + count || value < low || value > high) {
    return std::nullopt;
  }
  return value;
}

// "YYYY-MM-DD", and "THH:MM:SS" after it.
Result<CalendarTime> parse_time(const std::string& text) {
  constexpr int kDaysOfMonth[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  const Error error{.exit = Exit::usage,
                    .rule = "CL06",
                    .path = "--now",
                    .where = {},
                    .what = "not a date",
                    .got = quote(text),
                    .limit = "YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS",
                    .limit_label = "expected"};
  const auto year = digits(text, 0, 4, 1, 9999), month = digits(text, 5, 2, 1, 12),
             day = digits(text, 8, 2, 1, 31);
  if (!year || !month || !day || text[4] != '-' || text[7] != '-') return error;
  const bool is_leap = (*year % 4 == 0 && *year % 100 != 0) || *year % 400 == 0;
  if (*day > kDaysOfMonth[*month - 1] + (*month == 2 && is_leap ? 1 : 0)) return error;
  CalendarTime time{*year, *month, *day, 0, 0, 0};
  if (text.size() == 10) return time;
  const auto hour = digits(text, 11, 2, 0, 23), minute = digits(text, 14, 2, 0, 59),
             second = digits(text, 17, 2, 0, 59);
  if (text.size() != 19 || !hour || !minute || !second || text[10] != 'T' || text[13] != ':' ||
      text[16] != ':') {
    return error;
  }
  time.hour = *hour, time.minute = *minute, time.second = *second;
  return time;
}

Error named_template_missing(const std::string& path, const std::string& name, const std::string& present) {
  return Error{.exit = Exit::malformed,
               .rule = "CT11",
               .path = path,
               .where = "chat_template",
               .what = "no template of this name",
               .got = quote(name),
               .limit = present,
               .limit_label = "expected"};
}

}  // namespace

struct ChatTemplate::State {
  jinja::Body body;
  std::string path;
};

ChatTemplate::ChatTemplate() = default;
ChatTemplate::~ChatTemplate() = default;

Result<std::shared_ptr<const ChatTemplate>> ChatTemplate::parse(std::string_view source,
                                                                const std::string& path) {
  PARE_TRY(const std::vector<jinja::Token> tokens, jinja::tokenize(source, path));
  auto state = std::make_unique<State>();
  PARE_TRY(state->body, jinja::parse(tokens, path));
  state->path = path;
  const std::shared_ptr<ChatTemplate> result(new ChatTemplate);
  result->state_ = std::move(state);
  return std::shared_ptr<const ChatTemplate>(result);
}

Result<std::string> ChatTemplate::render(const Json& variables, const RenderOptions& options) const {
  std::optional<CalendarTime> now;
  if (options.now) {
    PARE_TRY(now, parse_time(*options.now));
  }
  Machine machine(state_->path, now);
  PARE_TRY(const Value data, value_of(machine, variables));
  jinja::Evaluator evaluator(machine);
  return evaluator.run(state_->body, *data.map());
}

Result<std::optional<ChatTemplateSource>> chat_template_source(const ChatTemplateFiles& files,
                                                               const std::string& name) {
  using Found = std::optional<ChatTemplateSource>;
  if (files.chat_template_jinja && name == "default") {
    return Found(ChatTemplateSource{*files.chat_template_jinja, files.chat_template_path});
  }
  std::string present = files.chat_template_jinja ? "default" : "";
  const std::string& path = files.tokenizer_config_path;
  if (files.tokenizer_config_json) {
    PARE_TRY(const Json config,
             parse_json(*files.tokenizer_config_json, path, {.max_bytes = limits::kConfigBytes}, "TK01"));
    const Json* found = config.find("chat_template");
    if (found != nullptr && found->is_string()) {
      if (name == "default") return Found(ChatTemplateSource{found->as_string(), path + ": chat_template"});
      present = "default";
    } else if (found != nullptr && found->is_array()) {
      for (const Json& entry : found->items()) {
        const Json *key = entry.find("name"), *text = entry.find("template");
        if (key == nullptr || text == nullptr || !key->is_string() || !text->is_string()) continue;
        if (key->as_string() == name) {
          return Found(
              ChatTemplateSource{text->as_string(), fmt::format("{}: chat_template {}", path, quote(name))});
        }
        present += (present.empty() ? "" : ", ") + key->as_string();
      }
    }
  }
  if (present.empty()) return Found();
  return named_template_missing(path, name, present);
}

Result<Json> template_tokens(const std::string& tokenizer_config_json, const std::string& path) {
  PARE_TRY(const Json config,
           parse_json(tokenizer_config_json, path, {.max_bytes = limits::kConfigBytes}, "TK01"));
  Json tokens = Json::object();
  for (const char* name :
       {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const Json* found = config.find(name);
    if (found != nullptr && found->is_object()) found = found->find("content");
    if (found != nullptr && found->is_string()) tokens[name] = found->as_string();
  }
  return tokens;
}

}  // namespace pare
