// engine/core/folder.h: folders of our own, below the user's cache folder. Outputs never make folders.
#pragma once

#include <string>

#include "engine/core/result.h"

namespace pare {

// Makes a folder and those above it that are missing. Exit 5.
Status make_folders(const std::string& path);

}  // namespace pare
