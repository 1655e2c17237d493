// cli/conversation.h: records with `messages`, rendered by the chat template of the model.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/core/json.h"
#include "engine/models/weight_source.h"
#include "engine/tokenizer/chat_template.h"
#include "engine/tokenizer/tokenizer.h"

namespace pare::cli {

class Conversation {
 public:
  struct Options {
    std::string template_name = "default";
    std::optional<std::string> now;
    bool parse_special = false;
  };
  // Exit 4 (CT15) when the model has no template; 3, 4, 6 (CT02 to CT07, CT11) for a template that cannot be
  // used.
  static Result<Conversation> open(const WeightSource& source, const Tokenizer& tokenizer,
                                   const Options& options);

  // Text of a record {"messages": [...], "tools": [...]}; `where` is its line. Exit 3: DT03 messages that are
  // none, CT10 a special token within one; and what the template says.
  Result<std::string> render(const Json& record, const std::string& path, const std::string& where) const;

 private:
  Conversation() = default;
  std::shared_ptr<const ChatTemplate> template_;
  Json variables_ = Json::object();
  std::vector<std::string> special_;  // texts of special tokens
  Options options_;
};

}  // namespace pare::cli
