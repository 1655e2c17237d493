#include "tests/support/shared_data.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>

namespace pare::test {
namespace {

std::string shared_root() {
  const char* variable = std::getenv("PARE_SHARED_DATA");
  return variable != nullptr ? variable : PARE_SHARED_DATA_DEFAULT;
}

// One folder per process; its destructor runs at exit.
struct TemporaryRoot {
  std::filesystem::path path;
  explicit TemporaryRoot(const std::filesystem::path& parent) {
    std::string pattern = (parent / "pare-test-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) std::abort();
    path = pattern;
  }
  ~TemporaryRoot() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }

  std::string next_folder() {
    const std::filesystem::path folder = path / std::to_string(counter++);
    std::filesystem::create_directories(folder);
    return folder.string();
  }

  std::atomic<int> counter{0};
};

}  // namespace

std::optional<std::string> shared_data(const std::string& relative) {
  const std::filesystem::path path = std::filesystem::path(shared_root()) / relative;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::nullopt;
  return path.string();
}

std::string source_path(const std::string& relative) {
  return (std::filesystem::path(PARE_SOURCE_DIR) / relative).string();
}

std::string temporary_folder() {
  static TemporaryRoot root(std::filesystem::temp_directory_path());
  return root.next_folder();
}

std::string memory_folder() {
  const char* memory = "/dev/shm";
  if (::access(memory, W_OK | X_OK) != 0) return temporary_folder();
  static TemporaryRoot root(memory);
  return root.next_folder();
}

}  // namespace pare::test
