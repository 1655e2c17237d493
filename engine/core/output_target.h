// engine/core/output_target.h: what FileWriter and DirWriter share before the first byte: the folder, the
// checks, the lock and the name of the temporary (docs/methods.md); internal to core.
#pragma once

#include <sys/stat.h>

#include <optional>
#include <string>
#include <utility>

#include "engine/core/file.h"
#include "engine/core/io_calls.h"

namespace pare {

// Where an output will appear. All later calls go through the descriptor of the folder, so that renaming a
// parent meanwhile cannot move the output elsewhere.
struct OutputTarget {
  std::string path;  // as the user gave it
  std::string folder_path;
  std::string name;  // last component
  io::Descriptor folder;

  static Result<OutputTarget> open(const std::string& path);

  std::string beside(const std::string& other_name) const { return folder_path + "/" + other_name; }
  // What is under the name now, links not followed; nothing when the name is free.
  Result<std::optional<struct stat>> existing() const;
};

enum class TargetKind { file, folder, any };

// CL01, CL02, CL17, CL03, CL04, in this order.
Status check_target(const OutputTarget& target, const WriteOptions& options, TargetKind kind);

Error exists_error(const std::string& path);

// Holds `.pare-tmp-<8 hex>-lock` beside the output; exit 8 at once when somebody else does. The file is
// removed on release; one left by a dead process does not block.
class OutputLock {
 public:
  static Result<OutputLock> acquire(const OutputTarget& target);
  // The same with a file of another name in the folder; `held` says what somebody else does, for the error.
  static Result<OutputLock> acquire_named(const OutputTarget& target, const std::string& name,
                                          const char* held);
  OutputLock() = default;
  OutputLock(OutputLock&&) noexcept = default;
  OutputLock& operator=(OutputLock&&) noexcept = default;
  ~OutputLock();

  // Removes the file now, so that its folder can go; the lock itself is held on.
  void remove_name();

 private:
  io::Descriptor folder_;
  io::Descriptor file_;
  std::string name_, path_;  // empty once the file is removed
};

// `.pare-tmp-<8 hex of the output name>-<16 hex random>`
std::string make_temporary_name(const std::string& output_name);

// Removes temporaries of this output that no living process holds. Needs the output lock.
Status remove_stale_temporaries(const OutputTarget& target);

// Removes a flat folder or a file; a failed unlink is tried once more. Returns 0 or -1 and errno.
int remove_file(int folder, const std::string& name, const std::string& path);
int remove_flat_folder(int folder, const std::string& name, const std::string& path);

// Names in a folder that its own manifest does not list; exit 2 naming the first (CL17), else all names.
Result<std::vector<std::string>> check_only_our_files(const OutputTarget& target);

}  // namespace pare
