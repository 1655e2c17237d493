#include "engine/core/append_file.h"

#include <fcntl.h>

#include <cerrno>
#include <optional>
#include <utility>

#include "engine/core/io_calls.h"

namespace pare {

struct AppendFile::State {
  Status fail(std::string_view action) {
    failure = io::system_error(path, action, errno);
    return *failure;
  }
  std::string path;
  io::Descriptor file;
  std::optional<Error> failure{};
};

AppendFile::AppendFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
AppendFile::AppendFile(AppendFile&&) noexcept = default;
AppendFile& AppendFile::operator=(AppendFile&&) noexcept = default;
AppendFile::~AppendFile() = default;

Result<AppendFile> AppendFile::open(const std::string& path) {
  return adopt(path, O_CREAT);
}

Result<AppendFile> AppendFile::create(const std::string& path) {
  return adopt(path, O_CREAT | O_EXCL);
}

Result<AppendFile> AppendFile::adopt(const std::string& path, int flags) {
  // O_NONBLOCK: a FIFO of that name must not hold us.
  io::Descriptor file(io::open_at(
      AT_FDCWD, path, flags | O_WRONLY | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666, path));
  if (!file.is_open()) {
    if (errno == EEXIST) return Error{Exit::usage, "CL02", path, "", "already exists", "", ""};
    return io::system_error(path, "open the log", errno);
  }
  struct stat status {};
  if (io::get_stat(file.get(), status, path) != 0) return io::system_error(path, "stat", errno);
  if (!S_ISREG(status.st_mode)) return Error{Exit::io, "", path, "", "not a regular file", "", ""};
  return AppendFile(std::make_unique<State>(State{path, std::move(file)}));
}

Status AppendFile::append(std::span<const std::byte> record) {
  State& s = *state_;
  if (s.failure) return *s.failure;
  while (!record.empty()) {
    const ssize_t done = io::write_some(s.file.get(), record.data(), record.size(), s.path);
    if (done < 0) return s.fail("write");
    record = record.subspan(static_cast<size_t>(done));
  }
  return {};
}

Status AppendFile::truncate(uint64_t bytes) {
  State& s = *state_;
  if (s.failure) return *s.failure;
  return io::truncate(s.file.get(), bytes, s.path) == 0 ? Status() : s.fail("truncate");
}

Status AppendFile::sync() {
  State& s = *state_;
  if (s.failure) return *s.failure;
  return io::sync(s.file.get(), s.path) == 0 ? Status() : s.fail("sync");
}

const std::string& AppendFile::path() const {
  return state_->path;
}

}  // namespace pare
