#include "cli/program.h"

#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <new>
#include <system_error>

#include "cli/process_group.h"
#include "cli/usage_error.h"
#include "engine/core/log.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"
#include "engine/core/version.h"

namespace pare::cli {
namespace {

void write_stderr(std::string_view text) {
  while (!text.empty()) {
    const ssize_t wrote = ::write(STDERR_FILENO, text.data(), text.size());
    if (wrote <= 0) return;
    text.remove_prefix(size_t(wrote));
  }
}

int report(const Error& error, bool as_json) {
  write_stderr(as_json ? format_error_json(error) + "\n" : "pare: error: " + format_error(error) + "\n");
  return int(error.exit);
}

// Descriptors 0 to 2 always exist, so that no file we open can take their place.
void ensure_standard_descriptors() {
  for (int descriptor = 0; descriptor <= 2; ++descriptor) {
    if (::fcntl(descriptor, F_GETFD) < 0) {
      if (::open("/dev/null", descriptor == 0 ? O_RDONLY : O_WRONLY) < 0) return;
    }
  }
}

void apply_log_options(const CommonOptions& common) {
  LogOptions options;
  options.json = common.log_format == "json";
  if (common.quiet) {
    options.level = LogLevel::quiet;
  } else if (common.verbose >= 2) {
    options.level = LogLevel::debug;
  } else if (common.verbose == 1) {
    options.level = LogLevel::info;
  }
  set_log_options(options);
}

// NaN is within every range that CLI11 checks by comparing.
Status refuse_nan(const CLI::App& app) {
  for (const CLI::App* verb : app.get_subcommands()) {
    for (const CLI::Option* option : verb->get_options()) {
      if (option->get_type_name().find(":FLOAT in [") == std::string::npos) continue;
      for (const std::string& text : option->results()) {
        const std::optional<double> value = parse_double(text);  // finite only
        if (value) continue;
        return Error{.exit = Exit::usage,
                     .rule = "CL06",
                     .path = option->get_name(),
                     .where = {},
                     .what = "not a number",
                     .got = quote(text),
                     .limit = {}};
      }
    }
  }
  return {};
}

int parse_and_run(CLI::App& app, Commands& commands, int argc, char** argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {  // --help, --version
    std::ostringstream out;
    app.exit(success, out, out);
    print(out.str());
    const Status flushed = flush_stdout();
    return flushed ? 0 : report(flushed.error(), false);
  } catch (const CLI::ParseError& error) {
    return report(usage_error(app, error, argc, argv), false);
  }
  const bool as_json = commands.common().log_format == "json";
  apply_log_options(commands.common());
  if (const Status numbers = refuse_nan(app); !numbers) return report(numbers.error(), as_json);
  const Result<Exit> result = commands.run_chosen();
  const Status flushed = flush_stdout();
  if (!result) return report(result.error(), as_json);
  if (!flushed) return report(flushed.error(), as_json);
  return int(*result);
}

int run_guarded(int argc, char** argv, const std::string& name, const std::string& help,
                const std::function<void(CLI::App&, Commands&)>& build) {
  // Kept back for the error line of an out-of-memory end.
  auto reserve = std::make_unique<char[]>(64 * 1024);
  try {
    CommonOptions common;
    if (argc > 1) common.command_line.assign(argv + 1, argv + argc);
    Commands commands(common);
    CLI::App app(help, name);
    app.set_version_flag("--version", name + " " + kVersion);
    app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::Throw);
    build(app, commands);
    return parse_and_run(app, commands, argc, argv);
  } catch (const std::bad_alloc&) {
    reserve.reset();
    return report({.exit = Exit::resource,
                   .rule = "RL01",
                   .path = name,
                   .where = {},
                   .what = "out of memory",
                   .got = {},
                   .limit = {}},
                  false);
  } catch (const std::system_error& error) {
    return report({.exit = Exit::resource,
                   .rule = "RL03",
                   .path = name,
                   .where = {},
                   .what = error.what(),
                   .got = {},
                   .limit = {}},
                  false);
  } catch (const std::exception& error) {
    return report({.exit = Exit::internal,
                   .rule = {},
                   .path = "internal",
                   .where = {},
                   .what = error.what(),
                   .got = {},
                   .limit = {}},
                  false);
  }
}

}  // namespace

int run_program(int argc, char** argv, const std::string& name, const std::string& help,
                const std::function<void(CLI::App&, Commands&)>& build) {
  ensure_standard_descriptors();
  install_signal_handlers();
  const int exit = run_guarded(argc, argv, name, help, build);
  end_group(exit);
  return exit;
}

}  // namespace pare::cli
