#include "cli/describe_app.h"

#include <CLI/CLI.hpp>

namespace pare::cli {
namespace {

OptionText describe_option(const CLI::Option& option) {
  OptionText text;
  for (const std::string& name : option.get_snames()) text.names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) text.names.push_back("--" + name);
  if (text.names.empty()) text.positional = option.get_name(true);
  if (option.get_items_expected_max() > 0 && option.get_type_size_max() > 0)
    text.value = option.get_type_name();
  // Names of C++ types tell a user nothing.
  if (text.value == "TEXT:{text,json}" || text.value.find(':') != std::string::npos)
    text.value = text.value.substr(0, text.value.find(':'));
  text.help = option.get_description();
  text.default_value = option.get_default_str();
  text.required = option.get_required();
  return text;
}

CommandText describe_command(const CLI::App& app, const std::string& name) {
  CommandText text;
  text.name = name;
  text.help = app.get_description();
  text.footer = app.get_footer();
  for (const CLI::Option* option : app.get_options()) text.options.push_back(describe_option(*option));
  return text;
}

}  // namespace

std::vector<CommandText> describe_app(const CLI::App& app) {
  std::vector<CommandText> commands = {describe_command(app, "")};
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    if (verb->get_group() == "Not in this version" || verb->get_group().empty()) continue;
    commands.push_back(describe_command(*verb, verb->get_name()));
  }
  return commands;
}

}  // namespace pare::cli
