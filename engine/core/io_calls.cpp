#include "engine/core/io_calls.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <mutex>

#include "engine/core/file.h"

namespace pare {
namespace {

std::mutex fault_mutex;
std::shared_ptr<const IoFault> fault_hook;  // guarded by fault_mutex
std::atomic<bool> fault_active{false};

}  // namespace

void set_io_fault(IoFault fault) {
  const std::lock_guard lock(fault_mutex);
  fault_active = static_cast<bool>(fault);
  fault_hook = fault ? std::make_shared<const IoFault>(std::move(fault)) : nullptr;
}

}  // namespace pare

namespace pare::io {
namespace {

// A signal that never stops interrupting is an error after this many tries, not a hang.
constexpr int kMaxInterruptions = 1000;

int ask_fault_hook(std::string_view call, const std::string& path) {
  if (!fault_active.load(std::memory_order_relaxed)) return 0;
  std::shared_ptr<const IoFault> hook;
  {
    const std::lock_guard lock(fault_mutex);
    hook = fault_hook;
  }
  return hook ? (*hook)(call, path) : 0;
}

// Makes the call unless the hook fails it; `call(half)` is told when it should transfer less than asked.
template <typename Call>
auto attempt(std::string_view name, const std::string& path, Call call) -> decltype(call(false)) {
  for (int tries = 0;; ++tries) {
    const int fault = ask_fault_hook(name, path);
    decltype(call(false)) result = -1;
    if (fault > 0) {
      errno = fault;
    } else {
      result = call(fault == kShortTransfer);
    }
    if (result >= 0 || errno != EINTR || tries == kMaxInterruptions) return result;
  }
}

size_t transfer_size(size_t size, bool half) {
  return half ? std::max<size_t>(1, size / 2) : size;
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    if (number_ >= 0) ::close(number_);
    number_ = std::exchange(other.number_, -1);
  }
  return *this;
}

Descriptor::~Descriptor() {
  if (number_ >= 0) ::close(number_);
}

int Descriptor::close_checked(const std::string& path) {
  const int number = release();
  const int fault = ask_fault_hook("close", path);
  // Linux frees the descriptor in every case, also on EINTR; closing again would hit somebody else's.
  int result = ::close(number);
  if (result != 0 && errno == EINTR) result = 0;
  if (fault > 0 && fault != EINTR) {
    errno = fault;
    return -1;
  }
  return result;
}

int open_file(const std::string& path, int flags) {
  return attempt("open", path, [&](bool) { return ::open(path.c_str(), flags | O_CLOEXEC); });
}

int open_at(int folder, const std::string& name, int flags, mode_t mode, const std::string& path) {
  return attempt("openat", path,
                 [&](bool) { return ::openat(folder, name.c_str(), flags | O_CLOEXEC, mode); });
}

int open_beneath(int folder, const std::string& name, int flags, const std::string& path) {
  return attempt("openat2", path, [&](bool) {
    open_how how{};
    how.flags = static_cast<unsigned>(flags | O_CLOEXEC);
    how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
    return static_cast<int>(::syscall(SYS_openat2, folder, name.c_str(), &how, sizeof how));
  });
}

int get_stat(int descriptor, struct stat& out, const std::string& path) {
  return attempt("fstat", path, [&](bool) { return ::fstat(descriptor, &out); });
}

int get_stat_at(int folder, const std::string& name, struct stat& out, int flags, const std::string& path) {
  return attempt("fstatat", path, [&](bool) { return ::fstatat(folder, name.c_str(), &out, flags); });
}

int get_free_space(int descriptor, struct statvfs& out, const std::string& path) {
  return attempt("statvfs", path, [&](bool) { return ::fstatvfs(descriptor, &out); });
}

ssize_t read_at(int descriptor, void* out, size_t size, uint64_t offset, const std::string& path) {
  return attempt("pread", path, [&](bool half) {
    return ::pread(descriptor, out, transfer_size(size, half), static_cast<off_t>(offset));
  });
}

ssize_t write_some(int descriptor, const void* bytes, size_t size, const std::string& path) {
  return attempt("write", path,
                 [&](bool half) { return ::write(descriptor, bytes, transfer_size(size, half)); });
}

ssize_t write_at(int descriptor, const void* bytes, size_t size, uint64_t offset, const std::string& path) {
  return attempt("pwrite", path, [&](bool half) {
    return ::pwrite(descriptor, bytes, transfer_size(size, half), static_cast<off_t>(offset));
  });
}

int reserve(int descriptor, uint64_t size, const std::string& path) {
  return attempt(
      "fallocate", path,
      // The size stays: a self-check opens the file before it is cut to its length.
      [&](bool) { return ::fallocate(descriptor, FALLOC_FL_KEEP_SIZE, 0, static_cast<off_t>(size)); });
}

int truncate(int descriptor, uint64_t size, const std::string& path) {
  return attempt("ftruncate", path, [&](bool) { return ::ftruncate(descriptor, static_cast<off_t>(size)); });
}

int set_mode(int descriptor, mode_t mode, const std::string& path) {
  return attempt("fchmod", path, [&](bool) { return ::fchmod(descriptor, mode); });
}

int lock(int descriptor, const std::string& path) {
  return attempt("flock", path, [&](bool) { return ::flock(descriptor, LOCK_EX | LOCK_NB); });
}

int sync(int descriptor, const std::string& path) {
  return attempt("fsync", path, [&](bool) { return ::fsync(descriptor); });
}

int make_folder(int folder, const std::string& name, const std::string& path) {
  return attempt("mkdir", path, [&](bool) { return ::mkdirat(folder, name.c_str(), 0777); });
}

int rename(int folder, const std::string& from, const std::string& to, unsigned flags,
           const std::string& path) {
  return attempt("rename", path, [&](bool) {
    if (flags == 0) return ::renameat(folder, from.c_str(), folder, to.c_str());
    return static_cast<int>(::syscall(SYS_renameat2, folder, from.c_str(), folder, to.c_str(), flags));
  });
}

int link(int folder, const std::string& from, const std::string& to, const std::string& path) {
  return attempt("link", path, [&](bool) { return ::linkat(folder, from.c_str(), folder, to.c_str(), 0); });
}

int unlink(int folder, const std::string& name, int flags, const std::string& path) {
  return attempt("unlink", path, [&](bool) { return ::unlinkat(folder, name.c_str(), flags); });
}

Error system_error(const std::string& path, std::string_view action, int number) {
  const bool resource = number == ENOMEM || number == EMFILE || number == ENFILE;
  // Descriptions of the C library, never translated; in lower case as all of our phrases.
  const char* description = ::strerrordesc_np(number);
  std::string text = description != nullptr ? description : "unknown error";
  if (text[0] >= 'A' && text[0] <= 'Z') text[0] = static_cast<char>(text[0] - 'A' + 'a');
  const char* name = ::strerrorname_np(number);
  return Error{resource ? Exit::resource : Exit::io,
               "",
               path,
               "",
               "cannot " + std::string(action) + ": " + text,
               name != nullptr ? name : std::to_string(number),
               ""};
}

Result<std::vector<std::string>> list_open_folder(int descriptor, const std::string& path) {
  DIR* folder = ::fdopendir(descriptor);
  if (folder == nullptr) {
    const int number = errno;
    ::close(descriptor);
    return system_error(path, "read the directory", number);
  }
  std::vector<std::string> names;
  int failure = 0;
  for (int interruptions = 0;;) {
    errno = std::max(0, ask_fault_hook("readdir", path));
    if (errno == 0) {
      const dirent* entry = ::readdir(folder);
      if (entry != nullptr) {
        const std::string_view name = entry->d_name;
        if (name != "." && name != "..") names.emplace_back(name);
        continue;
      }
    }
    if (errno == EINTR && ++interruptions < kMaxInterruptions) continue;
    failure = errno;
    break;
  }
  ::closedir(folder);
  if (failure != 0) return system_error(path, "read the directory", failure);
  std::sort(names.begin(), names.end());
  return names;
}

std::pair<std::string, std::string> split_path(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return {".", path};
  return {slash == 0 ? "/" : path.substr(0, slash), path.substr(slash + 1)};
}

}  // namespace pare::io
