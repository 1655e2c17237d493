// cli/completion.h: shell completion and manual pages as text.
#pragma once

#include <string>
#include <vector>

#include "cli/describe_app.h"

namespace pare::cli {

std::string bash_completion(const std::vector<CommandText>& commands);
std::string zsh_completion(const std::vector<CommandText>& commands);
std::string fish_completion(const std::vector<CommandText>& commands);

// Manual page of the program (commands.size() > 1: with all its commands) in man(7) macros.
std::string manual_page(const std::string& program, const std::vector<CommandText>& commands);

}  // namespace pare::cli
