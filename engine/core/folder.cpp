#include "engine/core/folder.h"

#include <filesystem>
#include <system_error>

namespace pare {

Status make_folders(const std::string& path) {
  std::error_code failure;
  std::filesystem::create_directories(path, failure);
  if (!failure) return {};
  return Error{.exit = Exit::io,
               .rule = {},
               .path = path,
               .where = {},
               .what = "cannot make the folder",
               .got = failure.message(),
               .limit = {}};
}

}  // namespace pare
