#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/completion.h"

namespace pare::cli {
namespace {

std::string script_for(const std::string& shell, const std::vector<CommandText>& commands) {
  if (shell == "bash") return bash_completion(commands);
  if (shell == "zsh") return zsh_completion(commands);
  if (shell == "fish") return fish_completion(commands);
  return manual_page("pare", commands);
}

}  // namespace

void add_completion(CLI::App& app, Commands& commands) {
  auto shell = std::make_shared<std::string>();
  CLI::App* verb =
      app.add_subcommand("completion", "print completion for bash, zsh or fish, or the manual page");
  verb->add_option("SHELL", *shell, "bash, zsh, fish, or man for the manual page")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish", "man"}));
  add_common(verb, commands, false);
  verb->footer("Example: source <(pare completion bash)");
  commands.on(verb, [shell, &app, &commands]() -> Result<Exit> {
    const std::string script = script_for(*shell, describe_app(app));
    if (commands.common().json) {
      Json json = Json::object();
      json["schema_version"] = 1;
      json["shell"] = *shell;
      json["script"] = script;
      print_json(json);
    } else {
      print(script);
    }
    return Exit::ok;
  });
}

}  // namespace pare::cli
