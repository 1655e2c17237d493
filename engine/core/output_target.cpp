#include "engine/core/output_target.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <tuple>

#include "engine/core/limits.h"
#include "engine/core/text.h"

namespace pare {
namespace {

Error usage_error(const char* rule, const std::string& path, const char* what, std::string got = {}) {
  return Error{Exit::usage, rule, path, "", what, std::move(got), ""};
}

std::pair<uint64_t, uint64_t> identity_of(const struct stat& status) {
  return {status.st_dev, status.st_ino};
}

bool is_input(const struct stat& status, const WriteOptions& options) {
  return std::find(options.inputs.begin(), options.inputs.end(), identity_of(status)) != options.inputs.end();
}

// The output itself through any links, and every folder above it.
Status check_not_an_input(const OutputTarget& target, const WriteOptions& options) {
  if (options.inputs.empty()) return {};
  struct stat status {};
  if (io::get_stat_at(target.folder.get(), target.name, status, 0, target.path) == 0 &&
      is_input(status, options)) {
    return usage_error("CL01", target.path, "output is an input; choose another name");
  }
  io::Descriptor above;
  int current = target.folder.get();
  std::optional<std::pair<uint64_t, uint64_t>> below;
  for (;;) {
    if (io::get_stat(current, status, target.path) != 0) return io::system_error(target.path, "stat", errno);
    if (is_input(status, options)) {
      return usage_error("CL01", target.path, "output lies inside an input; choose another folder");
    }
    if (below == identity_of(status)) return {};  // the root is its own parent
    below = identity_of(status);
    io::Descriptor parent(io::open_at(current, "..", O_PATH | O_DIRECTORY, 0, target.path));
    if (!parent.is_open()) return {};  // not ours to see; nothing above can be compared
    above = std::move(parent);
    current = above.get();
  }
}

Status check_free_space(const OutputTarget& target, uint64_t expected_bytes) {
  if (expected_bytes == 0) return {};
  struct statvfs status {};
  if (io::get_free_space(target.folder.get(), status, target.path) != 0) {
    return io::system_error(target.path, "read the free space", errno);
  }
  const uint64_t available = static_cast<uint64_t>(status.f_bavail) * status.f_frsize;
  const uint64_t need = expected_bytes + expected_bytes / 20;  // 1.05 x
  if (available >= need) return {};
  return Error{Exit::io,
               "CL04",
               target.path,
               "free space",
               "not enough for the estimated output",
               format_bytes(available),
               format_bytes(need),
               "need"};
}

}  // namespace

Result<OutputTarget> OutputTarget::open(const std::string& path) {
  std::string trimmed = path;
  while (trimmed.size() > 1 && trimmed.ends_with('/')) trimmed.pop_back();
  OutputTarget target;
  target.path = path;
  std::tie(target.folder_path, target.name) = io::split_path(trimmed);
  if (target.name.empty() || target.name == "." || target.name == ".." ||
      path.find('\0') != std::string::npos) {
    return usage_error("CL03", path, "not the name of an output");
  }
  if (path.size() > limits::kPathBytes || target.name.size() > limits::kPathComponentBytes) {
    Error error = usage_error("CL03", quote(path), "output name is too long");
    const bool whole = path.size() > limits::kPathBytes;
    error.got = std::to_string(whole ? path.size() : target.name.size());
    error.limit = std::to_string(whole ? limits::kPathBytes : limits::kPathComponentBytes);
    return error;
  }
  if (is_temporary_name(target.name))
    return usage_error("CL03", path, "name is reserved for temporary files");
  target.folder = io::Descriptor(io::open_file(target.folder_path, O_RDONLY | O_DIRECTORY));
  if (!target.folder.is_open()) {
    Error error = io::system_error(path, "open the output folder", errno);
    error.rule = "CL03";
    return error;
  }
  return target;
}

Result<std::optional<struct stat>> OutputTarget::existing() const {
  struct stat status {};
  if (io::get_stat_at(folder.get(), name, status, AT_SYMLINK_NOFOLLOW, path) == 0)
    return std::optional(status);
  if (errno == ENOENT) return std::optional<struct stat>();
  return io::system_error(path, "stat", errno);
}

Error exists_error(const std::string& path) {
  return usage_error("CL02", path, "output exists; --force replaces it");
}

Status check_target(const OutputTarget& target, const WriteOptions& options, TargetKind kind) {
  PARE_CHECK(check_not_an_input(target, options));
  PARE_TRY(const auto existing, target.existing());
  if (existing) {
    if (!options.force) return exists_error(target.path);
    const bool folder = S_ISDIR(existing->st_mode);
    if (folder && kind == TargetKind::file) return usage_error("CL02", target.path, "output is a directory");
    if (!folder && kind == TargetKind::folder)
      return usage_error("CL02", target.path, "output is not a directory");
    if (!folder && !S_ISREG(existing->st_mode) && !S_ISLNK(existing->st_mode)) {
      return usage_error("CL02", target.path, "output is a device or another special file");
    }
    if (folder) {
      PARE_TRY(const auto ours, check_only_our_files(target));
      (void)ours;
    }
  }
  if (::faccessat(target.folder.get(), ".", W_OK | X_OK, AT_EACCESS) != 0) {
    Error error = io::system_error(target.path, "write into the output folder", errno);
    error.rule = "CL03";
    return error;
  }
  return check_free_space(target, options.expected_bytes);
}

Status check_output(const std::string& path, const WriteOptions& options) {
  PARE_TRY(const OutputTarget target, OutputTarget::open(path));
  return check_target(target, options, TargetKind::any);
}

}  // namespace pare
