// engine/core/job_identity.h: is this the job that was interrupted? Internal to core, behind JobFolder.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "engine/core/json.h"

namespace pare {

// Leaves in order, as ("inputs[2].bytes", "17"); strings keep their quotes, so that 1 and "1" differ. Empty
// arrays and objects are leaves.
std::vector<std::pair<std::string, std::string>> flatten_json(const Json& value);

// Exit 8 naming the first leaf of `now` that is not the same in `before`, or of `before` that is gone.
// `path` is the job folder.
Status compare_identities(const Json& now, const Json& before, const std::string& path);

// The error above, also for fields that are compared elsewhere; values as flatten_json() gives them.
Error identity_error(const std::string& path, const std::string& field, const std::string& now,
                     const std::string& before);

}  // namespace pare
