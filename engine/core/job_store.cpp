#include "engine/core/job_store.h"

#include <fcntl.h>
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

#include "engine/core/file_writer_state.h"
#include "engine/core/limits.h"
#include "engine/core/log.h"
#include "engine/core/sealed_json.h"
#include "engine/core/text.h"

namespace pare {
namespace {

// Does the name still lead to the folder that is open? Its owner may have removed it meanwhile.
Result<bool> is_still_there(const OutputTarget& place, const OutputTarget& inside) {
  struct stat opened {
  }, named{};
  if (io::get_stat(inside.folder.get(), opened, inside.path) != 0)
    return io::system_error(inside.path, "stat", errno);
  if (io::get_stat_at(place.folder.get(), place.name, named, 0, inside.path) != 0) {
    if (errno == ENOENT) return false;
    return io::system_error(inside.path, "stat", errno);
  }
  return opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

}  // namespace

Result<JobStore> JobStore::open(const std::string& path, bool create, const Admit& admit) {
  constexpr int kTries = 100;  // each means that another process made or removed the folder just now
  for (int tries = 0; tries < kTries; ++tries) {
    JobStore store;
    PARE_TRY(store.place_, OutputTarget::open(path));
    const int parent = store.place_.folder.get();
    const std::string& name = store.place_.name;
    store.inside_.path = path;
    while (store.inside_.path.size() > 1 && store.inside_.path.ends_with('/')) store.inside_.path.pop_back();
    store.inside_.folder_path = store.inside_.path;
    const auto open_folder = [&] {
      return io::Descriptor(io::open_at(parent, name, O_RDONLY | O_DIRECTORY, 0, path));
    };
    store.inside_.folder = open_folder();
    if (!store.inside_.folder.is_open() && errno == ENOENT) {
      PARE_CHECK(admit(JobListing(), false));
      if (!create) return io::system_error(path, "open the job folder", ENOENT);
      if (io::make_folder(parent, name, path) != 0) {
        if (errno == EEXIST) continue;
        return io::system_error(path, "create the job folder", errno);
      }
      store.made_here_ = true;
      store.inside_.folder = open_folder();
    }
    if (!store.inside_.folder.is_open()) {
      const Error error = io::system_error(path, "open the job folder", errno);
      if (store.made_here_) io::unlink(parent, name, AT_REMOVEDIR, path);
      return error;
    }
    const Status locked = store.lock(admit);
    const Result<bool> is_there = is_still_there(store.place_, store.inside_);
    if (is_there && !*is_there) continue;
    const Status ready = !locked ? locked : !is_there ? is_there.error() : store.admit_locked(admit);
    if (ready) return store;
    // Not when another process was quicker to take the lock: the folder is not empty then, and stays.
    if (store.made_here_) {
      store.lock_.remove_name();
      io::unlink(parent, name, AT_REMOVEDIR, path);
    }
    return ready.error();
  }
  return Error{Exit::locked, "RL10", path, "", "the job folder comes and goes without end", "", ""};
}

Status JobStore::lock(const Admit& admit) {
  if (!made_here_) {
    PARE_TRY(const JobListing listing, list());
    PARE_CHECK(admit(listing, false));
  }
  PARE_TRY(lock_, OutputLock::acquire_named(inside_, kJobLock, "another process holds this job"));
  return {};
}

Status JobStore::admit_locked(const Admit& admit) {
  PARE_TRY(const JobListing listing, list());
  return admit(listing, true);
}

// --- writing and reading -------------------------------------------------------------------------------

// The lock of the job stands for that of the output, and folders are synced once per commit, not per file.
Result<FileWriter> JobStore::create_file(const std::string& subfolder, const std::string& name,
                                         uint64_t bytes) {
  auto file = std::make_unique<FileWriter::State>();
  file->inside_unpublished = true;
  file->force = true;
  file->target.folder_path = subfolder.empty() ? path() : path_of(subfolder);
  file->target.path = file->target.beside(name);
  file->target.name = name;
  file->target.folder =
      io::Descriptor(io::open_at(inside_.folder.get(), subfolder.empty() ? "." : subfolder,
                                 O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, file->target.path));
  if (!file->target.folder.is_open())
    return io::system_error(file->target.path, "open the job folder", errno);
  FileWriter writer(std::move(file));
  PARE_CHECK(writer.open_temporary(bytes));
  return writer;
}

Status JobStore::write(const std::string& name, const Json& body) {
  const std::string text = seal_json(body);
  // Beyond a cap of the reader it would be written and never read again.
  PARE_CHECK(unseal_json(text, path_of(name)));
  PARE_TRY(FileWriter writer, create_file("", name, 0));
  PARE_CHECK(writer.write(text));
  return writer.publish();
}

Result<Json> JobStore::read(const std::string& name) const {
  PARE_TRY(const InputFile file, InputFile::open_below(path(), name, /*follow_symlinks=*/false));
  PARE_TRY(const std::string text, file.read_all(limits::kHeaderBytes));
  return unseal_json(text, file.path());
}

Status JobStore::make_folder(const char* name) {
  if (io::make_folder(inside_.folder.get(), name, path_of(name)) == 0 || errno == EEXIST) return {};
  return io::system_error(path_of(name), "create the directory", errno);
}

Status JobStore::make_objects_folder() {
  return make_folder(kJobObjects);
}
Status JobStore::make_parts_folder() {
  return make_folder(kJobParts);
}

Result<bool> JobStore::has_object(const Hash128& hash) const {
  const std::string name = fmt::format("{}/{}", kJobObjects, hash.hex());
  struct stat status {};
  if (io::get_stat_at(inside_.folder.get(), name, status, AT_SYMLINK_NOFOLLOW, path_of(name)) == 0) {
    return S_ISREG(status.st_mode);
  }
  if (errno == ENOENT) return false;
  return io::system_error(path_of(name), "stat", errno);
}

Status JobStore::write_object(const Hash128& hash, std::span<const std::span<const std::byte>> parts) {
  uint64_t bytes = 0;
  for (const auto& part : parts) bytes += part.size();
  PARE_TRY(FileWriter writer, create_file(kJobObjects, hash.hex(), bytes));
  for (const auto& part : parts) PARE_CHECK(writer.write(part));
  return writer.publish();
}

std::string JobStore::object_path(const Hash128& hash) const {
  return fmt::format("{}/{}", path_of(kJobObjects), hash.hex());
}

Result<InputFile> JobStore::open_object(const Hash128& hash) const {
  return InputFile::open_below(path(), fmt::format("{}/{}", kJobObjects, hash.hex()),
                               /*follow_symlinks=*/false);
}

// Through pread, not a mapping: a disk that fails is an error here, not a signal.
Status JobStore::verify_object(const Hash128& hash) const {
  PARE_TRY(const InputFile file, open_object(hash));
  constexpr uint64_t kPieceBytes = 1u << 20;
  std::vector<std::byte> piece(static_cast<size_t>(std::min(file.size(), kPieceBytes)));
  Xxh3Stream stream;
  for (uint64_t offset = 0; offset < file.size(); offset += piece.size()) {
    const auto part =
        std::span(piece).first(static_cast<size_t>(std::min<uint64_t>(piece.size(), file.size() - offset)));
    PARE_CHECK(file.read_at(offset, part));
    stream.update(part);
  }
  PARE_CHECK(file.check_unchanged());
  const Hash128 got = stream.digest();
  if (got == hash) return {};
  return Error{Exit::malformed, "", file.path(), "", "checksum mismatch", got.hex(), hash.hex(), "expected"};
}

// --- durability ----------------------------------------------------------------------------------------

Status JobStore::sync_folder(int folder, const std::string& shown) {
  if (io::sync(folder, shown) == 0) return {};
  if (errno != EINVAL && errno != EOPNOTSUPP) return io::system_error(shown, "sync the folder", errno);
  if (!std::exchange(has_warned_of_sync_, true))
    log_warning(fmt::format("{}: durability is not guaranteed on this file system", path()));
  return {};
}

Status JobStore::sync_objects() {
  const io::Descriptor objects = open_job_objects(inside_.folder.get(), path());
  if (!objects.is_open()) return io::system_error(path_of(kJobObjects), "open the directory", errno);
  return sync_folder(objects.get(), path_of(kJobObjects));
}

Status JobStore::sync() {
  return sync_folder(inside_.folder.get(), path());
}

Status JobStore::sync_parent() {
  return sync_folder(place_.folder.get(), place_.folder_path);
}

// --- removing ------------------------------------------------------------------------------------------

Status JobStore::remove(const std::vector<int64_t>& generations, const std::vector<Hash128>& objects) {
  Status first;
  const auto remove_one = [&](int folder, const std::string& name, const std::string& shown) {
    if (remove_file(folder, name, shown) != 0 && errno != ENOENT && first)
      first = io::system_error(shown, "remove", errno);
  };
  for (const int64_t generation : generations) {
    const std::string name = generation_name(generation);
    remove_one(inside_.folder.get(), name, path_of(name));
  }
  if (objects.empty()) return first;
  const io::Descriptor folder = open_job_objects(inside_.folder.get(), path());
  if (!folder.is_open()) return io::system_error(path_of(kJobObjects), "open the directory", errno);
  for (const Hash128& object : objects) remove_one(folder.get(), object.hex(), object_path(object));
  return first;
}

void JobStore::remove_temporaries(const JobListing& listing) {
  for (const std::string& name : listing.temporaries) remove_file(inside_.folder.get(), name, path_of(name));
}

// Outputs of steps, and the jobs of steps, by the same rules: foreign files stay.
Status JobStore::clear_parts(const JobListing& listing) {
  for (const std::string& name : listing.parts) {
    const std::string place = fmt::format("{}/{}", kJobParts, name);
    if (remove_file(inside_.folder.get(), place, path_of(place)) != 0 && errno != ENOENT)
      return io::system_error(path_of(place), "remove", errno);
  }
  for (const std::string& name : listing.part_jobs) {
    PARE_TRY(JobStore job, open(path_of(fmt::format("{}/{}", kJobParts, name)), /*create=*/false,
                                [](const JobListing&, bool) { return Status(); }));
    PARE_CHECK(job.clear(/*identity_first=*/true));
    PARE_CHECK(job.remove_folder());
  }
  return {};
}

Status JobStore::clear(bool identity_first) {
  PARE_TRY(const JobListing listing, list());
  const auto remove_one = [&](const char* name, int flags) -> Status {
    const int folder = inside_.folder.get();
    if (io::unlink(folder, name, flags, path_of(name)) == 0 || errno == ENOENT) return {};
    if (flags == AT_REMOVEDIR && (errno == ENOTEMPTY || errno == EEXIST)) return {};  // foreign files in it
    return io::system_error(path_of(name), "remove", errno);
  };
  if (identity_first) PARE_CHECK(remove_one(kJobIdentity, 0));
  PARE_CHECK(remove(listing.generations, listing.objects));
  remove_temporaries(listing);
  PARE_CHECK(clear_parts(listing));
  if (listing.has_parts_folder) PARE_CHECK(remove_one(kJobParts, AT_REMOVEDIR));
  PARE_CHECK(remove_one(kJobEvents, 0));
  PARE_CHECK(remove_one(kJobTrainingLog, 0));
  PARE_CHECK(remove_one(kJobIdentity, 0));
  PARE_CHECK(remove_one(kJobCurrent, 0));
  return listing.has_objects_folder ? remove_one(kJobObjects, AT_REMOVEDIR) : Status();
}

Status JobStore::remove_folder() {
  lock_.remove_name();
  if (io::unlink(place_.folder.get(), place_.name, AT_REMOVEDIR, path()) == 0 || errno == ENOENT) return {};
  const int number = errno;
  if (number == ENOTDIR) return {};  // a symlink of the user to the folder; both stay
  if (number != ENOTEMPTY && number != EEXIST) return io::system_error(path(), "remove", number);
  // A foreign file, or the lock of a process that was waiting for this moment.
  PARE_TRY(const JobListing left, list());
  if (!left.foreign.empty())
    log_warning(fmt::format("{}: stays, because no job wrote {}", path(), quote(left.foreign)));
  return {};
}

// --- the log -------------------------------------------------------------------------------------------

void JobStore::append_event(std::string line) {
  const std::string shown = path_of(kJobEvents);
  const io::Descriptor file(io::open_at(inside_.folder.get(), kJobEvents,
                                        O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK, 0666, shown));
  if (!file.is_open()) return;
  // A process killed in the middle of a line left it without an end; ours must not continue it.
  if (!std::exchange(has_looked_at_events_, true)) {
    struct stat status {};
    if (io::get_stat(file.get(), status, shown) != 0) return;
    std::array<char, 1> last = {'\n'};
    if (status.st_size > 0 &&
        io::read_at(file.get(), last.data(), 1, static_cast<uint64_t>(status.st_size) - 1, shown) < 0) {
      return;
    }
    if (last[0] != '\n') line.insert(line.begin(), '\n');
  }
  line += '\n';
  std::string_view rest = line;
  while (!rest.empty()) {
    const ssize_t done = io::write_some(file.get(), rest.data(), rest.size(), shown);
    if (done <= 0) return;
    rest.remove_prefix(static_cast<size_t>(done));
  }
}

}  // namespace pare
