// evaluate/damage_json.h: a damage report as JSON and back. Schema: docs/report.md.
#pragma once

#include <string_view>

#include "engine/core/json.h"
#include "evaluate/damage_report.h"

namespace pare {

Json to_json(const DamageReport& report);
// `where`: in front of field names in messages. Exit 3 (RP02 to RP04).
Result<DamageReport> damage_from_json(const Json& json, std::string_view path, const std::string& where);

}  // namespace pare
