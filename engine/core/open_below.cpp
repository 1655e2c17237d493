// engine/core/open_below.cpp: path containment, docs/bad-input.md rules IX01 to IX04.
//
// The kernel resolves the name (openat2 with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS), or we walk it with
// O_NOFOLLOW component by component. Strings are checked only for what they are, never compared with a
// folder's path.
#include "engine/core/open_below.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "engine/core/io_calls.h"
#include "engine/core/limits.h"
#include "engine/core/printable.h"
#include "engine/core/text.h"

namespace pare {
namespace {

std::vector<std::string> split_components(std::string_view path) {
  std::vector<std::string> parts;
  for (;;) {
    const size_t slash = path.find('/');
    parts.emplace_back(path.substr(0, slash));
    if (slash == std::string_view::npos) return parts;
    path.remove_prefix(slash + 1);
  }
}

std::string join_components(std::span<const std::string> parts) {
  std::string path;
  for (const std::string& part : parts) path += (path.empty() ? "" : "/") + part;
  return path;
}

// What is wrong with a name that came from a file, or an empty text.
const char* fault_of_name(std::string_view name, const char*& rule) {
  rule = "IX19";
  std::string printable;
  append_printable(printable, name, Backslash::kept, std::string::npos);
  if (name.find('\0') == std::string_view::npos && printable != name)
    return "file name with control characters";
  if (name.size() > limits::kPathBytes) return "file name is too long";
  const std::vector<std::string> parts = split_components(name);
  if (std::any_of(parts.begin(), parts.end(),
                  [](const std::string& p) { return p.size() > limits::kPathComponentBytes; })) {
    return "file name is too long";
  }
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const bool drive = name.size() >= 2 && is_letter(name[0]) && name[1] == ':';
  const bool odd_part = std::any_of(parts.begin(), parts.end(),
                                    [](const std::string& p) { return p.empty() || p == "." || p == ".."; });
  rule = std::find(parts.begin(), parts.end(), "..") != parts.end() ? "IX01" : "IX02";
  const bool odd_byte =
      name.find('\\') != std::string_view::npos || name.find('\0') != std::string_view::npos;
  return drive || odd_part || odd_byte ? "leaves the model directory" : "";
}

// openat2 for kernels and containers that lack it. A symlink anywhere gives ELOOP, as there.
int walk_beneath(int root, const std::string& name, int flags, const std::string& shown) {
  const std::vector<std::string> parts = split_components(name);
  io::Descriptor folder;
  int current = root;
  for (size_t i = 0; i < parts.size(); ++i) {
    const bool last = i + 1 == parts.size();
    const int next =
        io::open_at(current, parts[i], (last ? flags : O_RDONLY | O_DIRECTORY) | O_NOFOLLOW, 0, shown);
    if (next < 0) {
      const int number = errno;
      struct stat status {};
      const bool link = io::get_stat_at(current, parts[i], status, AT_SYMLINK_NOFOLLOW, shown) == 0 &&
                        S_ISLNK(status.st_mode);
      errno = link ? ELOOP : number;
      return -1;
    }
    if (last) return next;
    folder = io::Descriptor(next);
    current = next;
  }
  errno = ENOENT;
  return -1;
}

int open_without_symlinks(int root, const std::string& name, int flags, const std::string& shown) {
  int descriptor = -1;
  // EAGAIN: something was renamed meanwhile and the kernel could not be sure; a few repetitions settle it.
  for (int tries = 0; tries < 10; ++tries) {
    descriptor = io::open_beneath(root, name, flags, shown);
    if (descriptor >= 0 || errno != EAGAIN) break;
  }
  if (descriptor < 0 && (errno == ENOSYS || errno == EPERM)) return walk_beneath(root, name, flags, shown);
  return descriptor;
}

bool is_same_file(int a, int b, const std::string& shown) {
  struct stat first {
  }, second{};
  return io::get_stat(a, first, shown) == 0 && io::get_stat(b, second, shown) == 0 &&
         first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

// Target of the symlink `name`; empty if it is none.
std::string read_link(int folder, const std::string& name) {
  std::array<char, 4096> target{};
  const ssize_t bytes = ::readlinkat(folder, name.c_str(), target.data(), target.size());
  return bytes > 0 ? std::string(target.data(), static_cast<size_t>(bytes)) : std::string();
}

// A Hugging Face cache holds `<repo>/snapshots/<rev>/<name> -> ../../blobs/<hash>`. Follows that link, from
// the repository folder and without any other symlink; -1 and ELOOP when this is not such a link.
int open_cache_blob(int root, const std::string& name, const std::string& shown) {
  errno = ELOOP;
  const io::Descriptor snapshots(io::open_at(root, "..", O_RDONLY | O_DIRECTORY, 0, shown));
  const io::Descriptor repository(io::open_at(root, "../..", O_RDONLY | O_DIRECTORY, 0, shown));
  if (!snapshots.is_open() || !repository.is_open()) return -1;
  const io::Descriptor named(
      io::open_at(repository.get(), "snapshots", O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0, shown));
  errno = ELOOP;
  if (!named.is_open() || !is_same_file(named.get(), snapshots.get(), shown)) return -1;

  std::vector<std::string> parts = split_components(name);
  const std::string last = parts.back();
  parts.pop_back();
  io::Descriptor folder;
  if (!parts.empty()) {
    folder =
        io::Descriptor(open_without_symlinks(root, join_components(parts), O_RDONLY | O_DIRECTORY, shown));
    if (!folder.is_open()) return -1;
  }
  const std::string target = read_link(parts.empty() ? root : folder.get(), last);
  const std::vector<std::string> steps = split_components(target);
  // As many ".." as lead from the link's folder to the repository, then blobs/<hash>, nothing else.
  const size_t up = parts.size() + 2;
  errno = ELOOP;
  if (steps.size() != up + 2 || steps[up] != "blobs") return -1;
  if (!std::all_of(steps.begin(), steps.begin() + static_cast<ptrdiff_t>(up),
                   [](const std::string& s) { return s == ".."; })) {
    return -1;
  }
  const std::string& hash = steps.back();
  if (hash.empty() || hash == "." || hash == "..") return -1;
  return open_without_symlinks(repository.get(), "blobs/" + hash, kInputFlags, shown);
}

Error symlink_error(int root, const std::string& name, const std::string& shown) {
  struct stat status {};
  if (io::get_stat_at(root, name, status, 0, shown) != 0 && errno == ELOOP) {
    Error error = io::system_error(shown, "open", ELOOP);
    error.rule = "IX04";
    return error;
  }
  const std::unique_ptr<char, decltype(&std::free)> resolved(::realpath(shown.c_str(), nullptr), &std::free);
  std::string target = resolved ? resolved.get() : read_link(root, name);
  return Error{
      Exit::malformed, "IX03", shown, "", "symlink leads out of the model directory; see --follow-symlinks",
      quote(target),   ""};
}

}  // namespace

Result<int> open_descriptor_below(const std::string& root, const std::string& name, const std::string& shown,
                                  bool follow_symlinks) {
  const char* rule = nullptr;
  if (const char* fault = fault_of_name(name, rule); *fault != '\0') {
    return Error{Exit::malformed, rule, root, "", fault, quote(name), ""};
  }
  const io::Descriptor folder(io::open_file(root, O_RDONLY | O_DIRECTORY));
  if (!folder.is_open()) return io::system_error(root, "open the directory", errno);
  if (follow_symlinks) {
    const int descriptor = io::open_at(folder.get(), name, kInputFlags, 0, shown);
    if (descriptor < 0) return io::system_error(shown, "open", errno);
    return descriptor;
  }
  int descriptor = open_without_symlinks(folder.get(), name, kInputFlags, shown);
  if (descriptor < 0 && errno == ELOOP) {
    descriptor = open_cache_blob(folder.get(), name, shown);
    if (descriptor < 0 && errno == ELOOP) return symlink_error(folder.get(), name, shown);
  }
  if (descriptor < 0) return io::system_error(shown, "open", errno);
  return descriptor;
}

}  // namespace pare
