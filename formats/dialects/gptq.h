// formats/dialects/gptq.h: GPTQ checkpoints, v1 and v2 (AutoGPTQ, GPTQModel); internal to formats. Layout:
// docs/interop.md.
#pragma once

#include "formats/dialects/dialect.h"

namespace pare {

Result<Translation> read_gptq(const DialectInput& input);
Result<DialectPlan> plan_gptq(const DialectTarget& target);

}  // namespace pare
