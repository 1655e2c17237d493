// Every command that README.md shows is run as it stands there, in order, in one folder.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

// Lines that begin with "$ pare" inside console blocks.
std::vector<std::string> shown_commands() {
  std::ifstream in(source_path("README.md"));
  std::vector<std::string> commands;
  bool in_console = false;
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("```")) in_console = line == "```console";
    if (in_console && line.starts_with("$ pare")) commands.push_back(line.substr(2));
  }
  return commands;
}

TEST(Readme, EveryShownCommandWorks) {
  const std::string folder = temporary_folder();
  std::filesystem::create_directory_symlink(source_path("samples"), folder + "/samples");
  const std::vector<std::string> commands = shown_commands();
  ASSERT_GE(commands.size(), 10u);
  for (const std::string& command : commands) {
    const std::string line = "cd '" + folder + "' && PATH='" + binary_folder() + "':\"$PATH\" && " + command +
                             " > out.txt 2> err.txt";
    const int status = std::system(line.c_str());
    std::ifstream error(folder + "/err.txt");
    EXPECT_EQ(WEXITSTATUS(status), 0) << command << "\n"
                                      << std::string(std::istreambuf_iterator<char>(error), {});
  }
}

}  // namespace
}  // namespace pare::test
