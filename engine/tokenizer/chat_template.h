// engine/tokenizer/chat_template.h: the chat templates of models (Jinja), rendered by a restricted
// interpreter.
//
// What is there: for, if, set, macro, break, continue, generation, raw; the filters, tests, methods and
// functions listed in engine/tokenizer/jinja; trim_blocks and lstrip_blocks on, as Hugging Face renders. What
// is not there is refused with exit 4, never skipped. No template reads files, clocks or attributes of
// anything but data.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/core/json.h"
#include "engine/core/result.h"

namespace pare {

struct RenderOptions {
  std::optional<std::string> now;  // "2024-07-26" or "2024-07-26T14:30:00", for strftime_now()
};

// A parsed template; never changes, may be used by any number of threads.
class ChatTemplate {
 public:
  // `path` is what messages name. Exit 3 (CT02, CT03), 4 (CT04), 6 (CT07, TK18).
  static Result<std::shared_ptr<const ChatTemplate>> parse(std::string_view source, const std::string& path);
  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // The text for these variables, an object: messages, add_generation_prompt, tools, bos_token ...
  // Exit 3 (CT09 the template's own refusal, CT12, CT13), 4 (CT04, CT05), 6 (CT06 to CT08), 2 (CT14 no date).
  Result<std::string> render(const Json& variables, const RenderOptions& options = {}) const;

 private:
  ChatTemplate();
  struct State;
  std::unique_ptr<const State> state_;
};

// The files that may hold templates; paths are what messages name.
struct ChatTemplateFiles {
  std::optional<std::string> chat_template_jinja, tokenizer_config_json;
  std::string chat_template_path, tokenizer_config_path;
};

// Source of the template called `name` and the path that messages give it: chat_template.jinja is "default"
// and wins over tokenizer_config.json, which holds one text or a list of names and texts. Nothing when the
// model has no template at all; exit 3 (CT11) with the names present when it has others only.
struct ChatTemplateSource {
  std::string text, path;
};
Result<std::optional<ChatTemplateSource>> chat_template_source(const ChatTemplateFiles& files,
                                                               const std::string& name = "default");

// Special tokens by the names that templates use ("bos_token" ...), from tokenizer_config.json.
Result<Json> template_tokens(const std::string& tokenizer_config_json, const std::string& path);

}  // namespace pare
