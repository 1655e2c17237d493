// engine/core/file_writer.cpp: FileWriter of file.h; docs/methods.md.
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/fs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "engine/core/assert.h"
#include "engine/core/file_writer_state.h"
#include "engine/core/log.h"
#include "engine/core/signals.h"

namespace pare {
namespace {

constexpr size_t kBufferBytes =
    256u << 10;  // small writes are gathered; larger ones go straight to the kernel

}  // namespace

FileWriter::FileWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
FileWriter::FileWriter(FileWriter&&) noexcept = default;
FileWriter& FileWriter::operator=(FileWriter&&) noexcept = default;
FileWriter::~FileWriter() = default;

FileWriter::State::~State() {
  if (temporary_name.empty()) return;
  file = io::Descriptor();
  remove_file(target.folder.get(), temporary_name, temporary_path);
  if (!inside_unpublished) unregister_temporary(temporary_path.c_str());
}

Result<FileWriter> FileWriter::create(const std::string& path, const WriteOptions& options) {
  auto state = std::make_unique<State>();
  PARE_TRY(state->target, OutputTarget::open(path));
  PARE_CHECK(check_target(state->target, options, TargetKind::file));
  PARE_TRY(state->lock, OutputLock::acquire(state->target));
  PARE_CHECK(remove_stale_temporaries(state->target));
  state->force = options.force;
  FileWriter writer(std::move(state));
  PARE_CHECK(writer.open_temporary(options.expected_bytes));
  return writer;
}

Status FileWriter::open_temporary(uint64_t expected_bytes) {
  constexpr int kTries = 10;  // for a name that is taken, which 64 random bits rule out in practice
  State& s = *state_;
  for (int tries = 0; !s.file.is_open(); ++tries) {
    const std::string name = make_temporary_name(s.target.name);
    s.temporary_path = s.target.beside(name);
    // 0666 here, so that the kernel applies the umask.
    s.file = io::Descriptor(io::open_at(s.target.folder.get(), name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW,
                                        0666, s.temporary_path));
    if (s.file.is_open()) {
      s.temporary_name = name;
    } else if (errno != EEXIST || tries == kTries) {
      return io::system_error(s.target.path, "create a file in the output folder", errno);
    }
  }
  if (!s.inside_unpublished) register_temporary(s.temporary_path.c_str(), /*is_directory=*/false);
  if (s.force) {
    PARE_TRY(const auto existing, s.target.existing());
    if (existing && S_ISREG(existing->st_mode) &&
        io::set_mode(s.file.get(), existing->st_mode & 0777, s.temporary_path) != 0) {
      return io::system_error(s.target.path, "set the mode", errno);
    }
  }
  // Tells a living temporary from one that a dead process left.
  if (io::lock(s.file.get(), s.temporary_path) != 0) return io::system_error(s.target.path, "lock", errno);
  if (expected_bytes > 0) {
    if (io::reserve(s.file.get(), expected_bytes, s.temporary_path) == 0) {
      s.reserved_bytes = expected_bytes;
    } else if (errno != EOPNOTSUPP && errno != ENOSYS) {
      return io::system_error(s.target.path, "reserve space", errno);
    }
  }
  s.buffer.reserve(kBufferBytes);
  return {};
}

// The first failure decides: the kernel may have dropped pages, so no later success can make this file whole.
Status FileWriter::State::fail(std::string_view action) {
  failure = io::system_error(target.path, action, errno);
  return *failure;
}

Status FileWriter::State::write_through(std::span<const std::byte> bytes) {
  // Large writes into the page cache are up to ten times slower than ones whose pages stay in the
  // processor's.
  constexpr size_t kWriteBytes = size_t{256} << 10;
  while (!bytes.empty()) {
    const size_t size = std::min(bytes.size(), kWriteBytes);
    const ssize_t done = io::write_some(file.get(), bytes.data(), size, temporary_path);
    if (done < 0) return fail("write");
    bytes = bytes.subspan(static_cast<size_t>(done));
    flushed_bytes += static_cast<uint64_t>(done);
  }
  return {};
}

Status FileWriter::State::flush() {
  if (failure) return *failure;
  PARE_CHECK(write_through(buffer));
  buffer.clear();
  return {};
}

Status FileWriter::write(std::span<const std::byte> bytes) {
  State& s = *state_;
  if (s.failure) return *s.failure;
  if (s.buffer.size() + bytes.size() > kBufferBytes) {
    PARE_CHECK(s.flush());
    if (bytes.size() >= kBufferBytes) return s.write_through(bytes);
  }
  s.buffer.insert(s.buffer.end(), bytes.begin(), bytes.end());
  return {};
}

Status FileWriter::pad_to(uint64_t alignment) {
  PARE_ASSERT(alignment > 0, "[file] padding to a multiple of 0");
  static constexpr std::array<std::byte, 4096> kZeros{};
  uint64_t missing = (alignment - position() % alignment) % alignment;
  while (missing > 0) {
    const size_t piece = std::min<uint64_t>(missing, kZeros.size());
    PARE_CHECK(write(std::span(kZeros).first(piece)));
    missing -= piece;
  }
  return {};
}

Status FileWriter::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  State& s = *state_;
  PARE_ASSERT(offset + bytes.size() <= position(), "[file] write_at {} of {} behind the end {}", offset,
              bytes.size(), position());
  PARE_CHECK(s.flush());
  while (!bytes.empty()) {
    const ssize_t done = io::write_at(s.file.get(), bytes.data(), bytes.size(), offset, s.temporary_path);
    if (done < 0) return s.fail("write");
    bytes = bytes.subspan(static_cast<size_t>(done));
    offset += static_cast<uint64_t>(done);
  }
  return {};
}

