// Prints the manual page of pare-run; used while building only.
#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/completion.h"

int main() {
  pare::cli::CommonOptions common;
  pare::cli::Commands commands(common);
  CLI::App app("Generate text with a compressed model.", "pare-run");
  pare::cli::add_run_options(&app, commands);
  pare::cli::print(pare::cli::manual_page("pare-run", pare::cli::describe_app(app)));
  return pare::cli::flush_stdout() ? 0 : 1;
}
