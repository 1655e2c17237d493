#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/completion.h"

namespace pare::cli {

void add_completion(CLI::App& app, Commands& commands) {
  auto shell = std::make_shared<std::string>();
  CLI::App* verb =
      app.add_subcommand("completion", "print completion for bash, zsh or fish, or the manual page");
  verb->add_option("SHELL", *shell, "bash, zsh, fish, or man for the manual page")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish", "man"}));
  verb->footer("Example: source <(pare completion bash)");
  commands.on(verb, [shell, &app]() -> Result<Exit> {
    const std::vector<CommandText> texts = describe_app(app);
    if (*shell == "bash") print(bash_completion(texts));
    if (*shell == "zsh") print(zsh_completion(texts));
    if (*shell == "fish") print(fish_completion(texts));
    if (*shell == "man") print(manual_page("pare", texts));
    return Exit::ok;
  });
}

}  // namespace pare::cli
