// engine/core/dir_writer.cpp: DirWriter of file.h; docs/methods.md.
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/fs.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "engine/core/assert.h"
#include "engine/core/file_writer_state.h"
#include "engine/core/log.h"
#include "engine/core/signals.h"

namespace pare {

struct DirWriter::State {
  OutputTarget target;
  OutputLock lock;
  bool force = false;
  io::Descriptor folder;       // the unpublished one; locked while it lives
  std::string temporary_name;  // empty once it is published
  std::string temporary_path;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (!temporary_path.empty()) unregister_temporary(temporary_path.c_str());
    if (!temporary_name.empty()) remove_flat_folder(target.folder.get(), temporary_name, temporary_path);
  }

  Status open_temporary();
  Status move_to_final_name();
  Status swap_with_existing(mode_t old_mode);
};

DirWriter::DirWriter(std::unique_ptr<State> state) : state_(std::move(state)) {}
DirWriter::DirWriter(DirWriter&&) noexcept = default;
DirWriter& DirWriter::operator=(DirWriter&&) noexcept = default;
DirWriter::~DirWriter() = default;

Result<DirWriter> DirWriter::create(const std::string& path, const WriteOptions& options) {
  auto state = std::make_unique<State>();
  PARE_TRY(state->target, OutputTarget::open(path));
  PARE_CHECK(check_target(state->target, options, TargetKind::folder));
  PARE_TRY(state->lock, OutputLock::acquire(state->target));
  PARE_CHECK(remove_stale_temporaries(state->target));
  state->force = options.force;
  PARE_CHECK(state->open_temporary());
  return DirWriter(std::move(state));
}

Status DirWriter::State::open_temporary() {
  temporary_name = make_temporary_name(target.name);
  temporary_path = target.beside(temporary_name);
  if (io::make_folder(target.folder.get(), temporary_name, temporary_path) != 0) {
    temporary_name.clear();
    return io::system_error(target.path, "create a directory in the output folder", errno);
  }
  register_temporary(temporary_path.c_str(), /*is_directory=*/true);
  folder = io::Descriptor(io::open_at(target.folder.get(), temporary_name,
                                      O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, temporary_path));
  if (!folder.is_open()) return io::system_error(target.path, "open the new directory", errno);
  if (io::lock(folder.get(), temporary_path) != 0) return io::system_error(target.path, "lock", errno);
  return {};
}

Result<FileWriter> DirWriter::file(const std::string& name, uint64_t expected_bytes) {
  PARE_ASSERT(!name.empty() && name.find('/') == std::string::npos && name != "." && name != ".." &&
                  !is_temporary_name(name),
              "[file] '{}' is no name inside a model directory", name);
  State& s = *state_;
  auto file = std::make_unique<FileWriter::State>();
  file->inside_unpublished = true;
  file->target.path = s.target.path + "/" + name;  // what errors show: the place where the file will be
  file->target.folder_path = s.temporary_path;
  file->target.name = name;
  file->target.folder =
      io::Descriptor(io::open_at(s.folder.get(), ".", O_RDONLY | O_DIRECTORY, 0, s.temporary_path));
  if (!file->target.folder.is_open())
    return io::system_error(file->target.path, "open the new directory", errno);
  FileWriter writer(std::move(file));
  PARE_CHECK(writer.open_temporary(expected_bytes));
  return writer;
}

Status DirWriter::add(const std::string& name, std::string_view content) {
  PARE_TRY(FileWriter writer, file(name));
  PARE_CHECK(writer.write(content));
  return writer.publish();
}

Status DirWriter::rename(const std::string& from, const std::string& to) {
  State& s = *state_;
  if (io::rename(s.folder.get(), from, to, RENAME_NOREPLACE, s.temporary_path) == 0) return {};
  if ((errno == EINVAL || errno == ENOSYS) && io::rename(s.folder.get(), from, to, 0, s.temporary_path) == 0)
    return {};
  return io::system_error(s.target.path + "/" + to, "rename inside the new directory", errno);
}

const std::string& DirWriter::temporary_path() const {
  return state_->temporary_path;
}

Status DirWriter::publish() {
  State& s = *state_;
  PARE_ASSERT(!s.temporary_name.empty(), "[file] publish called twice for {}", s.target.path);
  if (io::sync(s.folder.get(), s.temporary_path) != 0 && errno != EINVAL && errno != EOPNOTSUPP) {
    return io::system_error(s.target.path, "sync", errno);
  }
  PARE_CHECK(s.move_to_final_name());
  return {};
}

Status DirWriter::State::move_to_final_name() {
  PARE_TRY(const auto existing, target.existing());
  if (existing) {
    if (!force) return exists_error(target.path);
    if (!S_ISDIR(existing->st_mode)) return exists_error(target.path);
    return swap_with_existing(existing->st_mode & 0777);
  }
  const int parent = target.folder.get();
  int result = io::rename(parent, temporary_name, target.name, RENAME_NOREPLACE, target.path);
  if (result != 0 && (errno == EINVAL || errno == ENOSYS)) {
    // Without the flag a rename could at most replace an empty folder that appeared in this moment.
    result = io::rename(parent, temporary_name, target.name, 0, target.path);
  }
  if (result != 0) {
    if (errno == EEXIST || errno == ENOTEMPTY) return exists_error(target.path);
    return io::system_error(target.path, "rename to the final name", errno);
  }
  temporary_name.clear();
  return sync_folder(target);
}

Status DirWriter::State::swap_with_existing(mode_t old_mode) {
  PARE_TRY(const std::vector<std::string> old_files, check_only_our_files(target));
  if (io::set_mode(folder.get(), old_mode, temporary_path) != 0)
    return io::system_error(target.path, "set the mode", errno);
  const int parent = target.folder.get();
  if (io::rename(parent, temporary_name, target.name, RENAME_EXCHANGE, target.path) != 0) {
    if (errno == EINVAL || errno == ENOSYS) {
      return Error{
          Exit::io, "", target.path, "", "this file system cannot swap directories; remove the old one first",
          "",       ""};
    }
    return io::system_error(target.path, "swap with the old directory", errno);
  }
  // From here on the temporary name holds the old folder. It is deleted only when the new one is durable, and
  // only what was seen in it before.
  const std::string old_name = std::exchange(temporary_name, {});
  PARE_CHECK(sync_folder(target));
  const io::Descriptor old(
      io::open_at(parent, old_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, temporary_path));
  for (const std::string& name : old_files) {
    if (old.is_open()) remove_file(old.get(), name, temporary_path + "/" + name);
  }
  if (io::unlink(parent, old_name, AT_REMOVEDIR, temporary_path) != 0 &&
      io::unlink(parent, old_name, AT_REMOVEDIR, temporary_path) != 0) {
    log_warning(fmt::format("{}: the old directory could not be removed", temporary_path));
  }
  return {};
}

}  // namespace pare
