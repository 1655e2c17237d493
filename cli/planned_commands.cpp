// Commands of the plan that this version does not have. They are named, so that nobody searches for a flag;
// they refuse.
#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "engine/core/version.h"

namespace pare::cli {

void add_planned(CLI::App& app, Commands& commands) {
  for (const auto& [name, help] : {std::pair{"distill", "train a smaller student on a teacher"}}) {
    CLI::App* verb = app.add_subcommand(name, std::string(help) + " (not in this version)");
    verb->group("Not in this version");
    verb->allow_extras();  // whatever follows, the answer is the same
    verb->prefix_command();
    commands.on(verb, [command = std::string(name)]() -> Result<Exit> {
      return Error{.exit = Exit::unsupported,
                   .rule = "CL00",
                   .path = command,
                   .where = {},
                   .what = "this command is not in this version",
                   .got = std::string("pare ") + kVersion,
                   .limit = {}};
    });
  }
}

}  // namespace pare::cli
