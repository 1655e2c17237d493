// cli/describe_app.h: the commands and options as plain data, taken from the definitions themselves, for
// completion and manual pages.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace pare::cli {

struct OptionText {
  std::vector<std::string> names;  // "-o", "--output"; empty for a positional
  std::string positional;          // "MODEL"
  std::string value;               // "FILE"; empty for a flag
  std::string help;
  std::string default_value;
  bool required = false;
};

struct CommandText {
  std::string name;  // empty for the program itself
  std::string help, footer;
  std::vector<OptionText> options;
};

// The program first, then its commands in order. Commands that only refuse are left out.
std::vector<CommandText> describe_app(const CLI::App& app);

}  // namespace pare::cli
