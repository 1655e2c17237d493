#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/distill_job.h"

namespace pare::cli {

void add_distill(CLI::App& app, Commands& commands) {
  auto arguments = std::make_shared<DistillArguments>();
  CLI::App* verb = app.add_subcommand("distill", "train a smaller student to imitate a teacher");
  add_distill_options(*verb, *arguments);
  verb->add_option("--seed", commands.common().seed, "order of the data, and fresh weights")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->type_name("N")
      ->group("Training");
  add_common(verb, commands, true);
  verb->footer(
      "Examples:\n"
      "  pare distill --teacher model/ --student pruned/ --data text.txt --context 512 --minutes 10 -o "
      "smaller/\n"
      "  pare distill --teacher model/ --qat int4-g64 --data text.txt --steps 300 -o model-int4.pare\n"
      "  pare distill --teacher large/ --student-config small.json --data text.txt --cache-teacher cache/ "
      "\\\n"
      "    --steps 20000 -o small/\n"
      "Ctrl-C commits; --resume goes on to the same bytes.");
  commands.on(verb, [arguments, &commands] { return run_distill(*arguments, commands.common()); });
}

}  // namespace pare::cli
