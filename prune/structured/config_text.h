// prune/structured/config_text.h: config.json of a model that was cut.
#pragma once

#include <string>

#include "prune/structured/units.h"

namespace pare {

// New ids by old id; -1: gone.
std::vector<int32_t> new_ids(const std::vector<int64_t>& kept, int64_t count);

// Ids under "bos_token_id", "eos_token_id" and the like in any JSON file of a checkpoint, and lists of
// suppressed tokens. Ids that are gone become null, or leave their list.
void renumber_token_ids(Json& json, const std::vector<int32_t>& ids);

// The config of `source` with the sizes of what is kept: only keys whose value changes are touched, and those
// that were implied by another size are written out (head_dim, num_key_value_heads, layer_types). The
// original text when nothing changes.
std::string cut_config_text(const WeightSource& source, const ModelDescription& model, const KeptUnits& kept);

}  // namespace pare
