#include "engine/core/spill_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "engine/core/io_calls.h"

namespace pare {

struct SpillFile::State {
  io::Descriptor file;
  std::string path;  // for messages
};

SpillFile::SpillFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
SpillFile::SpillFile(SpillFile&&) noexcept = default;
SpillFile& SpillFile::operator=(SpillFile&&) noexcept = default;
SpillFile::~SpillFile() = default;

Result<SpillFile> SpillFile::create(const std::string& folder) {
  const io::Descriptor directory(io::open_file(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.is_open()) return io::system_error(folder, "open the folder", errno);
  constexpr int kTries = 1000;
  for (int number = 0; number < kTries; ++number) {
    const std::string name = ".pare-tmp-spill-" + std::to_string(::getpid()) + "-" + std::to_string(number);
    io::Descriptor file(
        io::open_at(directory.get(), name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600, folder));
    if (!file.is_open() && errno == EEXIST) continue;
    if (!file.is_open()) return io::system_error(folder, "create a scratch file", errno);
    if (io::unlink(directory.get(), name, 0, folder) != 0)
      return io::system_error(folder, "unlink the scratch file", errno);
    return SpillFile(std::make_unique<State>(State{std::move(file), folder}));
  }
  return io::system_error(folder, "create a scratch file", EEXIST);
}

Status SpillFile::write(uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t wrote = io::write_at(state_->file.get(), bytes.data(), bytes.size(), offset, state_->path);
    if (wrote <= 0) return io::system_error(state_->path, "write scratch data", wrote == 0 ? ENOSPC : errno);
    bytes = bytes.subspan(size_t(wrote));
    offset += uint64_t(wrote);
  }
  return {};
}

Status SpillFile::read(uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got = io::read_at(state_->file.get(), out.data(), out.size(), offset, state_->path);
    if (got <= 0) return io::system_error(state_->path, "read scratch data", got == 0 ? EIO : errno);
    out = out.subspan(size_t(got));
    offset += uint64_t(got);
  }
  return {};
}

}  // namespace pare
