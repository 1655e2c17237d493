// cli/libraries.h: the third-party libraries in this program and their versions.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace pare::cli {

std::vector<std::pair<std::string, std::string>> library_versions();

}  // namespace pare::cli
