// cli/commands.h: one function per command; each stands in the file of its name.
#pragma once

#include "cli/command.h"

namespace pare::cli {

void add_inspect(CLI::App& app, Commands& commands);
void add_calibrate(CLI::App& app, Commands& commands);
void add_prune(CLI::App& app, Commands& commands);
void add_quantize(CLI::App& app, Commands& commands);
void add_distill(CLI::App& app, Commands& commands);
void add_finetune(CLI::App& app, Commands& commands);
void add_compress(CLI::App& app, Commands& commands);
void add_evaluate(CLI::App& app, Commands& commands);
void add_export(CLI::App& app, Commands& commands);
void add_run(CLI::App& app, Commands& commands);
void add_tokenize(CLI::App& app, Commands& commands);
void add_report(CLI::App& app, Commands& commands);
void add_verify(CLI::App& app, Commands& commands);
void add_doctor(CLI::App& app, Commands& commands);
void add_limits(CLI::App& app, Commands& commands);
void add_completion(CLI::App& app, Commands& commands);

// All of them, in the order of the help.
void add_all_commands(CLI::App& app, Commands& commands);

// The options and the action of `pare run`, added to any app: pare-run is this and nothing else.
void add_run_options(CLI::App* verb, Commands& commands);

}  // namespace pare::cli
