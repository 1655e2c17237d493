// tests/support/command.h: runs the built programs as a user would and keeps what they print.
#pragma once

#include <map>
#include <string>
#include <vector>

namespace pare::test {

struct CommandResult {
  int exit_code = -1;  // 128 + signal when one ended it
  std::string out, error;
  int error_lines() const;  // lines on stderr that start with "pare: error: "
};

struct CommandOptions {
  std::string input{};  // stdin
  std::map<std::string, std::string>
      environment{};          // added to the own one; an empty value removes the variable
  std::string folder{};       // working directory
  std::string stdout_path{};  // stdout goes to this file instead
};

// program: "pare" or "pare-run", from the build folder; or the whole path of another one.
CommandResult run_command(const std::string& program, const std::vector<std::string>& arguments,
                          const CommandOptions& options = {});
inline CommandResult pare(const std::vector<std::string>& arguments, const CommandOptions& options = {}) {
  return run_command("pare", arguments, options);
}

// The build folder, where the programs lie.
std::string binary_folder();

// Names, sizes and contents of everything below a folder, as one comparable text.
std::string folder_fingerprint(const std::string& folder);

// A copy of the sample model in a fresh folder; `name` is the folder's name.
std::string copy_of_sample(const std::string& name = "model");

}  // namespace pare::test
