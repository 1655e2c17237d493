// pare: from a checkpoint to a smaller model that runs.
#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/program.h"

int main(int argc, char** argv) {
  return pare::cli::run_program(
      argc, argv, "pare",
      "Compress language models offline: inspect, quantize, evaluate, export and run them.\n"
      "MODEL is a Hugging Face directory, a .safetensors file with its config beside it, a .pare file, or "
      "org/name "
      "from the local Hugging Face cache. Nothing is ever downloaded.",
      [](CLI::App& app, pare::cli::Commands& commands) {
        app.require_subcommand(1);
        app.footer(
            "Exit codes: 0 done, 2 usage, 3 malformed input, 4 not supported, 5 I/O, 6 out of a resource, 7 "
            "numeric,\n"
            "8 locked, 9 quality gate failed, 75 interrupted and resumable, 130 stopped. `pare COMMAND "
            "--help` says more.");
        pare::cli::add_all_commands(app, commands);
      });
}
