#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/distill_job.h"

namespace pare::cli {

void add_finetune(CLI::App& app, Commands& commands) {
  auto arguments = std::make_shared<DistillArguments>();
  CLI::App* verb = app.add_subcommand("finetune", "train a model on text");
  add_finetune_options(*verb, *arguments);
  verb->add_option("--seed", commands.common().seed, "order of the data, and first values of --lora")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->type_name("N")
      ->group("Training");
  add_common(verb, commands, true);
  verb->footer(
      "Examples:\n"
      "  pare finetune model/ --data text.txt --context 512 --minutes 10 -o tuned/\n"
      "  pare finetune model/ --data a.txt=3 --data b.jsonl=1 --steps 500 --lora 8 -o tuned/\n"
      "  pare finetune model/ --data text.txt --qat int3-g64 --steps 300 -o model-int3.pare\n"
      "Ctrl-C commits; --resume goes on to the same bytes.");
  commands.on(verb, [arguments, &commands] { return run_distill(*arguments, commands.common()); });
}

}  // namespace pare::cli