Status FileWriter::read_back(uint64_t offset, std::span<std::byte> out) const {
  State& s = *state_;
  PARE_ASSERT(offset + out.size() <= position(), "[file] read_back behind the end");
  PARE_CHECK(s.flush());
  while (!out.empty()) {
    const ssize_t done = io::read_at(s.file.get(), out.data(), out.size(), offset, s.temporary_path);
    if (done < 0) return s.fail("read back");
    if (done == 0) {
      s.failure = Error{Exit::io, "", s.target.path, "", "temporary was cut by somebody else", "", ""};
      return *s.failure;
    }
    out = out.subspan(static_cast<size_t>(done));
    offset += static_cast<uint64_t>(done);
  }
  return {};
}

uint64_t FileWriter::position() const {
  return state_->flushed_bytes + state_->buffer.size();
}

const std::string& FileWriter::temporary_path() const {
  const Status remembered_in_state = state_->flush();
  (void)remembered_in_state;
  return state_->temporary_path;
}

// Under the final name, never over a file that is not to be replaced.
Status FileWriter::State::move_to_final_name() {
  const int folder = target.folder.get();
  const unsigned flags = force ? 0u : static_cast<unsigned>(RENAME_NOREPLACE);
  if (io::rename(folder, temporary_name, target.name, flags, target.path) == 0) {
    if (!inside_unpublished) unregister_temporary(temporary_path.c_str());
    temporary_name.clear();
    return {};
  }
  if (force || (errno != EINVAL && errno != ENOSYS)) {
    if (!force && errno == EEXIST) return exists_error(target.path);
    return fail("rename to the final name");
  }
  // A file system without RENAME_NOREPLACE: a link never replaces either. The destructor removes the other
  // name.
  if (io::link(folder, temporary_name, target.name, target.path) == 0) return {};
  if (errno == EEXIST) return exists_error(target.path);
  return fail("link to the final name");
}

Status FileWriter::publish() {
  State& s = *state_;
  PARE_ASSERT(s.file.is_open(), "[file] publish called twice for {}", s.target.path);
  PARE_CHECK(s.flush());
  if (s.reserved_bytes > s.flushed_bytes &&
      io::truncate(s.file.get(), s.flushed_bytes, s.temporary_path) != 0) {
    return s.fail("cut to the exact length");
  }
  if (io::sync(s.file.get(), s.temporary_path) != 0) return s.fail("sync");
  if (s.file.close_checked(s.temporary_path) != 0) return s.fail("close");
  PARE_CHECK(s.move_to_final_name());
  return s.inside_unpublished ? Status() : sync_folder(s.target);
}

Status sync_folder(const OutputTarget& target) {
  if (io::sync(target.folder.get(), target.folder_path) == 0) return {};
  if (errno == EINVAL || errno == EOPNOTSUPP) {
    log_warning(fmt::format("{}: durability is not guaranteed on this file system", target.path));
    return {};
  }
  return io::system_error(target.path, "sync the output folder after the rename", errno);
}

}  // namespace pare
