#include "cli/conversation.h"

#include <fmt/core.h>
#include <string.h>

#include "engine/core/text.h"

namespace pare::cli {
namespace {

Error record_error(const char* rule, const std::string& path, std::string where, std::string what,
                   std::string got = {}) {
  return Error{.exit = Exit::malformed,
               .rule = rule,
               .path = path,
               .where = std::move(where),
               .what = std::move(what),
               .got = std::move(got),
               .limit = {}};
}

// A special token within any text of a message, or null. JSON is at most 64 levels deep.
const std::string* special_in(const Json& json, const std::vector<std::string>& special) {
  if (json.is_string()) {
    const std::string& text = json.as_string();
    for (const std::string& token : special)
      if (::memmem(text.data(), text.size(), token.data(), token.size()) != nullptr) return &token;
  }
  if (json.is_array()) {
    for (const Json& item : json.items())
      if (const std::string* found = special_in(item, special)) return found;
  }
  if (json.is_object()) {
    for (const auto& [key, item] : json.members())
      if (const std::string* found = special_in(item, special)) return found;
  }
  return nullptr;
}

}  // namespace

Result<Conversation> Conversation::open(const WeightSource& source, const Tokenizer& tokenizer,
                                        const Options& options) {
  Conversation conversation;
  conversation.options_ = options;
  ChatTemplateFiles files;
  files.chat_template_path = source.path() + "/chat_template.jinja";
  files.tokenizer_config_path = source.path() + "/tokenizer_config.json";
  if (const Asset* asset = source.asset("chat_template.jinja")) files.chat_template_jinja = asset->bytes;
  if (const Asset* asset = source.asset("tokenizer_config.json")) files.tokenizer_config_json = asset->bytes;
  PARE_TRY(const auto found, chat_template_source(files, options.template_name));
  if (!found) {
    return Error{.exit = Exit::unsupported,
                 .rule = "CT15",
                 .path = source.path(),
                 .where = "chat_template",
                 .what = "data has messages and the model has no chat template; give `text` instead",
                 .got = {},
                 .limit = {}};
  }
  PARE_TRY(conversation.template_, ChatTemplate::parse(found->text, found->path));
  if (files.tokenizer_config_json) {
    PARE_TRY(conversation.variables_,
             template_tokens(*files.tokenizer_config_json, files.tokenizer_config_path));
  }
  for (int64_t id = 0; id < tokenizer.vocabulary_size(); ++id) {
    if (!tokenizer.is_special(int32_t(id))) continue;
    std::string text = tokenizer.token_text(int32_t(id));
    if (!text.empty()) conversation.special_.push_back(std::move(text));
  }
  return conversation;
}

Result<std::string> Conversation::render(const Json& record, const std::string& path,
                                         const std::string& where) const {
  const Json* messages = record.find("messages");
  if (messages == nullptr || !messages->is_array()) {
    return record_error("DT03", path, where + ":messages", messages == nullptr ? "missing" : "not an array");
  }
  if (messages->size() == 0) return record_error("DT03", path, where + ":messages", "no message");
  for (size_t i = 0; i < messages->size(); ++i) {
    const Json& message = (*messages)[i];
    const std::string name = fmt::format("{}:messages[{}]", where, i);
    const Json* role = message.find("role");
    if (role == nullptr || !role->is_string()) {
      return record_error("DT03", path, name + ".role", role == nullptr ? "missing" : "not a string");
    }
    if (options_.parse_special) continue;
    if (const std::string* token = special_in(message, special_)) {
      return record_error("CT10", path, name,
                          "message holds a special token; --parse-special lets it through", quote(*token));
    }
  }
  Json variables = variables_;
  variables["messages"] = *messages;
  variables["add_generation_prompt"] = false;
  for (const char* name : {"tools", "documents"}) {
    const Json* found = record.find(name);
    variables[name] = found != nullptr ? *found : Json();
  }
  auto text = template_->render(variables, {.now = options_.now});
  if (!text) text.error().where = fmt::format("{} (with {}:{})", text.error().where, path, where);
  return text;
}

}  // namespace pare::cli
