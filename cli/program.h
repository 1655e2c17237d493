// cli/program.h: the frame of both programs: signals, parsing, one error line, exit code.
#pragma once

#include <functional>
#include <string>

#include "cli/command.h"

namespace pare::cli {

// Runs a program whose commands `build` adds. Returns the exit code. Never throws.
int run_program(int argc, char** argv, const std::string& name, const std::string& help,
                const std::function<void(CLI::App&, Commands&)>& build);

}  // namespace pare::cli
