// engine/core/output_lock.cpp: the lock beside an output, and what dead writers left there.
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>

#include "engine/core/hash.h"
#include "engine/core/json.h"
#include "engine/core/limits.h"
#include "engine/core/manifest.h"
#include "engine/core/output_target.h"
#include "engine/core/signals.h"
#include "engine/core/text.h"

namespace pare {
namespace {

constexpr std::string_view kTemporaryPrefix = ".pare-tmp-";

// `.pare-tmp-<8 hex>-`: the same for all temporaries of one output.
std::string prefix_of(const std::string& output_name) {
  return fmt::format("{}{:08x}-", kTemporaryPrefix, static_cast<uint32_t>(xxh3_128(output_name).low));
}

uint64_t random_number() {
  uint64_t value = 0;
  if (::getrandom(&value, sizeof value, 0) == static_cast<ssize_t>(sizeof value)) return value;
  // O_EXCL still decides; this only has to differ from try to try.
  static std::atomic<uint64_t> counter{0};
  const auto now = static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  return now ^ static_cast<uint64_t>(::getpid()) << 40 ^ counter++;
}

Error locked_error(const OutputTarget& target, const std::string& lock_path, int descriptor,
                   const char* held) {
  std::array<char, 32> text{};
  const ssize_t bytes = ::pread(descriptor, text.data(), text.size(), 0);
  const auto pid = parse_uint(std::string_view(text.data(), bytes > 0 ? static_cast<size_t>(bytes) : 0));
  return Error{Exit::locked,
               "RL10",
               target.path,
               quote(lock_path),
               held,
               pid ? "pid " + std::to_string(*pid) : "a held lock",
               ""};
}

}  // namespace

bool is_temporary_name(std::string_view name) {
  return name.starts_with(kTemporaryPrefix);
}

std::string make_temporary_name(const std::string& output_name) {
  return fmt::format("{}{:016x}", prefix_of(output_name), random_number());
}

Result<OutputLock> OutputLock::acquire(const OutputTarget& target) {
  return acquire_named(target, prefix_of(target.name) + "lock", "another process writes this output");
}

Result<OutputLock> OutputLock::acquire_named(const OutputTarget& target, const std::string& name,
                                             const char* held) {
  constexpr int kTries = 100;  // each means that a holder released the lock just now
  const std::string path = target.beside(name);
  for (int tries = 0; tries < kTries; ++tries) {
    OutputLock lock;
    lock.folder_ = io::Descriptor(io::open_at(target.folder.get(), ".", O_RDONLY | O_DIRECTORY, 0, path));
    if (!lock.folder_.is_open()) return io::system_error(target.path, "open the output folder", errno);
    struct stat locked {
    }, named{};
    const bool existed = io::get_stat_at(target.folder.get(), name, named, AT_SYMLINK_NOFOLLOW, path) == 0;
    // Until it is certain that the lock is ours, only a file that we have made is removed again.
    const auto give_up = [&](const char* action) {
      const int number = errno;
      if (!existed) remove_file(target.folder.get(), name, path);
      return io::system_error(target.path, action, number);
    };
    io::Descriptor file(
        io::open_at(target.folder.get(), name, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK, 0666, path));
    if (!file.is_open()) return io::system_error(target.path, "create a lock in the output folder", errno);
    if (io::lock(file.get(), path) != 0) {
      if (errno == EWOULDBLOCK) return locked_error(target, path, file.get(), held);
      return give_up("lock the output");
    }
    if (io::get_stat(file.get(), locked, path) != 0) return give_up("stat the lock");
    // The holder before us may have removed the file that we have just locked.
    if (io::get_stat_at(target.folder.get(), name, named, AT_SYMLINK_NOFOLLOW, path) != 0) {
      if (errno == ENOENT) continue;
      return give_up("stat the lock");
    }
    if (locked.st_dev != named.st_dev || locked.st_ino != named.st_ino) continue;
    lock.file_ = std::move(file);
    lock.name_ = name;
    lock.path_ = path;
    register_temporary(lock.path_.c_str(), /*is_directory=*/false);
    const std::string pid = std::to_string(::getpid());
    const bool written = io::truncate(lock.file_.get(), 0, path) == 0 &&
                         io::write_at(lock.file_.get(), pid.data(), pid.size(), 0, path) >= 0;
    if (!written) return io::system_error(target.path, "write the lock", errno);
    return lock;
  }
  return Error{Exit::locked, "RL10", target.path, quote(path), "lock changes hands without end", "", ""};
}

OutputLock::~OutputLock() {
  if (file_.is_open()) remove_name();
}

void OutputLock::remove_name() {
  // Only once: a file of this name is somebody else's lock from then on.
  if (name_.empty()) return;
  // Removed while it is held: whoever opened it before us sees that the name is gone and starts again.
  remove_file(folder_.get(), name_, path_);
  unregister_temporary(path_.c_str());
  name_.clear();
}

int remove_file(int folder, const std::string& name, const std::string& path) {
  if (io::unlink(folder, name, 0, path) == 0 || errno == ENOENT) return 0;
  return io::unlink(folder, name, 0, path);
}

int remove_flat_folder(int folder, const std::string& name, const std::string& path) {
  const int listed = io::open_at(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, path);
  if (listed < 0) return -1;
  const io::Descriptor inside(io::open_at(listed, ".", O_RDONLY | O_DIRECTORY, 0, path));
  const auto names = io::list_open_folder(listed, path);
  if (!names || !inside.is_open()) return -1;
  for (const std::string& entry : *names) remove_file(inside.get(), entry, path + "/" + entry);
  if (io::unlink(folder, name, AT_REMOVEDIR, path) == 0) return 0;
  return io::unlink(folder, name, AT_REMOVEDIR, path);
}

Status remove_stale_temporaries(const OutputTarget& target) {
  const std::string prefix = prefix_of(target.name);
  const int listed = io::open_at(target.folder.get(), ".", O_RDONLY | O_DIRECTORY, 0, target.path);
  if (listed < 0) return io::system_error(target.path, "open the output folder", errno);
  PARE_TRY(const std::vector<std::string> names, io::list_open_folder(listed, target.path));
  for (const std::string& name : names) {
    if (!name.starts_with(prefix) || name == prefix + "lock") continue;
    const std::string path = target.beside(name);
    const io::Descriptor file(
        io::open_at(target.folder.get(), name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0, path));
    // Whoever lives holds its temporary locked. What cannot be opened or removed stays; it blocks nobody.
    if (!file.is_open() || io::lock(file.get(), path) != 0) continue;
    struct stat status {};
    if (io::get_stat(file.get(), status, path) != 0) continue;
    if (S_ISDIR(status.st_mode)) {
      remove_flat_folder(target.folder.get(), name, path);
    } else if (S_ISREG(status.st_mode)) {
      remove_file(target.folder.get(), name, path);
    }
  }
  return {};
}

Result<std::vector<std::string>> check_only_our_files(const OutputTarget& target) {
  const int listed =
      io::open_at(target.folder.get(), target.name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, target.path);
  if (listed < 0) return io::system_error(target.path, "open the directory", errno);
  PARE_TRY(std::vector<std::string> names, io::list_open_folder(listed, target.path));
  if (names.empty()) return names;

  const auto foreign = [&](const std::string& name, const char* what) {
    return Error{Exit::usage, "CL17", target.path, quote(name), what, "", ""};
  };
  const std::string manifest_path = target.path + "/" + kManifestFileName;
  const auto text = read_text_file(manifest_path, limits::kHeaderBytes);
  if (!text)
    return foreign(names.front(),
                   "--force would delete a file that pare did not write; no manifest lists it");
  const auto manifest = parse_json(*text, manifest_path, {.max_bytes = limits::kHeaderBytes});
  if (!manifest) {
    return foreign(kManifestFileName,
                   "--force needs the list of files in the old manifest, which is damaged");
  }
  std::vector<std::string> ours = {kManifestFileName};
  if (const Json* files = manifest->find("files"); files != nullptr && files->is_array()) {
    for (const Json& file : files->items()) {
      if (const Json* name = file.find("name"); name != nullptr && name->is_string())
        ours.push_back(name->as_string());
    }
  }
  std::sort(ours.begin(), ours.end());
  for (const std::string& name : names) {
    if (!std::binary_search(ours.begin(), ours.end(), name)) {
      return foreign(name, "--force would delete a file that pare did not write; move it away");
    }
  }
  return names;
}

}  // namespace pare
