#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "engine/core/file.h"
#include "engine/core/io_calls.h"
#include "engine/core/open_below.h"
#include "engine/core/signals.h"

namespace pare {
namespace {

const char* kind_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFDIR:
      return "directory";
    case S_IFIFO:
      return "FIFO";
    case S_IFSOCK:
      return "socket";
    case S_IFCHR:
      return "character device";
    case S_IFBLK:
      return "block device";
    default:
      return "special file";
  }
}

Error changed_error(const std::string& path, const char* what, const std::string& got,
                    const std::string& expected) {
  return Error{Exit::io, "IX14",   path,      what, "input changed while it was being read",
               got,      expected, "expected"};
}

}  // namespace

Result<InputFile> InputFile::open(const std::string& path, const std::string& shown_path) {
  const std::string& shown = shown_path.empty() ? path : shown_path;
  // A path with a NUL would silently name another file.
  if (path.find('\0') != std::string::npos) return io::system_error(shown, "open", ENOENT);
  const int descriptor = io::open_file(path, kInputFlags);
  if (descriptor < 0) return io::system_error(shown, "open", errno);
  return adopt(descriptor, shown);
}

Result<InputFile> InputFile::open_below(const std::string& root, const std::string& name,
                                        bool follow_symlinks) {
  const std::string shown = root.ends_with('/') ? root + name : root + "/" + name;
  PARE_TRY(const int descriptor, open_descriptor_below(root, name, shown, follow_symlinks));
  return adopt(descriptor, shown);
}

Result<InputFile> InputFile::adopt(int descriptor, const std::string& shown_path) {
  InputFile file;
  file.shown_path_ = shown_path;
  file.descriptor_ = descriptor;
  struct stat status {};
  if (io::get_stat(descriptor, status, shown_path) != 0) return io::system_error(shown_path, "stat", errno);
  if (!S_ISREG(status.st_mode)) {
    return Error{Exit::malformed, "IX05", shown_path, "", "not a regular file", kind_of(status.st_mode), ""};
  }
  file.size_ = static_cast<uint64_t>(status.st_size);
  file.device_ = status.st_dev;
  file.inode_ = status.st_ino;
  file.mtime_seconds_ = status.st_mtim.tv_sec;
  file.mtime_nanoseconds_ = status.st_mtim.tv_nsec;
  return file;
}

InputFile::InputFile(InputFile&& other) noexcept {
  *this = std::move(other);
}

InputFile& InputFile::operator=(InputFile&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  shown_path_.swap(other.shown_path_);
  size_ = other.size_, device_ = other.device_, inode_ = other.inode_;
  mtime_seconds_ = other.mtime_seconds_, mtime_nanoseconds_ = other.mtime_nanoseconds_;
  return *this;
}

InputFile::~InputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status InputFile::read_at(uint64_t offset, std::span<std::byte> out) const {
  size_t done = 0;
  while (done < out.size()) {
    const ssize_t bytes =
        io::read_at(descriptor_, out.data() + done, out.size() - done, offset + done, shown_path_);
    if (bytes < 0) return io::system_error(shown_path_, "read", errno);
    if (bytes == 0) {
      return changed_error(shown_path_, "size", std::to_string(offset + done) + " bytes",
                           std::to_string(offset + out.size()) + " bytes");
    }
    done += static_cast<size_t>(bytes);
  }
  return {};
}

Result<std::string> InputFile::read_all(uint64_t max_bytes) const {
  if (size_ > max_bytes) {
    return Error{Exit::resource,
                 "",
                 shown_path_,
                 "file size",
                 "larger than the limit",
                 std::to_string(size_),
                 std::to_string(max_bytes)};
  }
  std::string text(static_cast<size_t>(size_), '\0');
  PARE_CHECK(read_at(0, std::as_writable_bytes(std::span(text))));
  PARE_CHECK(check_unchanged());
  return text;
}

Status InputFile::check_unchanged() const {
  struct stat status {};
  if (io::get_stat(descriptor_, status, shown_path_) != 0)
    return io::system_error(shown_path_, "stat", errno);
  if (static_cast<uint64_t>(status.st_size) != size_) {
    return changed_error(shown_path_, "size", std::to_string(status.st_size), std::to_string(size_));
  }
  if (status.st_mtim.tv_sec != mtime_seconds_ || status.st_mtim.tv_nsec != mtime_nanoseconds_) {
    return changed_error(shown_path_, "mtime", std::to_string(status.st_mtim.tv_sec),
                         std::to_string(mtime_seconds_));
  }
  if (status.st_dev != device_ || status.st_ino != inode_) {
    return changed_error(shown_path_, "inode", std::to_string(status.st_ino), std::to_string(inode_));
  }
  return {};
}

Result<std::shared_ptr<const MappedFile>> MappedFile::map(const InputFile& file) {
  const std::shared_ptr<MappedFile> mapped(new MappedFile);
  mapped->path_ = file.path();
  if (file.size() == 0) return std::shared_ptr<const MappedFile>(mapped);
  void* data = ::mmap(nullptr, file.size(), PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (data == MAP_FAILED) return io::system_error(file.path(), "map", errno);
  mapped->data_ = static_cast<const std::byte*>(data);
  mapped->size_ = file.size();
  register_mapping(mapped->data_, mapped->size_, mapped->path_.c_str());
  // Cut between open and map: the mapping would end behind the file.
  PARE_CHECK(file.check_unchanged());
  return std::shared_ptr<const MappedFile>(mapped);
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  unregister_mapping(data_);
  ::munmap(const_cast<std::byte*>(data_), size_);
}

namespace {

// Hints only: an error changes speed, not results.
void advise(std::span<const std::byte> bytes, uint64_t offset, uint64_t size, int advice,
            bool whole_pages_only) {
  if (offset >= bytes.size()) return;
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const uint64_t end = offset + std::min<uint64_t>(size, bytes.size() - offset);
  const uint64_t first = whole_pages_only ? (offset + page - 1) / page * page : offset / page * page;
  const uint64_t last = whole_pages_only && end != bytes.size() ? end / page * page : end;
  if (first < last) ::madvise(const_cast<std::byte*>(bytes.data()) + first, last - first, advice);
}

}  // namespace

void MappedFile::will_need(uint64_t offset, uint64_t size) const {
  advise(bytes(), offset, size, MADV_WILLNEED, /*whole_pages_only=*/false);
}

// A page that other tensors share stays.
void MappedFile::drop(uint64_t offset, uint64_t size) const {
  advise(bytes(), offset, size, MADV_DONTNEED, /*whole_pages_only=*/true);
}

void read_ahead(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<uintptr_t>(bytes.data()), begin = first / page * page;
  ::madvise(reinterpret_cast<void*>(begin), first - begin + bytes.size(), MADV_WILLNEED);
}

Result<std::string> read_text_file(const std::string& path, uint64_t max_bytes) {
  PARE_TRY(const InputFile file, InputFile::open(path));
  return file.read_all(max_bytes);
}

bool path_exists(const std::string& path) {
  struct stat status {};
  return io::get_stat_at(AT_FDCWD, path, status, 0, path) == 0;
}

bool is_directory(const std::string& path) {
  struct stat status {};
  return io::get_stat_at(AT_FDCWD, path, status, 0, path) == 0 && S_ISDIR(status.st_mode);
}

Result<std::vector<std::string>> list_directory(const std::string& path) {
  const int descriptor = io::open_file(path, O_RDONLY | O_DIRECTORY);
  if (descriptor < 0) return io::system_error(path, "open the directory", errno);
  return io::list_open_folder(descriptor, path);
}

}  // namespace pare
