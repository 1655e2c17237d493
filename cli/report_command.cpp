#include <CLI/CLI.hpp>

#include "cli/commands.h"
#include "cli/model_argument.h"
#include "cli/output_model.h"
#include "engine/core/file.h"
#include "engine/core/text.h"
#include "evaluate/report/report_input.h"

namespace pare::cli {
namespace {

struct Options {
  std::string model, output;
  bool text = false, force = false;
};

std::string default_output(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path + ".report.html";
}

Status write_file(const std::string& path, std::string_view content, const WriteOptions& options) {
  PARE_TRY(FileWriter writer, FileWriter::create(path, options));
  PARE_CHECK(writer.write(content));
  return writer.publish();
}

Result<Exit> run_report(const Options& options, const CommonOptions& common) {
  if (options.text && common.json) {
    return Error{.exit = Exit::usage,
                 .rule = "CL06",
                 .path = "--text",
                 .where = {},
                 .what = "cannot be combined with --json",
                 .got = {},
                 .limit = {}};
  }
  const bool is_page = !options.text && !common.json;
  const bool to_file = options.output.empty() ? is_page : options.output != "-";
  const std::string path = options.output.empty() ? default_output(options.model) : options.output;
  WriteOptions write{.force = options.force};
  if (to_file) PARE_CHECK(check_output(path, write));
  PARE_TRY(const auto source, open_source(options.model, common));
  PARE_TRY(const uint64_t bytes, bytes_on_disk(source->path()));
  PARE_TRY(const ReportInput input, report_input(*source, source->path(), bytes));
  const std::string content = is_page       ? report_html(input)
                              : common.json ? report_json(input).dump(2) + "\n"
                                            : report_text(input);
  if (!to_file) {
    print(content);
    return Exit::ok;
  }
  write.inputs = source->file_identities();
  if (input.run) {
    PARE_TRY(const InputFile beside, InputFile::open(run_report_path(source->path())));
    write.inputs.push_back(beside.identity());
  }
  PARE_CHECK(write_file(path, content, write));
  print_line(path + ": " + format_bytes(content.size()) + (is_page ? ", open it in any browser" : ""));
  return Exit::ok;
}

}  // namespace

void add_report(CLI::App& app, Commands& commands) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("report", "what compression did to a model, as a page or as text");
  verb->add_option("OUT", options->model, "a model that pare wrote")->required();
  verb->add_option("-o,--output", options->output,
                   "where to write, or - for stdout (default: OUT.report.html; stdout for --text and --json)")
      ->type_name("FILE");
  verb->add_flag("--text", options->text, "tables for a terminal instead of a page");
  verb->add_flag("--force", options->force, "replace an existing file");
  add_common(verb, commands, false);
  verb->footer(
      "Reads the manifest inside OUT and OUT.report.json beside it, which `pare quantize` with data "
      "writes.\nThe page is one file that needs no network.");
  commands.on(verb, [options, &commands] { return run_report(*options, commands.common()); });
}

}  // namespace pare::cli
