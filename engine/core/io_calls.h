// engine/core/io_calls.h: every system call of the file classes, behind one seam; internal to core.
//
// Each function asks the fault hook of file.h (set_io_fault) first, repeats a call interrupted by a signal,
// and reports failure as the call does: -1 and errno.
#pragma once

#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/core/result.h"

namespace pare::io {

// An open descriptor; closes it without looking at the result, so writers call close_checked() first.
class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();

  int get() const { return number_; }
  bool is_open() const { return number_ >= 0; }
  int release() { return std::exchange(number_, -1); }
  int close_checked(const std::string& path);

 private:
  int number_;
};

// `path` is for the hook only; calls relative to a folder take the name as well.
int open_file(const std::string& path, int flags);
int open_at(int folder, const std::string& name, int flags, mode_t mode, const std::string& path);
int open_beneath(int folder, const std::string& name, int flags,
                 const std::string& path);  // openat2, no symlinks
int get_stat(int descriptor, struct stat& out, const std::string& path);
int get_stat_at(int folder, const std::string& name, struct stat& out, int flags, const std::string& path);
int get_free_space(int descriptor, struct statvfs& out, const std::string& path);
ssize_t read_at(int descriptor, void* out, size_t size, uint64_t offset, const std::string& path);
ssize_t write_some(int descriptor, const void* bytes, size_t size, const std::string& path);
ssize_t write_at(int descriptor, const void* bytes, size_t size, uint64_t offset, const std::string& path);
int reserve(int descriptor, uint64_t size, const std::string& path);
int truncate(int descriptor, uint64_t size, const std::string& path);
int set_mode(int descriptor, mode_t mode, const std::string& path);
int lock(int descriptor, const std::string& path);  // flock, exclusive, without waiting
int sync(int descriptor, const std::string& path);
int make_folder(int folder, const std::string& name, const std::string& path);
int rename(int folder, const std::string& from, const std::string& to, unsigned flags,
           const std::string& path);
int link(int folder, const std::string& from, const std::string& to, const std::string& path);
int unlink(int folder, const std::string& name, int flags, const std::string& path);

// `cannot <action>: no space left on device (got ENOSPC)`. Exit 6 when memory or descriptors ran out, else 5.
Error system_error(const std::string& path, std::string_view action, int number);

// Sorted names in an open folder without "." and ".."; closes the descriptor.
Result<std::vector<std::string>> list_open_folder(int descriptor, const std::string& path);

// The folder and the last component of a path: "a/b" is {"a", "b"}, "b" is {".", "b"}.
std::pair<std::string, std::string> split_path(const std::string& path);

}  // namespace pare::io
