#include "cli/commands.h"

#include <CLI/CLI.hpp>

namespace pare::cli {

void add_all_commands(CLI::App& app, Commands& commands) {
  add_inspect(app, commands);
  add_calibrate(app, commands);
  add_prune(app, commands);
  add_quantize(app, commands);
  add_distill(app, commands);
  add_finetune(app, commands);
  add_compress(app, commands);
  add_evaluate(app, commands);
  add_export(app, commands);
  add_run(app, commands);
  add_tokenize(app, commands);
  add_report(app, commands);
  add_verify(app, commands);
  add_doctor(app, commands);
  add_limits(app, commands);
  add_completion(app, commands);
}

}  // namespace pare::cli
