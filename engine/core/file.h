// engine/core/file.h: reading files, and the only code that creates them.
//
// Reading never trusts a size twice: an InputFile remembers size, mtime and inode at open and reports a
// change (exit 5). Writing follows docs/methods.md: a temporary beside the final name, checksums from
// memory, fsync, rename without replacing, fsync of the folder. The final name never holds a half-written
// file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/core/result.h"

namespace pare {

// --- reading -------------------------------------------------------------------------------------------

// A regular file opened for reading with pread. Opened with O_NONBLOCK, so a FIFO gives an error, not a hang.
class InputFile {
 public:
  // `shown_path` is what error messages print; empty means `path`.
  static Result<InputFile> open(const std::string& path, const std::string& shown_path = {});
  // Opens `name` below the directory `root` without leaving it: no "..", no absolute path, symlinks only
  // when `follow_symlinks`, or when they lead from a Hugging Face snapshot into the `blobs/` folder of the
  // same cache repository. Rules IX01 to IX06.
  static Result<InputFile> open_below(const std::string& root, const std::string& name, bool follow_symlinks);

  InputFile(InputFile&&) noexcept;
  InputFile& operator=(InputFile&&) noexcept;
  ~InputFile();

  uint64_t size() const { return size_; }
  const std::string& path() const { return shown_path_; }
  int descriptor() const { return descriptor_; }

  // Fills the whole span from `offset`; short files and read errors are exit 5.
  Status read_at(uint64_t offset, std::span<std::byte> out) const;
  Result<std::string> read_all(uint64_t max_bytes) const;  // exit 6 above the cap
  // Exit 5 if size, mtime or inode changed since open.
  Status check_unchanged() const;
  // Device and inode, to compare an output with its inputs.
  std::pair<uint64_t, uint64_t> identity() const { return {device_, inode_}; }

 private:
  InputFile() = default;
  static Result<InputFile> adopt(int descriptor, const std::string& shown_path);
  std::string shown_path_;
  int descriptor_ = -1;
  uint64_t size_ = 0, device_ = 0, inode_ = 0;
  int64_t mtime_seconds_ = 0, mtime_nanoseconds_ = 0;
};

// Read-only mapping of a whole validated file. A truncation by somebody else while mapped ends the process
// with one error line and exit 5 (SIGBUS handler of signals.h), never with a crash.
class MappedFile {
 public:
  static Result<std::shared_ptr<const MappedFile>> map(const InputFile& file);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  // Hints: read soon, or drop these pages from memory (they come back from disk when touched).
  void will_need(uint64_t offset, uint64_t size) const;
  void drop(uint64_t offset, uint64_t size) const;

 private:
  MappedFile() = default;
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Hint for bytes of a mapping whose file is not at hand: the kernel begins to read the pages around them.
// Memory of other kinds stays as it is.
void read_ahead(std::span<const std::byte> bytes);

// Whole small file as text; exit 6 above the cap.
Result<std::string> read_text_file(const std::string& path, uint64_t max_bytes);
bool path_exists(const std::string& path);
bool is_directory(const std::string& path);
// Sorted names without "." and ".."; exit 5.
Result<std::vector<std::string>> list_directory(const std::string& path);

// --- writing -------------------------------------------------------------------------------------------

struct WriteOptions {
  bool force = false;           // replace an existing output
  uint64_t expected_bytes = 0;  // reserved up front and compared with the free space; 0 = unknown
  std::vector<std::pair<uint64_t, uint64_t>> inputs = {};  // identities that must not be overwritten (CL01)
};

// Checks everything about an output that can be known before the work: exists without --force (2), is an
// input (2), folder missing or read-only (5), free space (5).
Status check_output(const std::string& path, const WriteOptions& options);

// One output file; nothing appears under its name before publish(), nothing remains if it is not called.
class FileWriter {
 public:
  static Result<FileWriter> create(const std::string& path, const WriteOptions& options);
  FileWriter(FileWriter&&) noexcept;
  FileWriter& operator=(FileWriter&&) noexcept;
  ~FileWriter();

  Status write(std::span<const std::byte> bytes);
  Status write(std::string_view text) { return write(std::as_bytes(std::span(text.data(), text.size()))); }
  // Writes zeros up to the next multiple of `alignment`.
  Status pad_to(uint64_t alignment);
  // Overwrites bytes already written (headers whose content is known last).
  Status write_at(uint64_t offset, std::span<const std::byte> bytes);
  // Reads back what was written, for self-checks before publishing.
  Status read_back(uint64_t offset, std::span<std::byte> out) const;
  uint64_t position() const;
  // Path of the temporary, so that a reader can re-open it for the self-check. Hands all bytes to the kernel
  // first; an error of that is reported by the next call that returns a Status.
  const std::string& temporary_path() const;

  // fsync, rename, fsync of the folder. Exit 0 of the program is only printed after this.
  Status publish();

 private:
  friend class DirWriter;
  friend class JobStore;  // job_store.h
  struct State;
  explicit FileWriter(std::unique_ptr<State> state);
  Status open_temporary(uint64_t expected_bytes);
  std::unique_ptr<State> state_;
};

// A model directory without subfolders, built whole beside its final name and published by one rename (swap
// with
// --force).
class DirWriter {
 public:
  static Result<DirWriter> create(const std::string& path, const WriteOptions& options);
  DirWriter(DirWriter&&) noexcept;
  DirWriter& operator=(DirWriter&&) noexcept;
  ~DirWriter();

  // A file inside the directory; its publish() makes it final within the unpublished directory.
  Result<FileWriter> file(const std::string& name, uint64_t expected_bytes = 0);
  // Small file in one go.
  Status add(const std::string& name, std::string_view content);
  // Renames a published file of the unpublished directory; for shards, whose number is known last.
  Status rename(const std::string& from, const std::string& to);
  const std::string& temporary_path() const;
  // Exit 2 when the folder to be replaced holds files that its manifest does not list (CL17).
  Status publish();

 private:
  struct State;
  explicit DirWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Name under which an unfinished output is written; rejected as an input (PK14).
bool is_temporary_name(std::string_view name);

// --- the seam below both -------------------------------------------------------------------------------

// Test seam: called before each system call of the classes above with its name ("pread", "write", "fsync",
// "rename", ...). A non-zero return is the errno that the call then fails with (without being made);
// kShortTransfer makes a read or write do half.
inline constexpr int kShortTransfer = -1;
using IoFault = std::function<int(std::string_view call, const std::string& path)>;
void set_io_fault(IoFault fault);  // empty function: none

}  // namespace pare
