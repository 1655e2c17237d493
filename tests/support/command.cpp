#include "tests/support/command.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

// Reads both pipes until they close, feeding stdin on the way.
void exchange(int in, int out, int error, const std::string& input, CommandResult& result) {
  size_t sent = 0;
  if (input.empty()) {
    ::close(in);
    in = -1;
  }
  bool out_open = true, error_open = true;
  char buffer[65536];
  while (out_open || error_open) {
    pollfd polls[3] = {
        {out_open ? out : -1, POLLIN, 0}, {error_open ? error : -1, POLLIN, 0}, {in, POLLOUT, 0}};
    if (::poll(polls, 3, -1) < 0) break;
    if (polls[2].revents != 0) {
      const ssize_t wrote = ::write(in, input.data() + sent, input.size() - sent);
      if (wrote > 0) sent += size_t(wrote);
      if (wrote <= 0 || sent == input.size()) {
        ::close(in);
        in = -1;
      }
    }
    for (int i = 0; i < 2; ++i) {
      if (polls[i].revents == 0) continue;
      const ssize_t count = ::read(polls[i].fd, buffer, sizeof buffer);
      if (count <= 0) {
        (i == 0 ? out_open : error_open) = false;
      } else {
        (i == 0 ? result.out : result.error).append(buffer, size_t(count));
      }
    }
  }
  if (in >= 0) ::close(in);
}

[[noreturn]] void become(const std::string& program, const std::vector<std::string>& arguments,
                         const CommandOptions& options) {
  for (const auto& [name, value] : options.environment) {
    if (value.empty()) {
      ::unsetenv(name.c_str());
    } else {
      ::setenv(name.c_str(), value.c_str(), 1);
    }
  }
  if (!options.folder.empty() && ::chdir(options.folder.c_str()) != 0) ::_exit(126);
  if (!options.stdout_path.empty()) {
    const int file = ::open(options.stdout_path.c_str(), O_WRONLY | O_CREAT, 0666);
    if (file < 0 || ::dup2(file, 1) < 0) ::_exit(126);
  }
  const std::string path = program.starts_with('/') ? program : std::string(PARE_BINARY_DIR) + "/" + program;
  std::vector<char*> words = {const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  ::execv(path.c_str(), words.data());
  ::_exit(127);
}

}  // namespace

int CommandResult::error_lines() const {
  int lines = 0;
  std::istringstream in(error);
  for (std::string line; std::getline(in, line);) lines += line.starts_with("pare: error: ") ? 1 : 0;
  return lines;
}

CommandResult run_command(const std::string& program, const std::vector<std::string>& arguments,
                          const CommandOptions& options) {
  CommandResult result;
  int in[2], out[2], error[2];
  if (::pipe(in) != 0 || ::pipe(out) != 0 || ::pipe(error) != 0) return result;
  ::signal(SIGPIPE, SIG_IGN);
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(in[0], 0);
    ::dup2(out[1], 1);
    ::dup2(error[1], 2);
    for (int end : {in[0], in[1], out[0], out[1], error[0], error[1]}) ::close(end);
    become(program, arguments, options);
  }
  ::close(in[0]);
  ::close(out[1]);
  ::close(error[1]);
  exchange(in[1], out[0], error[0], options.input, result);
  ::close(out[0]);
  ::close(error[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  result.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

std::string binary_folder() {
  return PARE_BINARY_DIR;
}

std::string folder_fingerprint(const std::string& folder) {
  std::vector<std::string> lines;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    std::string line = std::filesystem::relative(entry.path(), folder).string();
    if (entry.is_regular_file()) {
      std::ifstream in(entry.path(), std::ios::binary);
      std::ostringstream content;
      content << in.rdbuf();
      line += ":" + std::to_string(content.str().size()) + ":" +
              std::to_string(std::hash<std::string>()(content.str()));
    }
    lines.push_back(line);
  }
  std::sort(lines.begin(), lines.end());
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

std::string copy_of_sample(const std::string& name) {
  const std::filesystem::path target = std::filesystem::path(temporary_folder()) / name;
  std::filesystem::copy(source_path("samples/books-3m"), target, std::filesystem::copy_options::recursive);
  return target.string();
}

}  // namespace pare::test
