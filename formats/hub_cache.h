// formats/hub_cache.h: models that another program left in the local Hugging Face cache; internal to formats.
#pragma once

#include <optional>
#include <string>

#include "engine/core/result.h"

namespace pare {

struct HubName {
  std::string repository;  // "org/name"
  std::string revision;    // branch, tag or commit; "main" when not given
};

// Reads org/name[@revision]; nothing when `text` does not look like one.
std::optional<HubName> parse_hub_name(const std::string& text);

// The snapshot folder of the revision: refs/<revision> names a commit, or the revision is one. Searched in
// HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub. IX20 (exit 5) with the path searched when it
// is not there.
Result<std::string> find_in_hub_cache(const HubName& name);

}  // namespace pare
