// formats/asset_files.h: the files of a model folder that travel with it unchanged; internal to formats.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine/core/result.h"
#include "engine/models/weight_source.h"

namespace pare {

// Whether a file of that name is carried along: tokenizer, generation settings, chat template, licence. Not
// README.md.
bool is_asset_name(std::string_view name);

// Reads the assets of a folder, sorted by name, and checks that those which are JSON parse (CF15) and that
// chat templates keep their cap (TK18). They are bytes to us; templates are never evaluated.
Result<std::vector<Asset>> read_assets(const std::string& folder, bool follow_symlinks);

// The same checks for assets from another place; `path` is prefixed to their names in messages.
Status check_asset(const Asset& asset, const std::string& path);

}  // namespace pare
