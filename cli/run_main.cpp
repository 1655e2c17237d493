// pare-run: the runner alone.
#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/program.h"

int main(int argc, char** argv) {
  return pare::cli::run_program(
      argc, argv, "pare-run", "Generate text with a compressed model.",
      [](CLI::App& app, pare::cli::Commands& commands) { pare::cli::add_run_options(&app, commands); });
}
